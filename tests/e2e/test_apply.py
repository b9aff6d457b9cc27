"""The main job through the command line, on the real broker, controller, agent and runtime."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgefleet_contract.evidence import Verdict
from edgefleet_contract.report import DeviceState
from edgefleet_hil.plugin import RigFactory

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PATIENCE_S = 30.0
BELIEVABLE = {"valid", "contended"}


def until(holds: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
    """Wait for a process to get somewhere; fail when it does not in time."""
    deadline_s = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline_s, "waited too long"
        time.sleep(0.05)


@pytest.mark.timeout(600)
def test_the_quick_start_ends_with_proven_models_and_a_second_apply_changes_nothing(fleet: Any, examples: Path) -> None:
    manifest = str(examples / "quickstart.yaml")
    said = fleet("apply", manifest, "-o", "json")
    assert said.code == 0, said.err
    for row in said.json["devices"]:
        assert (row["state"], row["parity"]["verdict"]) == ("active", "pass")
        metric = row["parity"]["metric"]
        assert abs(metric["reference"] - metric["measured"]) <= 0.02
        latency = row["latency"]  # how steady this machine is must not decide; that doubt is explained must
        assert (latency["verdict"] in BELIEVABLE and latency["n"] >= 500) or latency["reason"]
        assert row["energy"]["status"] == "unmeasured"
        assert row["energy"]["reason"]
        assert row["evidence"] == "executed-on-device"
    again = fleet("apply", manifest, "-o", "json")
    assert (again.code, again.json["changed"]) == (0, False)
    assert again.json["devices"] == said.json["devices"]
    for words in (("status",), ("devices",), ("evidence",), ("health",), ("query", "select * from fleet_models")):
        answer = fleet(*words)
        assert answer.code == 0, answer.err
        assert answer.out


def test_a_model_that_crashes_its_process_is_one_failed_candidate(
    rig_factory: RigFactory, small_manifest: Callable[[str], Path]
) -> None:
    rig = rig_factory()
    agent = rig.pid("agent")
    status = rig.apply(small_manifest("[misbehave/segv/fp32, ort/cpu/fp32]"))
    assert status.exit_code == 0, status.reason
    (row,) = status.devices
    assert (row.state, row.variant) == (DeviceState.ACTIVE, "ort/cpu/fp32")
    (tried,) = row.tried
    assert (tried.variant, tried.verdict) == ("misbehave/segv/fp32", Verdict.CRASHED)
    assert "SIGSEGV" in tried.reason
    assert rig.pid("agent") == agent


def test_a_model_of_an_earlier_manifest_does_not_decide_how_an_apply_ends(
    rig_factory: RigFactory, small_manifest: Callable[[str], Path]
) -> None:
    rig = rig_factory()
    path = small_manifest("[ort/cpu/fp32]")
    good = path.read_text(encoding="utf-8")
    bad = good.replace("digits:\n", "bad:\n").replace("model: digits", "model: bad")
    bad = bad.replace("ort/cpu", "misbehave/exit")
    model = bad[bad.index("  bad:") : bad.index("deployments:")]
    both = good.replace("deployments:", f"{model}deployments:") + bad[bad.index("  - {model: bad") :]

    path.write_text(both, encoding="utf-8")
    assert rig.apply(path).exit_code == 3
    path.write_text(good, encoding="utf-8")
    status = rig.apply(path)  # no device is told anything new
    assert (status.exit_code, [row.model for row in status.devices]) == (0, ["digits"])
    assert [(row.model, row.state) for row in status.left_over] == [("bad", DeviceState.REFUSED)]


def test_a_stack_that_runs_is_found_and_stopped(fleet: Any, small_manifest: Callable[[str], Path]) -> None:
    up = fleet.start("up")
    try:
        until((fleet.home / "run" / "stack.json").exists)  # the controller and the agent are still to come
        said = fleet("apply", str(small_manifest("[ort/cpu/fp32]")), "-o", "json")
        assert said.code == 0, said.err
        assert up.poll() is None
        assert fleet("down").code == 0
        up.wait(PATIENCE_S)
    finally:
        up.kill()
        up.communicate()
    until(lambda: not fleet.processes())


def test_a_second_apply_on_one_home_is_refused_and_changes_nothing(
    fleet: Any, small_manifest: Callable[[str], Path]
) -> None:
    manifest = str(small_manifest("[ort/cpu/fp32]"))
    first = fleet.start("apply", manifest)
    try:
        until((fleet.home / "run" / "stack.json").exists)
        second = fleet("apply", manifest)
        assert second.code != 0
        assert str(first.pid) in second.err
        assert first.wait(120.0) == 0
    finally:
        first.kill()
        first.communicate()
