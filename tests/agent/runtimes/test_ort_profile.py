"""Shares of time by operator out of ONNX Runtime's profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.runtimes.ort_profile import MAX_PROFILE_BYTES, read_events, shares


def event(name: str, operator: str, duration_us: int) -> dict[str, Any]:
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": duration_us, "args": {"op_name": operator}}


def test_shares_are_of_the_inferences_after_the_first() -> None:
    first = [event("a", "Conv", 9000), event("b", "Relu", 9000)]
    later = [event("a", "Conv", 7), event("b", "Relu", 2)] * 3
    profile = shares([*first, *later, {"cat": "Session", "name": "model_run", "dur": 99}], 4)
    assert profile is not None
    assert [(found.operator, found.calls_n) for found in profile.operators] == [("Conv", 1), ("Relu", 1)]
    assert profile.operators[0].share == pytest.approx(15 / 20)
    assert profile.inferences_n == 3


def test_operators_of_no_weight_and_beyond_sixteen_are_left_out() -> None:
    events = [event(f"n{index}", f"Op{index}", 10_000) for index in range(20)] * 2
    profile = shares([*events, event("t", "Tiny", 0), event("t", "Tiny", 0)], 2)
    assert profile is not None
    assert len(profile.operators) == 16
    assert "Tiny" not in {found.operator for found in profile.operators}


def test_a_profile_that_tells_nothing_is_none() -> None:
    assert shares([], 5) is None
    assert shares([event("a", "Conv", 5)], 1) is None


@pytest.mark.parametrize("content", [b"", b"[{", b"{}", b"[1]", b"\xff"])
def test_a_file_that_is_no_profile_tells_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    assert read_events(path) is None


def test_a_profile_too_large_to_hold_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(b"[]")
    assert read_events(path) == []
    with path.open("r+b") as stream:
        stream.seek(MAX_PROFILE_BYTES)
        stream.write(b"]")
    assert read_events(path) is None
    with path.open("r+b") as stream:
        stream.write(b"[" + b" " * (MAX_PROFILE_BYTES - 1) + b"]")
    assert read_events(path) is None
