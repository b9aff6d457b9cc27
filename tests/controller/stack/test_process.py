from __future__ import annotations

import io
import sys
from pathlib import Path
from queue import Queue

import psutil
import pytest

from edgefleet_controller.stack.process import BoundedLog, ChildSpec, ManagedProcess
from edgefleet_controller.stack.restart import RestartRule

FAST = RestartRule(first_s=0.001, longest_s=0.001, max_n=3)


class Watched:
    """A managed process whose starts and surrender can be waited for."""

    def __init__(self, folder: Path, code: str, rule: RestartRule = FAST) -> None:
        self.started: Queue[int] = Queue()
        self.gave_up: Queue[tuple[str, str]] = Queue()
        self.log = BoundedLog(folder / "child.log")
        self.process = ManagedProcess(
            ChildSpec("child", (sys.executable, "-c", code), {"SAID": "hello"}),
            self.log,
            rule=rule,
            on_started=lambda _, pid: self.started.put(pid),
            on_gave_up=lambda name, end: self.gave_up.put((name, end)),
        )
        self.process.start()

    def next_pid(self) -> int:
        return self.started.get(timeout=10)


def test_a_child_that_is_killed_is_started_again(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "import sys; sys.stdin.read()")
    first = watched.next_pid()
    psutil.Process(first).kill()
    second = watched.next_pid()
    assert second != first
    watched.process.stop()
    assert not psutil.pid_exists(second)
    assert watched.gave_up.empty()


def test_a_child_that_keeps_dying_is_given_up_with_how_it_ended(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "import os; print(os.environ['SAID']); raise SystemExit(7)")
    assert watched.gave_up.get(timeout=10) == ("child", "exited with code 7")
    assert [watched.next_pid() for _ in range(4)]
    assert watched.log.tail() == "\n".join(["hello"] * 4)
    watched.process.stop()


def test_a_crash_is_named_by_its_signal(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert watched.gave_up.get(timeout=10)[1] == "was killed by signal 11"
    watched.process.stop()


def test_a_program_that_does_not_exist_is_given_up_with_the_reason(tmp_path: Path) -> None:
    gave_up: Queue[str] = Queue()
    process = ManagedProcess(
        ChildSpec("child", ("/nowhere/program",)),
        BoundedLog(tmp_path / "log"),
        rule=FAST,
        on_started=lambda *_: None,
        on_gave_up=lambda _, end: gave_up.put(end),
    )
    process.start()
    assert "could not be started" in gave_up.get(timeout=10)
    process.stop()


def test_a_child_deaf_to_sigterm_is_killed_with_its_group(tmp_path: Path) -> None:
    watched = Watched(
        tmp_path,
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "print(child.pid, flush=True)\n"
        "signal.pause()",
    )
    pid = watched.next_pid()
    while not (text := watched.log.tail()):
        assert psutil.pid_exists(pid)
    grandchild = psutil.Process(int(text))
    watched.process.stop(grace_s=0.05)
    assert not psutil.pid_exists(pid)
    # Killed with the group, but reaped by whoever adopted it, in their own time.
    psutil.wait_procs([grandchild], timeout=2)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_stopping_between_two_lives_starts_no_third(tmp_path: Path) -> None:
    slow = RestartRule(first_s=60.0, longest_s=60.0)
    watched = Watched(tmp_path, "raise SystemExit(1)", slow)
    watched.next_pid()
    watched.process.stop()
    watched.process.stop()
    assert watched.started.empty()
    assert watched.process.pid is None


def test_standard_input_stays_open_while_the_child_is_wanted(tmp_path: Path) -> None:
    code = "from edgefleet_contract import child; import sys, signal; child.exit_when_closed(sys.stdin); signal.pause()"
    watched = Watched(tmp_path, code)
    pid = watched.next_pid()
    with pytest.raises(psutil.TimeoutExpired):
        psutil.Process(pid).wait(timeout=0.3)
    watched.process.stop()


def test_a_log_moves_aside_at_its_limit_and_keeps_the_last_part(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "x.log", limit_bytes=100)
    for number in range(50):
        log.append(f"line {number:02}\n".encode())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.log", "x.log.1"]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    assert log.tail().endswith("line 49")


def test_a_tail_begins_with_a_whole_line(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "x.log")
    log.append(b"first\nsecond\nthird\n")
    assert log.tail(10) == "third"
    assert log.tail() == "first\nsecond\nthird"


def test_a_missing_log_has_an_empty_tail(tmp_path: Path) -> None:
    assert BoundedLog(tmp_path / "none").tail() == ""


def test_a_log_that_cannot_be_written_does_not_stop_the_reading(tmp_path: Path) -> None:
    stream = io.BufferedReader(io.BytesIO(b"x" * 1000))
    BoundedLog(tmp_path / "missing" / "x.log").copy_from(stream)
    assert stream.closed
