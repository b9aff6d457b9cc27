"""Reads back from LiteRT which operators a delegate took.

The interpreter lists every node of the file's main graph, followed by one DELEGATE node for each part a delegate took,
but not which nodes each part replaced. What runs is what is met on the way back from the outputs, where a tensor comes
from the DELEGATE node that gives it, if any. What is not met any more was taken.

Conversions of number formats at the graph's edge (inputs, outputs, constants) are not counted: they are part of handing
data over, and an Edge TPU, which takes integers only, cannot have them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgefleet_contract.evidence import PlacementResult

BUILTIN = "builtin kernels"
_DELEGATE = "DELEGATE"
_SOURCE = "LiteRT execution plan of the main graph"
_UNTIMED = "LiteRT's Python interface times no operators, and they ran on more than one engine"
_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})
_MAX_OPERATORS = 64
_MAX_SOURCE_CHARS = 128


@dataclass(frozen=True)
class Node:
    """One node: its operator's name, and the tensors it takes and gives, by index."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def nodes_of(details: Iterable[Mapping[str, Any]]) -> tuple[Node, ...]:
    """Return the nodes `Interpreter._get_ops_details()` tells of."""
    return tuple(
        Node(str(node["op_name"]), tuple(map(int, node["inputs"])), tuple(map(int, node["outputs"])))
        for node in details
    )


def placement_of(
    nodes: Sequence[Node], outputs: Iterable[int], *, engine: str, delegate: str | None = None
) -> PlacementResult | None:
    """Return the share of a graph's operators that the engine took; None for a graph without operators.

    Args:
        nodes: every node of the file in order, then the DELEGATE nodes.
        outputs: the tensors the graph gives.
        engine: the engine asked for; on `cpu` the built-in kernels are what was asked for.
        delegate: the delegate's library, for the record.
    """
    wanted = set(outputs)
    file_nodes = [node for node in nodes if node.op != _DELEGATE]
    edge = {id(node) for node in _conversions(file_nodes, wanted)}
    total = Counter(node.op for node in _needed(file_nodes, wanted) if id(node) not in edge)
    left = Counter(node.op for node in _needed(nodes, wanted) if node.op != _DELEGATE and id(node) not in edge)
    total_n, left_n = total.total(), left.total()
    if total_n == 0:
        return None
    on_engine_n = left_n if engine == "cpu" else total_n - left_n
    whole = on_engine_n in {0, total_n}
    return PlacementResult(
        accelerated=on_engine_n / total_n,
        nodes={name: n for name, n in ((engine, total_n - left_n), (BUILTIN, left_n)) if n},
        source=(f"{_SOURCE}; delegate {delegate}" if delegate else _SOURCE)[:_MAX_SOURCE_CHARS],
        time_accelerated=on_engine_n / total_n if whole else None,
        time_unmeasured_reason=None if whole else _UNTIMED,
        elsewhere={} if engine == "cpu" else dict(left.most_common(_MAX_OPERATORS)),
    )


def _conversions(nodes: Sequence[Node], wanted: Container[int]) -> Iterator[Node]:
    """Yield the conversions of number formats that take what no node gives, or give what the graph gives."""
    given = {tensor for node in nodes for tensor in node.outputs}
    for node in nodes:
        if node.op in _CONVERSIONS and (
            given.isdisjoint(node.inputs) or any(tensor in wanted for tensor in node.outputs)
        ):
            yield node


def _needed(nodes: Sequence[Node], wanted: Iterable[int]) -> list[Node]:
    """Return the nodes that must run to give `wanted`, and those that run for their effect alone."""
    giver = {tensor: node for node in nodes for tensor in node.outputs}  # a DELEGATE stands last, so it wins
    found: dict[int, Node] = {}
    _follow(wanted, giver, found)
    delegated = any(node.op == _DELEGATE for node in nodes)
    for node in nodes:
        # A node that gives nothing (it assigns a variable) runs by itself, unless a delegate took it: then what it
        # takes is given by no node that runs. Handles of variables, which take nothing, tell neither way.
        takes = [giver[tensor] for tensor in node.inputs if tensor in giver and giver[tensor].inputs]
        if not node.outputs and (not delegated or all(id(each) in found for each in takes)):
            found[id(node)] = node
            _follow(node.inputs, giver, found)
    return list(found.values())


def _follow(tensors: Iterable[int], giver: Mapping[int, Node], found: dict[int, Node]) -> None:
    waiting = list(tensors)
    while waiting:
        node = giver.get(waiting.pop())
        if node is not None and id(node) not in found:
            found[id(node)] = node
            waiting.extend(node.inputs)
