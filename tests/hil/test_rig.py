"""The rig itself, on doubles of controller and agent: what it kills, finds and leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edgefleet_contract.errors import DeviceError, TransportError
from edgefleet_controller.stack.supervisor import Programs, StackOptions
from edgefleet_hil.plugin import RigFactory
from edgefleet_hil.rig import Rig, Target

DOUBLE = (sys.executable, "-m", "edgefleet_hil.doubles")
OPTIONS = StackOptions(programs=Programs(controller=(*DOUBLE, "controller"), agent=(*DOUBLE, "agent")))


def test_what_is_killed_comes_back_as_another_process(rig_factory: RigFactory) -> None:
    rig = rig_factory(OPTIONS)
    targets: tuple[Target, ...] = ("broker", "controller", "agent")
    killed = [rig.kill(target) for target in targets * 2]
    assert len(set(killed)) == 6
    rig.wait_ready()
    assert rig.query("select 1") == [{"query": "select 1"}]


def test_killing_a_worker_when_there_is_none_says_so(rig_factory: RigFactory) -> None:
    rig = rig_factory(OPTIONS)
    with pytest.raises(TransportError, match=r"no worker was running within 0.05 s"):
        rig.kill("worker", timeout_s=0.05)
    assert rig.pid("agent") is not None


def test_a_rig_keeps_its_disk_over_a_restart(rig_factory: RigFactory) -> None:
    rig = rig_factory(OPTIONS)
    before = rig.pid("controller")
    (rig.home.controller / "kept").write_text("yes")
    rig.stop()
    rig.start()
    assert rig.pid("controller") != before
    assert (rig.home.controller / "kept").read_text() == "yes"


def test_the_active_model_is_read_from_the_devices_disk(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert rig.active("digits") is None
    folder = rig.home.agent("local") / "models" / "digits"
    folder.mkdir(parents=True)
    (folder / "current").symlink_to("../../artifacts/ab")
    assert rig.active("digits") is None
    artifact = rig.home.agent("local") / "artifacts" / "ab"
    artifact.mkdir(parents=True)
    assert rig.active("digits") == artifact


def test_a_process_that_outlives_its_rig_is_found(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    left = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()", str(tmp_path)], stdin=subprocess.PIPE
    )
    try:
        assert [process.pid for process in rig.orphans(timeout_s=0.0)] == [left.pid]
    finally:
        left.communicate()
    assert rig.orphans(timeout_s=0.0) == []


def test_a_stopped_rig_says_that_it_is_stopped(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.stop()
    with pytest.raises(DeviceError, match="the rig is stopped"):
        rig.query("select 1")


def test_a_rig_that_cannot_start_leaves_nothing_running(tmp_path: Path) -> None:
    options = StackOptions(programs=Programs(controller=("/nowhere",)))
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    (tmp_path / "file").touch()
    with pytest.raises(Exception, match="cannot write"), Rig(tmp_path / "file" / "x", options):
        pass
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before


def test_variables_set_later_reach_the_next_start(rig_factory: RigFactory) -> None:
    rig = rig_factory(OPTIONS)
    rig.set_env(EDGEFLEET_FAULT="slow")
    rig.stop()
    rig.start()
    pid = rig.pid("agent")
    assert pid is not None
    assert psutil.Process(pid).environ()["EDGEFLEET_FAULT"] == "slow"
    assert "double of the agent" in rig.log("agent")
