"""Whoever is killed in the middle of an apply, the apply ends as if nobody had been."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest

from edgefleet_contract.errors import TransportError
from edgefleet_contract.report import DeviceState
from edgefleet_controller.api import Phase
from edgefleet_hil.plugin import RigFactory
from edgefleet_hil.rig import TARGETS, Rig, Target

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(900)]

MOMENTS_N = 7
USUAL_APPLY_S = 6.0
"""Kills are spread over the time one apply takes here; the trial takes most of it."""


class ServingWatch:
    """Looks all the time whether the device serves a complete, known model."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.seen: Counter[str] = Counter()
        self.faults: list[str] = []

    def _look(self) -> None:
        while not self._ended.wait(0.005):
            active = self._rig.active("digits")
            if active is None or not (active / "artifact.json").is_file() or not (active / "model.onnx").is_file():
                self.faults.append(f"served {active}")
            else:
                self.seen[active.name] += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def apply_with_a_kill(rig: Rig, manifest: Path, target: Target, after_s: float) -> None:
    """Begin an apply, kill `target` after a while, and wait for the end; a worker is killed when there is one."""
    begun: dict[str, int] = {}
    timer = threading.Timer(after_s, lambda: begun.update(killed=kill_if_there(rig, target)))
    timer.start()
    revision = rig.begin(manifest).revision
    status = rig.wait(revision, timeout_s=90.0)
    timer.join()
    assert status.phase is Phase.COMPLETE, f"{status.reason}\n{rig.log('agent')[-3000:]}"
    assert [row.state for row in status.devices] == [DeviceState.ACTIVE]


def kill_if_there(rig: Rig, target: Target) -> int:
    """Kill a process; where none of its kind comes up in time (a trial that is over), there is nothing to kill."""
    try:
        return rig.kill(target, timeout_s=3.0)
    except TransportError:
        return 0


def reports_are_whole(rig: Rig) -> None:
    """Each life of the outbox arrived without a gap and without a double."""
    rows = rig.query(
        "select device, boot, count(*) as n, count(distinct seq) as distinct_n, min(seq) as first, max(seq) as last"
        " from reports group by device, boot"
    )
    assert rows
    for row in rows:
        assert row["n"] == row["distinct_n"] == row["last"], row
        assert row["first"] == 1, row


@pytest.mark.parametrize("target", TARGETS)
def test_a_kill_at_a_random_moment_changes_nothing_in_the_end(
    target: Target, rig_factory: RigFactory, digits_manifest: Callable[[int], Path]
) -> None:
    moments = random.Random(f"kill {target}")
    rig = rig_factory()
    assert rig.apply(digits_manifest(0)).phase is Phase.COMPLETE
    with ServingWatch(rig) as watch:
        for turn in range(1, MOMENTS_N + 1):
            apply_with_a_kill(rig, digits_manifest(turn), target, moments.uniform(0.0, USUAL_APPLY_S))
    assert watch.faults == []
    assert len(watch.seen) >= MOMENTS_N, "each apply must have put another artifact in place"
    rig.wait_ready()
    reports_are_whole(rig)
    row = rig.model("digits")
    undisturbed = rig_factory()
    expected = undisturbed.apply(digits_manifest(MOMENTS_N)).devices[0]
    assert row is not None
    assert (row.state, row.variant, row.artifact) == (expected.state, expected.variant, expected.artifact)
    assert row.parity is not None
    assert expected.parity is not None
    assert row.parity.verdict is expected.parity.verdict
