"""Where time goes inside a model, by ONNX Runtime's own profile: in a session of its own, never in a timed one."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgefleet_contract.evidence import OperatorProfile, OperatorShare

_SOURCE = "onnxruntime profile in a pass of its own"
_QUIET = 3
_MAX_OPERATORS = 16
_LEAST_SHARE = 0.001
_MAX_INFERENCES = 21
MAX_PROFILE_BYTES = 16 * 1024**2
"""Of the file, which is read into memory: some 700 bytes a node and inference, so a thousand nodes."""


def profile_operators(
    model: str | bytes, providers: Sequence[Any], feeds: Mapping[str, Any], *, threads: int, limit_s: float
) -> OperatorProfile | None:
    """Return each type of operator's share of the time spent in operators; None when nothing was told.

    Args:
        model: path or bytes.
        providers: as ONNX Runtime takes them.
        feeds: model input name → array.
        threads: threads inside one operator.
        limit_s: time for inferences; there is at least one, after one that is left out.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(model, options, providers=list(providers))
        inferences_n = 0
        deadline_s = time.monotonic() + limit_s
        while inferences_n < 2 or (inferences_n < _MAX_INFERENCES and time.monotonic() < deadline_s):
            session.run(None, dict(feeds))
            inferences_n += 1
        events = read_events(Path(session.end_profiling()))
    return None if events is None else shares(events, inferences_n)


def read_events(path: Path) -> list[Mapping[str, Any]] | None:
    """Return the events of a profile ONNX Runtime wrote; None when the file is too large to read, or no profile."""
    with path.open("rb") as stream:
        data = stream.read(MAX_PROFILE_BYTES + 1)
    if len(data) > MAX_PROFILE_BYTES:
        return None
    try:
        events = json.loads(data)
    except ValueError:
        return None
    return events if isinstance(events, list) and all(isinstance(event, dict) for event in events) else None


def shares(events: Iterable[Mapping[str, Any]], inferences_n: int) -> OperatorProfile | None:
    """Return the shares out of a profile's events; the first inference, which allocates, is left out."""
    spent_us: Counter[str] = Counter()
    calls_n: Counter[str] = Counter()
    seen: set[str] = set()
    for event in events:
        if event.get("cat") != "Node" or not str(event.get("name", "")).endswith("_kernel_time"):
            continue
        if event["name"] not in seen:
            seen.add(event["name"])
            continue
        operator = str(event.get("args", {}).get("op_name", "?"))[:128]
        # Times are whole microseconds, rounded down: half of one is their mean error.
        spent_us[operator] += 2 * int(event.get("dur", 0)) + 1
        calls_n[operator] += 1
    total_us = sum(spent_us.values())
    counted_n = inferences_n - 1
    if not total_us or counted_n < 1:
        return None
    found = [
        OperatorShare(operator=name, share=spent / total_us, calls_n=round(calls_n[name] / counted_n))
        for name, spent in spent_us.most_common(_MAX_OPERATORS)
        if spent / total_us >= _LEAST_SHARE
    ]
    return OperatorProfile(operators=tuple(found), inferences_n=counted_n, source=_SOURCE)
