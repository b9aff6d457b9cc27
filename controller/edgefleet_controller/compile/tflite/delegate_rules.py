"""The words in which tables say which operators a TFLite delegate takes. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from edgefleet_controller.compile.tflite.graph import Op, Tensor

Rule = Callable[[Op], str | None]
"""Returns why an operator is not taken, or None."""

FLOAT32 = frozenset({"float32"})
EIGHT_BIT = frozenset({"int8", "uint8"})


@dataclass(frozen=True)
class Kind:
    """What a delegate asks of one type of operator.

    Attributes:
        version: the highest version of the operator it takes, or None where it does not look.
        rules: what leaves a single operator to the CPU.
        breaks: what it only finds out while it builds: it then gives up on the whole graph.
    """

    version: int | None = None
    rules: tuple[Rule, ...] = ()
    breaks: tuple[Rule, ...] = ()


def kinds(names: str, version: int | None, *rules: Rule, breaks: tuple[Rule, ...] = ()) -> dict[str, Kind]:
    """Return one table row for each of several operators, given as words."""
    return dict.fromkeys(names.split(), Kind(version, rules, breaks))


def too_new(op: Op, kind: Kind) -> str | None:
    """Return that an operator asks for a later version than a delegate takes."""
    if kind.version is None or op.version <= kind.version:
        return None
    return f"it is version {op.version} of the operator; the delegate takes up to {kind.version}"


def first(rules: Iterable[Rule], op: Op) -> str | None:
    """Return the first reason that a rule finds, or None."""
    return next((found for rule in rules if (found := rule(op))), None)


def rank_of(tensor: Tensor | None) -> int:
    """Return how many axes a tensor has; 0 where it is left out."""
    return 0 if tensor is None else len(tensor.shape)


def size_of(tensor: Tensor) -> int:
    """Return how many elements a tensor has."""
    return math.prod(tensor.shape)


def running(op: Op) -> list[Tensor]:
    """Return the inputs computed at run time."""
    return [each for each in op.inputs if each is not None and not each.is_constant]


def constants(op: Op) -> list[Tensor]:
    """Return the inputs the file holds."""
    return [each for each in op.inputs if each is not None and each.is_constant]


def constant(*places: int) -> Rule:
    """Inputs that must be in the file."""

    def rule(op: Op) -> str | None:
        found = next((each for place in places if (each := op.input(place)) is not None and not each.is_constant), None)
        return None if found is None else f"{found.name} is computed at run time; it must be constant"

    return rule


def constant_integers(*places: int) -> Rule:
    """Inputs that must be in the file, as int32."""

    def rule(op: Op) -> str | None:
        wrong = next(
            (each for place in places if (each := op.input(place)) is not None and each.dtype != "int32"), None
        )
        return constant(*places)(op) or (None if wrong is None else f"{wrong.name} is {wrong.dtype}; it must be int32")

    return rule


def typed(place: int, allowed: Iterable[str]) -> Rule:
    """An input of one of several types."""
    names = sorted(allowed)

    def rule(op: Op) -> str | None:
        tensor = op.input(place)
        if tensor is None or tensor.dtype in names:
            return None
        return f"{tensor.name} is {tensor.dtype}; the delegate takes {', '.join(names)} here"

    return rule


def makes(allowed: Iterable[str]) -> Rule:
    """An output of one of several types."""
    names = sorted(allowed)

    def rule(op: Op) -> str | None:
        tensor = op.outputs[0]
        return None if tensor.dtype in names else f"{tensor.name} is {tensor.dtype}; it may be {', '.join(names)}"

    return rule


def ranked(place: int, least: int, most: int) -> Rule:
    """An input with so many axes."""

    def rule(op: Op) -> str | None:
        tensor = op.input(place)
        if tensor is None or least <= len(tensor.shape) <= most:
            return None
        wanted = str(least) if least == most else f"{least} to {most}"
        return f"{tensor.name} has {len(tensor.shape)} axes; the delegate takes {wanted}"

    return rule


def counted(inputs_n: Iterable[int]) -> Rule:
    """So many inputs."""
    allowed = sorted(inputs_n)

    def rule(op: Op) -> str | None:
        if len(op.inputs) in allowed:
            return None
        return f"it has {len(op.inputs)} inputs; the delegate takes {' or '.join(map(str, allowed))}"

    return rule


def needs(*shapes: tuple[int, int | None], outputs_n: int = 1) -> Rule:
    """So many inputs computed at run time and constant ones (None: any number), and so many outputs."""

    def rule(op: Op) -> str | None:
        running_n, constant_n = len(running(op)), len(constants(op))
        fits = any(
            running_n == each and constant_n in {wanted, constant_n if wanted is None else -1}
            for each, wanted in shapes
        )
        if fits and len(op.outputs) == outputs_n:
            return None
        return f"it has {running_n} inputs at run time, {constant_n} constant ones and {len(op.outputs)} outputs"

    return rule


def plain(op: Op) -> str | None:
    """No activation fused into it."""
    return (
        "it has a fused activation, which the delegate does not take here"
        if op.option("fusedActivationFunction")
        else None
    )


def unit_beta(op: Op) -> str | None:
    """A softmax whose beta is 1."""
    beta = op.option("beta")
    return None if beta is None or beta == 1 else f"beta is {beta}; the delegate takes 1"


def default_weights(op: Op) -> str | None:
    """Weights that are not shuffled."""
    return "its weights are shuffled; only the default format is taken" if op.option("weightsFormat") else None


def axes_of(op: Op, place: int = 1) -> list[int] | None:
    """Return axes given as a constant, counted from the front of the first input; None where they are not constant."""
    tensor, rank = op.input(place), rank_of(op.input(0))
    values = tensor.values() if tensor is not None else None
    return None if values is None else [int(each) % max(rank, 1) for each in np.atleast_1d(values)]


def integers_of(op: Op, place: int) -> list[int]:
    """Return a constant's values as a flat list; empty where it is none."""
    tensor = op.input(place)
    values = tensor.values() if tensor is not None else None
    return [] if values is None else [int(each) for each in values.reshape(-1)]
