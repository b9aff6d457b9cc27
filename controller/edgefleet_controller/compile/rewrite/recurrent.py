"""LSTM, GRU and RNN of a fixed number of steps, unrolled into matrix products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.rewrite.graph import Builder, attribute, given

MAX_STEPS_N = 256
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


@dataclass(frozen=True)
class Cell:
    """One direction's constants: weights of inputs and of state, both biases, peepholes."""

    kind: str
    hidden: int
    inputs: Array
    state: Array
    input_bias: Array
    state_bias: Array
    peepholes: Array | None
    reset_after: bool


def unrolled(node: onnx.NodeProto, builder: Builder) -> bool:
    """A recurrent operator with constant weights, usual activations and no lengths; any direction."""
    shape = builder.shape(node.input[0])
    cells = _cells(node, builder)
    if (
        shape is None
        or cells is None
        or shape[0] > MAX_STEPS_N
        or builder.opset < 13
        or _is_special(node, builder, shape[0])
    ):
        return False
    steps_n, batch_n, hidden = shape[0], shape[1], cells[0].hidden
    states, lasts, memories = [], [], []
    for place, cell in enumerate(cells):
        backwards = attribute(node, "direction", "forward") == "reverse" or place == 1
        order = list(range(steps_n))[:: -1 if backwards else 1]
        start = [_initial(node, builder, input_place, place, (batch_n, hidden)) for input_place in (5, 6)]
        made, memory = _run(builder, node.input[0], cell, order, start)
        states.append([made[step] for step in range(steps_n)])
        lasts.append(made[order[-1]])
        memories.append(memory)
    _outputs(node, builder, states, lasts, memories, (batch_n, hidden))
    return True


def _has_lengths(node: onnx.NodeProto, builder: Builder, steps_n: int) -> bool:
    if given(node, 4) is None:
        return False
    lengths = builder.value(node.input[4])
    return lengths is None or bool(np.any(lengths != steps_n))


def _is_special(node: onnx.NodeProto, builder: Builder, steps_n: int) -> bool:
    wanted = _ACTIVATIONS[node.op_type]
    given_names = attribute(node, "activations")
    names = [each.decode() if isinstance(each, bytes) else each for each in given_names or []]
    return bool(
        (names and names != wanted * (len(names) // len(wanted)))
        or _has_lengths(node, builder, steps_n)
        or attribute(node, "clip") is not None
        or attribute(node, "input_forget", 0)
        or attribute(node, "layout", 0)
    )


def _cells(node: onnx.NodeProto, builder: Builder) -> list[Cell] | None:
    weights, recurrent = (builder.value(node.input[place]) for place in (1, 2))
    biases = builder.value(given(node, 3) or "") if given(node, 3) else None
    peepholes = builder.value(given(node, 7) or "") if given(node, 7) else None
    missing = (given(node, 3) and biases is None) or (given(node, 7) and peepholes is None)
    if weights is None or recurrent is None or missing:
        return None
    hidden, gates = recurrent.shape[2], _GATES[node.op_type]
    zero = np.zeros((len(weights), 2 * gates * hidden), dtype=np.float32)
    both = (zero if biases is None else biases).reshape(len(weights), 2, gates * hidden)
    return [
        Cell(
            node.op_type,
            hidden,
            weights[place],
            recurrent[place],
            both[place, 0],
            both[place, 1],
            None if peepholes is None else peepholes[place].reshape(3, hidden),
            bool(attribute(node, "linear_before_reset", 0)),
        )
        for place in range(len(weights))
    ]


def _initial(node: onnx.NodeProto, builder: Builder, place: int, direction: int, shape: tuple[int, int]) -> str:
    name = given(node, place) if place == 5 or node.op_type == "LSTM" else None
    if name is None:
        return builder.constant(np.zeros(shape, dtype=np.float32))
    return builder.add("Gather", [name, builder.constant(np.asarray(direction, dtype=np.int64))], axis=0)


def _run(builder: Builder, name: str, cell: Cell, order: list[int], start: list[str]) -> tuple[dict[int, str], str]:
    """Add one direction's steps; return step → state, and the last memory."""
    state, memory = start
    made: dict[int, str] = {}
    product = builder.add("MatMul", [name, builder.constant(cell.inputs.T.copy())])
    projected = builder.add("Add", [product, builder.constant(cell.input_bias)])
    for step in order:
        given_now = builder.add("Gather", [projected, builder.constant(np.asarray(step, dtype=np.int64))], axis=0)
        state, memory = _STEPS[cell.kind](builder, cell, given_now, state, memory)
        made[step] = state
    return made, memory


def _gate(builder: Builder, name: str, cell: Cell, place: int) -> str:
    bounds = [builder.constant([edge * cell.hidden]) for edge in (place, place + 1)]
    return builder.add("Slice", [name, *bounds, builder.constant([1])])


def _recur(builder: Builder, cell: Cell, state: str) -> str:
    product = builder.add("MatMul", [state, builder.constant(cell.state.T.copy())])
    return builder.add("Add", [product, builder.constant(cell.state_bias)])


def _rnn(builder: Builder, cell: Cell, given_now: str, state: str, memory: str) -> tuple[str, str]:
    return builder.add("Tanh", [builder.add("Add", [given_now, _recur(builder, cell, state)])]), memory


def _lstm(builder: Builder, cell: Cell, given_now: str, state: str, memory: str) -> tuple[str, str]:
    """Gates in ONNX's order: input, output, forget, cell; peepholes: input, output, forget."""
    total = builder.add("Add", [given_now, _recur(builder, cell, state)])
    into, out, forget, fresh = (_gate(builder, total, cell, place) for place in range(4))
    peep = cell.peepholes

    def seen(name: str, place: int, kept: str) -> str:
        if peep is None:
            return name
        return builder.add("Add", [name, builder.add("Mul", [kept, builder.constant(peep[place])])])

    entered = builder.add(
        "Mul",
        [
            builder.add("Sigmoid", [seen(into, 0, memory)]),
            builder.add("Tanh", [fresh]),
        ],
    )
    kept = builder.add("Mul", [builder.add("Sigmoid", [seen(forget, 2, memory)]), memory])
    memory = builder.add("Add", [kept, entered])
    gate = builder.add("Sigmoid", [seen(out, 1, memory)])
    return builder.add("Mul", [gate, builder.add("Tanh", [memory])]), memory


def _gru(builder: Builder, cell: Cell, given_now: str, state: str, memory: str) -> tuple[str, str]:
    """Gates in ONNX's order: update, reset, hidden."""
    recurred = _recur(builder, cell, state)
    update, reset = (
        builder.add(
            "Sigmoid",
            [builder.add("Add", [_gate(builder, given_now, cell, place), _gate(builder, recurred, cell, place)])],
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
    fresh = builder.add("Tanh", [builder.add("Add", [_gate(builder, given_now, cell, 2), inner])])
    difference = builder.add("Sub", [state, fresh])
    return builder.add("Add", [fresh, builder.add("Mul", [update, difference])]), memory


_STEPS: Mapping[str, Callable[[Builder, Cell, str, str, str], tuple[str, str]]] = {
    "RNN": _rnn,
    "LSTM": _lstm,
    "GRU": _gru,
}


def _outputs(
    node: onnx.NodeProto,
    builder: Builder,
    states: list[list[str]],
    lasts: list[str],
    memories: list[str],
    shape: tuple[int, int],
) -> None:
    """Add `Y` [steps, directions, batch, hidden], `Y_h` and `Y_c` [directions, batch, hidden], where they are used."""
    wanted = [*node.output, "", "", ""][:3]
    if wanted[0]:
        rows = [
            builder.add("Reshape", [states[direction][step], builder.constant([1, 1, *shape])])
            for step in range(len(states[0]))
            for direction in range(len(states))
        ]
        joined = builder.add("Concat", rows, axis=0)
        builder.add("Reshape", [joined, builder.constant([len(states[0]), len(states), *shape])], [wanted[0]])
    for name, ends in ((wanted[1], lasts), (wanted[2], memories)):
        if name:
            rows = [builder.add("Reshape", [end, builder.constant([1, *shape])]) for end in ends]
            builder.add("Concat", rows, [name], axis=0)
