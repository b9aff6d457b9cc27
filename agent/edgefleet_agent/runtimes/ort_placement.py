"""Reads back from ONNX Runtime which execution provider runs each node.

From version 1.24 on the session tells; before that (1.23 is the last for Python 3.10) a profile of one inference does.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgefleet_contract.artifact import TensorSpec
from edgefleet_contract.evidence import PlacementResult

OrtHandle = Any
"""An object of the `onnxruntime` package, which ships no types."""

_SOURCE = "onnxruntime get_provider_graph_assignment_info"
_PROFILE_SOURCE = "onnxruntime profile of one inference"
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


def profile_placement(model: str | bytes, specs: Sequence[TensorSpec], *, wanted: str) -> PlacementResult | None:
    """Return where the nodes of a model run by profiling one inference on zeros, in a session of its own.

    None when the model does not run on zeros with every dynamic axis 1.

    Args:
        model: path or bytes.
        specs: its inputs.
        wanted: the execution provider the variant asked for, and the only one offered.
    """
    import onnxruntime

    feeds = {spec.name: np.zeros(_smallest(spec), spec.dtype) for spec in specs}
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / _PROFILE_PREFIX)
        options.log_severity_level = _FATAL
        session = onnxruntime.InferenceSession(model, options, providers=[wanted])
        try:
            session.run(None, feeds)
        except Exception:  # noqa: BLE001 - the vendor's exceptions have no common base; zeros may be no valid input
            return None
        finally:
            profile = Path(session.end_profiling())
        return summarise(count_nodes(json.loads(profile.read_bytes())), wanted=wanted, source=_PROFILE_SOURCE)


def count_nodes(events: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Return the number of nodes by execution provider out of a profile's events."""
    runs = (event for event in events if event.get("cat") == "Node" and "provider" in event.get("args", {}))
    return Counter({event["name"]: str(event["args"]["provider"]) for event in runs}.values())


def _smallest(spec: TensorSpec) -> list[int]:
    return [size if isinstance(size, int) else 1 for size in spec.shape]
