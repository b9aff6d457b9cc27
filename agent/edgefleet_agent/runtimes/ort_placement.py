"""Reads back from ONNX Runtime which execution provider runs each node.

From version 1.24 on the session tells; before that (1.23 is the last for Python 3.10) a profile of one inference does.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgefleet_agent.runtimes.ort_profile import read_events
from edgefleet_contract.artifact import TensorSpec
from edgefleet_contract.evidence import PlacementResult

OrtHandle = Any
"""An object of the `onnxruntime` package, which ships no types."""

Providers = Sequence[tuple[str, dict[str, str]]]
"""Execution providers with their options, the wanted one first."""

_PROFILED_RUNS = 5
_MAX_OPERATORS = 64
_SOURCE = "onnxruntime get_provider_graph_assignment_info"
_PROFILE_SOURCE = "onnxruntime profile of some inferences"
_PROFILE_PREFIX = "profile"
_FATAL = 4
"""Log severity: fatal errors only, as a failure here is expected and handled."""


def tells_placement(session: OrtHandle) -> bool:
    """Tell whether this version's sessions say where their nodes run."""
    return hasattr(session, "get_provider_graph_assignment_info")


def read_placement(session: OrtHandle, *, wanted: str) -> PlacementResult | None:
    """Return where the nodes of a session run, or None when it has no nodes.

    Needs ONNX Runtime 1.24 or newer (`tells_placement`) and `session.record_ep_graph_assignment_info=1`.

    Args:
        session: an `onnxruntime.InferenceSession`.
        wanted: the execution provider the variant asked for.
    """
    nodes: Counter[str] = Counter()
    for subgraph in session.get_provider_graph_assignment_info():
        nodes[str(subgraph.ep_name)] += len(subgraph.get_nodes())
    return summarise(nodes, wanted=wanted, source=_SOURCE)


def summarise(nodes: Counter[str], *, wanted: str, source: str) -> PlacementResult | None:
    """Return the share of nodes on the wanted provider; None when there are no nodes to count."""
    total_n = sum(nodes.values())
    if total_n == 0:
        return None
    return PlacementResult(accelerated=nodes[wanted] / total_n, nodes=dict(nodes), source=source)


def with_times(
    told: PlacementResult, model: str | bytes, specs: Sequence[TensorSpec], providers: Providers
) -> PlacementResult:
    """Return a placement with the share of time on the wanted provider.

    Where all nodes are in one place that share is known; else a profile of some inferences on zeros tells it.

    Args:
        told: the placement by number of nodes.
        model: path or bytes.
        specs: its inputs.
        providers: the wanted provider first, with options.
    """
    if told.accelerated in {0.0, 1.0}:
        return told.model_copy(update={"time_accelerated": told.accelerated})
    profiled = profile_placement(model, specs, providers=providers)
    if profiled is None or profiled.time_accelerated is None:
        reason = (
            "there is no profile to read times from: the model does not run on zeros, or has too many nodes for one"
        )
        return told.model_copy(update={"time_unmeasured_reason": reason})
    return told.model_copy(update={"time_accelerated": profiled.time_accelerated, "elsewhere": profiled.elsewhere})


def profile_placement(
    model: str | bytes, specs: Sequence[TensorSpec], *, providers: Providers
) -> PlacementResult | None:
    """Return where the nodes of a model run, and their times, by profiling it on zeros in a session of its own.

    None when the model does not run on zeros with every dynamic axis 1, and when its profile is too large to read.

    Args:
        model: path or bytes.
        specs: its inputs.
        providers: the wanted provider first, with options.
    """
    import onnxruntime

    feeds = {spec.name: np.zeros(_smallest(spec), spec.dtype) for spec in specs}
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / _PROFILE_PREFIX)
        options.log_severity_level = _FATAL
        session = onnxruntime.InferenceSession(model, options, providers=list(providers))
        try:
            for _ in range(_PROFILED_RUNS):
                session.run(None, feeds)
        except Exception:  # noqa: BLE001 - the vendor's exceptions have no common base; zeros may be no valid input
            return None
        finally:
            profile = Path(session.end_profiling())
        events = read_events(profile)
    if events is None:
        return None
    wanted = providers[0][0]
    counted = summarise(count_nodes(events), wanted=wanted, source=_PROFILE_SOURCE)
    if counted is None:
        return None
    elsewhere = dict(count_elsewhere(events, wanted).most_common(_MAX_OPERATORS))
    return counted.model_copy(update={"time_accelerated": time_share(events, wanted), "elsewhere": elsewhere})


def time_share(events: Sequence[Mapping[str, Any]], wanted: str) -> float | None:
    """Return the share of the kernels' time a profile's events spend on a provider; None when they tell no time.

    The first run of each node is left out: it allocates.
    """
    seen: set[str] = set()
    by_provider: Counter[str] = Counter()
    for event in _runs(events):
        if event["name"] in seen:
            by_provider[str(event["args"]["provider"])] += int(event.get("dur", 0))
        seen.add(event["name"])
    total = by_provider.total()
    return by_provider[wanted] / total if total else None


def count_elsewhere(events: Sequence[Mapping[str, Any]], wanted: str) -> Counter[str]:
    """Return operator → number of nodes that ran on other providers than the wanted one."""
    ops = {
        str(event["name"]): str(event["args"].get("op_name", "?"))
        for event in _runs(events)
        if event["args"]["provider"] != wanted
    }
    return Counter(ops.values())


def _runs(events: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (event for event in events if event.get("cat") == "Node" and "provider" in event.get("args", {}))


def count_nodes(events: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Return the number of nodes by execution provider out of a profile's events."""
    return Counter({str(event["name"]): str(event["args"]["provider"]) for event in _runs(events)}.values())


def _smallest(spec: TensorSpec) -> list[int]:
    return [size if isinstance(size, int) else 1 for size in spec.shape]
