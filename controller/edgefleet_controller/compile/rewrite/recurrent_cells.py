"""One step of an LSTM, GRU or RNN as plain operators: gates, activations, clipping, peepholes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.rewrite.graph import Builder, attribute

GATES_N = {"LSTM": 4, "GRU": 3, "RNN": 1}
_USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_PLAIN = frozenset({"Relu", "Sigmoid", "Softplus", "Softsign", "Tanh"})
_DEFAULTS: Mapping[str, tuple[float | None, ...]] = {
    "Affine": (None, None),
    "Elu": (1.0,),
    "HardSigmoid": (0.2, 0.5),
    "LeakyRelu": (0.01,),
    "ScaledTanh": (None, None),
    "ThresholdedRelu": (None,),
}
"""Activation → alpha, and beta where it takes one, where a model gives none; None: ONNX Runtime and ONNX disagree."""


@dataclass(frozen=True)
class Activation:
    """A function of ONNX's list, with what it takes of `activation_alpha` and `activation_beta`."""

    kind: str
    alpha: float = 0.0
    beta: float = 0.0

    def add(self, builder: Builder, name: str) -> str:
        """Add its nodes; return the name of the result."""
        if self.kind in _PLAIN:
            return builder.add(self.kind, [name])
        if self.kind == "Affine":
            return builder.add(
                "Add", [builder.add("Mul", [name, _scalar(builder, self.alpha)]), _scalar(builder, self.beta)]
            )
        if self.kind == "ScaledTanh":
            inner = builder.add("Tanh", [builder.add("Mul", [name, _scalar(builder, self.beta)])])
            return builder.add("Mul", [inner, _scalar(builder, self.alpha)])
        given: dict[str, Any] = (
            {"alpha": self.alpha, "beta": self.beta} if self.kind == "HardSigmoid" else {"alpha": self.alpha}
        )
        return builder.add(self.kind, [name], **given)


@dataclass(frozen=True)
class Cell:
    """One direction's constants and functions.

    Attributes:
        kind: `LSTM`, `GRU` or `RNN`.
        hidden: size of the state.
        inputs, state: weights of inputs `[gates * hidden, inputs]` and of the state `[gates * hidden, hidden]`.
        input_bias, state_bias: `[gates * hidden]` each.
        peepholes: `[3, hidden]`, or None.
        reset_after: GRU's `linear_before_reset`.
        activations: in ONNX's order (f, g, h).
        clip: bound of what activations are given, or None.
        coupled: LSTM's `input_forget`: what is not forgotten is not let in.
    """

    kind: str
    hidden: int
    inputs: Array
    state: Array
    input_bias: Array
    state_bias: Array
    peepholes: Array | None
    reset_after: bool
    activations: tuple[Activation, ...]
    clip: float | None
    coupled: bool

    def act(self, builder: Builder, place: int, name: str) -> str:
        """Add an activation of what is clipped first."""
        return self.activations[place].add(builder, self.clipped(builder, name))

    def clipped(self, builder: Builder, name: str) -> str:
        """Add the clipping, where there is any."""
        if self.clip is None:
            return name
        return builder.add("Clip", [name, _scalar(builder, -self.clip), _scalar(builder, self.clip)])


def activations(node: onnx.NodeProto, directions_n: int) -> list[tuple[Activation, ...]] | None:
    """Return the functions of each direction, or None where one is not in ONNX's list or lacks a number."""
    usual = _USUAL[node.op_type]
    given = attribute(node, "activations")
    names = [each.decode() if isinstance(each, bytes) else each for each in given or usual * directions_n]
    known = {name.lower(): name for name in (*_PLAIN, *_DEFAULTS)}
    if len(names) != len(usual) * directions_n or any(name.lower() not in known for name in names):
        return None
    alphas, betas = (list(attribute(node, f"activation_{each}") or []) for each in ("alpha", "beta"))
    made = [_activation(known[name.lower()], (alphas, betas)) for name in names]
    whole = [each for each in made if each is not None]
    if len(whole) != len(made):
        return None
    return [tuple(whole[place : place + len(usual)]) for place in range(0, len(whole), len(usual))]


def _activation(kind: str, numbers: tuple[list[float], list[float]]) -> Activation | None:
    """Take what a function needs off the front of the lists of alphas and betas, as ONNX Runtime does."""
    taken = [given.pop(0) if given else usual for given, usual in zip(numbers, _DEFAULTS.get(kind, ()), strict=False)]
    values = [each for each in taken if each is not None]
    return Activation(kind, *values) if len(values) == len(taken) else None


def step(builder: Builder, cell: Cell, given: str, state: str, memory: str) -> tuple[str, str]:
    """Add one step; return the names of the new state and memory.

    Args:
        builder: the graph in the making.
        cell: the direction's constants.
        given: the step's input, multiplied by its weights and with its bias, `[batch, gates * hidden]`.
        state, memory: of the step before, `[batch, hidden]`.
    """
    return _STEPS[cell.kind](builder, cell, given, state, memory)


def _scalar(builder: Builder, value: float) -> str:
    return builder.constant(np.asarray(value, dtype=np.float32))


def _gate(builder: Builder, name: str, cell: Cell, place: int) -> str:
    bounds = [builder.constant([edge * cell.hidden]) for edge in (place, place + 1)]
    return builder.add("Slice", [name, *bounds, builder.constant([1])])


def _recur(builder: Builder, cell: Cell, state: str) -> str:
    product = builder.add("MatMul", [state, builder.constant(cell.state.T.copy())])
    return builder.add("Add", [product, builder.constant(cell.state_bias)])


def _rnn(builder: Builder, cell: Cell, given: str, state: str, memory: str) -> tuple[str, str]:
    return cell.act(builder, 0, builder.add("Add", [given, _recur(builder, cell, state)])), memory


def _lstm(builder: Builder, cell: Cell, given: str, state: str, memory: str) -> tuple[str, str]:
    """Gates in ONNX's order: input, output, forget, cell; peepholes: input, output, forget."""
    total = builder.add("Add", [given, _recur(builder, cell, state)])
    into, out, forget, fresh = (_gate(builder, total, cell, place) for place in range(4))
    entering = cell.act(builder, 0, _seen(builder, cell, into, 0, memory))
    if cell.coupled:
        keeping = builder.add("Sub", [_scalar(builder, 1.0), entering])
    else:
        keeping = cell.act(builder, 0, _seen(builder, cell, forget, 2, memory))
    entered = builder.add("Mul", [entering, cell.act(builder, 1, fresh)])
    memory = builder.add("Add", [builder.add("Mul", [keeping, memory]), entered])
    gate = cell.act(builder, 0, _seen(builder, cell, out, 1, memory))
    return builder.add("Mul", [gate, cell.activations[2].add(builder, memory)]), memory


def _seen(builder: Builder, cell: Cell, name: str, place: int, memory: str) -> str:
    if cell.peepholes is None:
        return name
    return builder.add("Add", [name, builder.add("Mul", [memory, builder.constant(cell.peepholes[place])])])


def _gru(builder: Builder, cell: Cell, given: str, state: str, memory: str) -> tuple[str, str]:
    """Gates in ONNX's order: update, reset, hidden."""
    recurred = _recur(builder, cell, state)
    update, reset = (
        cell.act(
            builder,
            0,
            builder.add("Add", [_gate(builder, given, cell, place), _gate(builder, recurred, cell, place)]),
        )
        for place in (0, 1)
    )
    if cell.reset_after:
        inner = builder.add("Mul", [reset, _gate(builder, recurred, cell, 2)])
    else:
        part = slice(2 * cell.hidden, 3 * cell.hidden)
        turned = builder.add("Mul", [reset, state])
        product = builder.add("MatMul", [turned, builder.constant(cell.state[part].T.copy())])
        inner = builder.add("Add", [product, builder.constant(cell.state_bias[part])])
    fresh = cell.act(builder, 1, builder.add("Add", [_gate(builder, given, cell, 2), inner]))
    difference = builder.add("Sub", [state, fresh])
    return builder.add("Add", [fresh, builder.add("Mul", [update, difference])]), memory


_STEPS: Mapping[str, Callable[[Builder, Cell, str, str, str], tuple[str, str]]] = {
    "RNN": _rnn,
    "LSTM": _lstm,
    "GRU": _gru,
}
