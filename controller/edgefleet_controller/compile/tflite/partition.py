"""Which operators of a graph an accelerator's delegate gets, once it has said which it could run. Pure.

Source: LiteRT 2.2.0 (145c7523), tflite/graph_info.cc, OpMightHaveSideEffect in tflite/core/subgraph.cc, and
tflite/delegates/utils.cc.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edgefleet_controller.compile.tflite.graph import Op, Tensor

_CONTROL = frozenset({"CALL_ONCE", "IF", "WHILE"})
"""Operators that count as keeping state, beside those that read or write a resource."""


@dataclass(frozen=True)
class NodeSet:
    """Operators that run one after another without the others.

    Attributes:
        mapped: whether the accelerator could run them.
        members: their places in the graph.
    """

    mapped: bool
    members: frozenset[int]


def node_sets(operators: Sequence[Op], mapped: Sequence[bool]) -> list[NodeSet]:
    """Return the sets an interpreter cuts a graph into, in the order they run.

    A set grows while an operator of its kind has all its inputs; the first operator says of which kind the first is.
    Operators that keep state wait for those before them that do.
    """
    waiting = {tensor.index for op in operators for tensor in op.outputs}
    stateful = deque(op.index for op in operators if _keeps_state(op))
    left, found, kind = list(operators), list[NodeSet](), bool(mapped) and mapped[0]
    while left:
        grown, rest = [], []
        for op in left:
            ready = not any(each is not None and each.index in waiting for each in op.inputs)
            ready = ready and (not _keeps_state(op) or stateful[0] == op.index)
            if ready and mapped[op.index] == kind:
                grown.append(op.index)
                waiting.difference_update(tensor.index for tensor in op.outputs)
                if stateful and stateful[0] == op.index:
                    stateful.popleft()
            else:
                rest.append(op)
        if not grown and found and not found[-1].members:
            break  # what is left waits for itself: no interpreter runs such a graph
        found.append(NodeSet(kind, frozenset(grown)))
        left, kind = rest, not kind
    return [each for each in found if each.members]


def _keeps_state(op: Op) -> bool:
    tensors = (each for each in (*op.inputs, *op.outputs) if each is not None)
    return op.type in _CONTROL or any(tensor.dtype == "resource" for tensor in tensors)


def largest(sets: Sequence[NodeSet], most_n: int | None, least_operators_n: int) -> frozenset[int]:
    """Return the operators of the largest mapped sets: `most_n` of them (None: all), none below the least size."""
    ordered = sorted((each for each in sets if each.mapped), key=lambda each: len(each.members), reverse=True)
    taken = [each.members for each in ordered[:most_n] if len(each.members) >= least_operators_n]
    return frozenset[int]().union(*taken)


@dataclass(frozen=True)
class Unpacked:
    """A graph whose operators read float16 weights where the file has them read what unpacks these.

    Attributes:
        operators: the graph's operators, in its order, with such inputs replaced.
        unpacking: places of the DEQUANTIZE operators over constants of float16.
    """

    operators: tuple[Op, ...]
    unpacking: frozenset[int]


def without_unpacking(operators: Sequence[Op]) -> Unpacked:
    """Return what delegates look at: an operator with its packed weights, not with what unpacks them."""
    packed: dict[int, Tensor] = {}
    unpacking = set()
    for op in operators:
        source = op.input(0)
        if op.type == "DEQUANTIZE" and source is not None and source.is_constant and source.dtype == "float16":
            packed[op.outputs[0].index] = source
            unpacking.add(op.index)
    return Unpacked(tuple(_with_inputs(op, packed) for op in operators), frozenset(unpacking))


def _with_inputs(op: Op, packed: dict[int, Tensor]) -> Op:
    inputs = tuple(None if each is None else packed.get(each.index, each) for each in op.inputs)
    return Op(op.index, op.type, inputs, op.outputs, op.options, op.version)
