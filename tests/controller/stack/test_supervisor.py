"""The supervisor with real processes: the real broker, doubles of controller and agent."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from edgefleet_contract.errors import DeviceError, TransportError, UserInputError
from edgefleet_controller.api import Empty
from edgefleet_controller.stack import supervisor
from edgefleet_controller.stack.home import FleetHome
from edgefleet_controller.stack.info import read_info
from edgefleet_controller.stack.lock import holder
from edgefleet_controller.stack.restart import RestartRule
from edgefleet_controller.stack.supervisor import (
    HomeBusyError,
    Programs,
    Stack,
    StackOptions,
    find_running,
    stop_running,
)

RUN = """
import sys, time
from pathlib import Path
from edgefleet_controller.stack.home import FleetHome
from edgefleet_controller.stack.supervisor import Programs, Stack, StackOptions
double = (sys.executable, "-m", "edgefleet_hil.doubles")
programs = Programs(controller=(*double, "controller"), agent=(*double, "agent"))
with Stack(FleetHome(Path(sys.argv[1])), StackOptions(command="fleet up", shared=True, programs=programs)) as stack:
    stack.wait_ready()
    print(*stack.pids().values(), flush=True)
    while True:
        time.sleep(60)
"""


def until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def comes_back(stack: Stack, name: str, killed: int) -> bool:
    return stack.pids().get(name, killed) != killed


def start_elsewhere(home: FleetHome) -> tuple[subprocess.Popen[str], list[int]]:
    process = subprocess.Popen([sys.executable, "-c", RUN, str(home.root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 3
    return process, pids


def finish(process: subprocess.Popen[str]) -> int:
    if process.poll() is None:
        process.kill()
    process.communicate()
    return process.returncode


@pytest.fixture
def options(doubles: Programs) -> StackOptions:
    return StackOptions(programs=doubles, rule=RestartRule(first_s=0.02, longest_s=0.1))


def test_a_stack_becomes_ready_answers_and_leaves_nothing_behind(home: FleetHome, options: StackOptions) -> None:
    told: list[str] = []
    with Stack(home, options) as stack:
        stack.wait_ready(30, on_progress=told.append)
        pids = stack.pids()
        assert sorted(pids) == ["agent", "broker", "controller"]
        with stack.api() as api:
            assert [row.device for row in api.devices(Empty()).devices] == ["local"]
        info = read_info(home.stack)
        assert info is not None
        assert (info.pids, info.pid, info.shared) == (pids, os.getpid(), False)
        assert home.stack.stat().st_mode & 0o777 == 0o600
        assert stack.token in json.loads(home.stack.read_text())["token"]
    assert told[0].startswith("waiting for the ")
    assert gone(list(pids.values()))
    assert not home.stack.exists()
    assert holder(home.lock) is None


def test_children_get_the_options_of_the_stack_and_the_token_not_on_the_command_line(
    home: FleetHome, doubles: Programs
) -> None:
    options = StackOptions(
        programs=doubles, device="edge", site="lab", labels={"role": "kiosk"}, test_runtimes=True, env={"EXTRA": "1"}
    )
    with Stack(home, options) as stack:
        stack.wait_ready(30)
        children = {name: psutil.Process(pid) for name, pid in stack.pids().items()}
        agent = " ".join(children["agent"].cmdline())
        assert "--device edge --site lab --exit-with-stdin --label role=kiosk --test-runtimes" in agent
        assert f"--home {home.agent('edge')}" in agent
        assert all(child.environ()["EXTRA"] == "1" for child in children.values())
        assert all(stack.token not in " ".join(child.cmdline()) for child in children.values())
        assert "FLEET_TOKEN" not in children["agent"].environ()
        assert all(os.getpgid(child.pid) != os.getpgid(0) for child in children.values())


def test_each_killed_child_comes_back_with_the_same_addresses(home: FleetHome, options: StackOptions) -> None:
    with Stack(home, options) as stack:
        stack.wait_ready(30)
        before, addresses = stack.pids(), (stack.url, stack.broker_url)
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(stack.pids()) == 3 and not set(stack.pids().values()) & set(before.values()))
        stack.wait_ready(30)
        assert (stack.url, stack.broker_url) == addresses
        until(lambda: (info := read_info(home.stack)) is not None and info.pids == stack.pids())
        with stack.api() as api:
            assert api.devices(Empty()).devices


def test_a_full_disk_does_not_end_the_care_for_children(
    home: FleetHome, options: StackOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Stack(home, options) as stack:
        stack.wait_ready(30)
        monkeypatch.setattr(supervisor, "write_info", full)
        for _ in range(2):
            killed = stack.pids()["agent"]
            os.kill(killed, signal.SIGKILL)
            until(partial(comes_back, stack, "agent", killed))
        stack.check()


def test_a_child_that_cannot_be_kept_running_fails_the_stack_with_its_last_words(
    home: FleetHome, options: StackOptions, doubles: Programs
) -> None:
    broken = Programs(controller=(sys.executable, "-c", "raise SystemExit('no such table')"), agent=doubles.agent)
    rule = RestartRule(first_s=0.001, longest_s=0.001, max_n=1)
    with Stack(home, StackOptions(programs=broken, rule=rule)) as stack:
        with pytest.raises(DeviceError, match=r"the controller exited with code 1, more than 1 times within") as caught:
            stack.wait_ready(30)
        assert "no such table" in str(caught.value)
        assert str(home.log("controller")) in str(caught.value.next_step)
        with stack.api() as api, pytest.raises(DeviceError, match="no such table"):
            api.devices(Empty())


def test_an_agent_that_never_comes_online_is_named_after_the_timeout(home: FleetHome, doubles: Programs) -> None:
    deaf = (sys.executable, "-c", "import sys; print('agent here', flush=True); sys.stdin.read()")
    with Stack(home, StackOptions(programs=Programs(controller=doubles.controller, agent=deaf))) as stack:
        until(lambda: "agent here" in (home.log("agent").read_text() if home.log("agent").exists() else ""))
        with pytest.raises(TransportError, match=r"not ready after 1 s: waiting for the \w+") as caught:
            stack.wait_ready(1.0)
    assert "the log of the agent ends:\nagent here" in str(caught.value)


def test_a_stack_without_an_agent_is_ready_when_its_controller_is(home: FleetHome, doubles: Programs) -> None:
    with Stack(home, StackOptions(programs=doubles, with_agent=False)) as stack:
        stack.wait_ready(30)
        assert sorted(stack.pids()) == ["broker", "controller"]


def test_the_second_stack_on_a_home_is_refused_and_the_first_lives_on(home: FleetHome, options: StackOptions) -> None:
    with Stack(home, options) as first:
        first.wait_ready(30)
        with pytest.raises(HomeBusyError, match=f"process {os.getpid()}"), Stack(home, options):
            pass
        first.wait_ready(5)
        assert read_info(home.stack) == first.info()


def test_a_chosen_broker_port_in_use_is_the_users_error_and_the_home_is_free_again(
    home: FleetHome, doubles: Programs
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserInputError, match=f"--broker-port {port}"):
            Stack(home, StackOptions(programs=doubles, broker_port=port)).__enter__()
    assert holder(home.lock) is None
    assert not home.stack.exists()


def test_a_full_disk_is_the_users_error_before_anything_starts(
    home: FleetHome, options: StackOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FleetHome, "free_bytes", lambda _: 1024)
    with pytest.raises(UserInputError, match=r"only 1.0 KiB are free"), Stack(home, options):
        pass
    assert not home.log("broker").exists()
    assert holder(home.lock) is None


def test_no_child_outlives_a_supervisor_that_is_killed(home: FleetHome, options: StackOptions) -> None:
    process, pids = start_elsewhere(home)
    process.kill()
    finish(process)
    until(lambda: gone(pids))
    assert home.stack.exists()
    assert find_running(home) is None
    with Stack(home, options) as stack:
        stack.wait_ready(30)


def test_a_stack_started_elsewhere_is_found_used_and_stopped(home: FleetHome) -> None:
    process, pids = start_elsewhere(home)
    try:
        info = find_running(home)
        assert info is not None
        assert info.shared
        assert sorted(info.pids.values()) == sorted(pids)
        stopped = stop_running(home)
        assert stopped is not None
        assert (stopped.pid, stopped.command) == (process.pid, "fleet up")
        assert gone(pids)
        assert process.wait(timeout=10) == 128 + signal.SIGTERM
        assert not home.stack.exists()
    finally:
        finish(process)


def test_ctrl_c_stops_all_children(home: FleetHome) -> None:
    process, pids = start_elsewhere(home)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=20)
    finish(process)
    assert gone(pids)
    assert not home.stack.exists()


def test_a_relative_home_works_wherever_children_run(
    tmp_path: Path, options: StackOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Stack(FleetHome(Path("here")), options) as stack:
        stack.wait_ready(30)
        assert (tmp_path / "here" / "agents" / "local" / "online").exists()
