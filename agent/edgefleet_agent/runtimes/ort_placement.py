"""Reads back from ONNX Runtime which execution provider runs each node."""

from __future__ import annotations

from collections import Counter
from typing import Any

from edgefleet_contract.evidence import PlacementResult

OrtHandle = Any
"""An object of the `onnxruntime` package, which ships no types."""

_SOURCE = "onnxruntime get_provider_graph_assignment_info"


def read_placement(session: OrtHandle, *, wanted: str) -> PlacementResult | None:
    """Return where the nodes of a session run, or None when this version of the runtime does not tell.

    Needs ONNX Runtime 1.24 or newer and `session.record_ep_graph_assignment_info=1`.

    Args:
        session: an `onnxruntime.InferenceSession`.
        wanted: the execution provider the variant asked for.
    """
    read = getattr(session, "get_provider_graph_assignment_info", None)
    if read is None:
        return None
    nodes: Counter[str] = Counter()
    for subgraph in read():
        nodes[str(subgraph.ep_name)] += len(subgraph.get_nodes())
    return summarise(nodes, wanted=wanted, source=_SOURCE)


def summarise(nodes: Counter[str], *, wanted: str, source: str) -> PlacementResult | None:
    """Return the share of nodes on the wanted provider; None when there are no nodes to count."""
    total_n = sum(nodes.values())
    if total_n == 0:
        return None
    return PlacementResult(accelerated=nodes[wanted] / total_n, nodes=dict(nodes), source=source)
