from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.stack.home import FleetHome
from edgefleet_controller.stack.info import (
    StackInfo,
    find_running,
    is_starting,
    pid_alive,
    read_info,
    stop_running,
    write_info,
)
from edgefleet_controller.stack.lock import HomeBusyError, HomeLock, holder

HOLD = """
import sys
from pathlib import Path
from edgefleet_controller.stack.lock import HomeLock
HomeLock(Path(sys.argv[1])).acquire("fleet apply first.yaml")
print("held", flush=True)
sys.stdin.read()
"""


def hold(home: FleetHome) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home.lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def info_of(pid: int) -> StackInfo:
    fields = {"command": "fleet up", "shared": True, "url": "http://x", "token": "t", "broker": "mqtt://x", "pids": {}}
    return StackInfo.model_validate({"pid": pid, **fields})


def test_the_second_process_is_told_who_holds_the_home_and_what_to_do(home: FleetHome) -> None:
    process = hold(home)
    try:
        with pytest.raises(HomeBusyError) as caught:
            HomeLock(home.lock).acquire("fleet apply second.yaml")
    finally:
        end(process)
    assert f"process {process.pid} (`fleet apply first.yaml`) already works on {home.root}" in str(caught.value)
    assert "nothing was changed" in str(caught.value)
    assert "fleet up" in str(caught.value.next_step)


def test_a_killed_holder_frees_the_home(home: FleetHome) -> None:
    end(hold(home))
    lock = HomeLock(home.lock)
    lock.acquire("fleet apply next.yaml")
    found = holder(home.lock)
    assert found is not None
    assert found.pid == os.getpid()
    lock.release()
    lock.release()
    assert holder(home.lock) is None


def test_a_damaged_lock_file_still_says_that_it_is_held(home: FleetHome) -> None:
    lock = HomeLock(home.lock)
    lock.acquire("fleet up")
    home.lock.write_bytes(b'{"pid": nonsense')
    found = holder(home.lock)
    lock.release()
    assert found is not None
    assert (found.pid, found.command) == (0, "unknown")


def test_a_lock_that_cannot_be_opened_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="cannot open the lock"):
        HomeLock(tmp_path / "missing" / "lock").acquire("fleet up")


def test_asking_who_holds_a_lock_does_not_create_it(tmp_path: Path) -> None:
    assert holder(tmp_path / "lock") is None
    assert not (tmp_path / "lock").exists()


def test_the_info_of_a_dead_stack_is_ignored(home: FleetHome) -> None:
    process = hold(home)
    write_info(home.stack, info_of(process.pid))
    end(process)
    assert not pid_alive(process.pid)
    assert find_running(home, answers=lambda _: True) is None


def test_a_stack_is_found_while_its_lock_is_held_and_its_controller_answers(home: FleetHome) -> None:
    process = hold(home)
    write_info(home.stack, info_of(process.pid))
    try:
        assert find_running(home, answers=lambda _: True) == info_of(process.pid)
        assert find_running(home, answers=lambda _: False) is None
    finally:
        end(process)


def test_info_left_by_an_earlier_stack_does_not_count_for_the_present_one(home: FleetHome) -> None:
    write_info(home.stack, info_of(1))
    process = hold(home)
    try:
        assert find_running(home, answers=lambda _: True) is None
    finally:
        end(process)


@pytest.mark.parametrize(("info", "expected"), [(None, True), ("old", True), ("shared", True), ("private", False)])
def test_a_lasting_stack_counts_as_starting_from_its_lock_on_and_a_private_one_does_not(
    home: FleetHome, info: str | None, expected: bool
) -> None:
    assert not is_starting(home)
    process = hold(home)
    try:
        if info is not None:
            written = info_of(1 if info == "old" else process.pid)
            write_info(home.stack, written.model_copy(update={"shared": info == "shared"}))
        assert is_starting(home) is expected
    finally:
        end(process)
    assert not is_starting(home)


def test_the_info_is_readable_by_its_owner_only(home: FleetHome) -> None:
    write_info(home.stack, info_of(1))
    assert home.stack.stat().st_mode & 0o777 == 0o600
    assert read_info(home.stack) == info_of(1)
    assert [path.name for path in home.run.iterdir()] == ["stack.json"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"pid": "x"}'])
def test_info_that_is_not_ours_reads_as_none(home: FleetHome, content: bytes) -> None:
    home.stack.write_bytes(content)
    assert read_info(home.stack) is None


def test_stopping_ends_the_holder_and_says_who_it_was(home: FleetHome) -> None:
    process = hold(home)
    stopped = stop_running(home)
    assert process.wait(timeout=10) != 0
    end(process)
    assert stopped is not None
    assert stopped.pid == process.pid
    assert stop_running(home) is None
