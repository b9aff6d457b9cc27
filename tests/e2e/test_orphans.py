"""However a command ends, nothing it started goes on: not a compile child, not a trial, not the stack."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgefleet_contract.report import DeviceState

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

PATIENCE_S = 60.0
GRACE_S = 15.0
"""A stack is given 3 s a child to end by itself before it is killed."""

COMPILE = "edgefleet_controller.compile"
WORKER = "edgefleet_agent.worker"
TRIAL = "device local/digits: qualifying"
"""What an apply says when a trial begins; the agent's first probe is a worker too."""


class Watched:
    """A command, and every process below it that was ever seen."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen: dict[int, psutil.Process] = {}

    def look(self) -> list[str]:
        """Note what runs below the command now; return their command lines."""
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            below = []
        self.seen.update((child.pid, child) for child in below)
        return [words for child in below if (words := _command(child))]

    def kill(self) -> None:
        """Kill the command, as `kill -9` does, and what it still has to say with it. Safe to call twice."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def until_said(self, words: str) -> None:
        """Wait until the command prints a line with these words."""
        assert self.process.stdout is not None
        told = []
        for line in self.process.stdout:
            told.append(line)
            if words in line:
                return
        raise AssertionError("".join(told))

    def until_below(self, module: str) -> None:
        """Wait until a process of this module runs below the command."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not any(module in words for words in self.look()):
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline_s, f"no {module} was seen"
            time.sleep(0.005)

    def until_all_gone(self) -> None:
        """Wait until nothing that was seen runs any more."""
        deadline_s = time.monotonic() + GRACE_S
        while left := [child for child in self.seen.values() if _runs(child)]:
            assert time.monotonic() < deadline_s, [_command(child) for child in left]
            time.sleep(0.02)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def manifest(small_manifest: Callable[[str], Path]) -> str:
    return str(small_manifest("[ort/cpu/fp32]"))


def test_nothing_outlives_an_apply_that_is_killed_while_it_looks_into_a_model(fleet: Any, manifest: str) -> None:
    apply = Watched(fleet.start("apply", manifest))
    apply.until_below(COMPILE)
    apply.kill()
    apply.until_all_gone()


def test_nothing_outlives_an_apply_that_is_killed_during_a_trial_and_the_next_one_ends_well(
    fleet: Any, manifest: str
) -> None:
    apply = Watched(fleet.start("apply", manifest))
    apply.until_said(TRIAL)
    apply.until_below(WORKER)
    apply.kill()
    apply.until_all_gone()
    again = fleet("apply", manifest, "-o", "json")
    assert again.code == 0, again.err
    assert [row["state"] for row in again.json["devices"]] == [DeviceState.ACTIVE.value]


def test_ctrl_c_during_a_trial_takes_everything_with_it_and_says_how_to_go_on(fleet: Any, manifest: str) -> None:
    apply = Watched(fleet.start("apply", manifest))
    apply.until_said(TRIAL)
    apply.until_below(WORKER)
    apply.process.send_signal(signal.SIGINT)
    said = apply.process.communicate(timeout=GRACE_S)[0]
    assert apply.process.returncode == 130, said
    apply.until_all_gone()
    assert not (fleet.home / "run" / "stack.json").exists()
    assert f"To go on: fleet apply {manifest}" in said


def test_nothing_outlives_fleet_up_that_is_killed_during_a_trial_for_another_terminal(
    fleet: Any, manifest: str
) -> None:
    up = Watched(fleet.start("up"))
    up.until_below("edgefleet_controller.stack.broker")
    apply = Watched(fleet.start("apply", manifest))
    try:
        apply.until_said(TRIAL)
        up.until_below(WORKER)
        up.kill()
        up.until_all_gone()
    finally:
        for each in (apply, up):
            each.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_fleet_up_that_is_asked_to_end_stops_all_children(fleet: Any, number: signal.Signals, code: int) -> None:
    up = Watched(fleet.start("up"))
    up.until_said("Ctrl-C stops it")
    assert len(up.look()) == 3
    up.process.send_signal(number)
    said = up.process.communicate(timeout=GRACE_S)[0]
    assert up.process.returncode == code, said
    up.until_all_gone()
    assert not (fleet.home / "run" / "stack.json").exists()


def test_a_command_that_ends_well_leaves_nothing_and_down_then_finds_nothing(fleet: Any, manifest: str) -> None:
    plan = Watched(fleet.start("plan", manifest))
    plan.until_below("edgefleet_agent")
    said = plan.process.communicate(timeout=PATIENCE_S)[0]
    assert plan.process.returncode == 0, said
    plan.until_all_gone()
    down = fleet("down")
    assert (down.code, "no stack is running" in down.err) == (0, True)
