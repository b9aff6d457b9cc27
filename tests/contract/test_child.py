"""Running work in a child: every way it can end is a result, and nothing outlives its parent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgefleet_contract.child import (
    ChildEnd,
    ChildLimits,
    ChildOutcome,
    descendants,
    family_memory_bytes,
    resident_bytes,
    run_child,
)

LIMITS = ChildLimits(timeout_s=30.0, memory_bytes=512 * 1024**2)

SERVE = """
import os, signal, sys, time
from edgefleet_contract.child import serve_child
def handle(request):
{body}
serve_child(handle)
"""


def child(body: str) -> list[str]:
    indented = "\n".join("    " + line for line in body.strip().splitlines())
    return [sys.executable, "-c", SERVE.format(body=indented)]


def outcome_of(body: str, limits: ChildLimits = LIMITS, request: bytes = b"") -> ChildOutcome:
    return run_child(child(body), request, limits)


def descriptors_n() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def closed_at_the_other_end(read_fd: int) -> bool:
    return bool(select.select([read_fd], [], [], 10)[0]) and os.read(read_fd, 1) == b""


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "alive")
    return tmp_path / "alive"


def test_a_child_answers_what_its_handler_returns() -> None:
    outcome = outcome_of("return request[::-1]", request=b"abc")
    assert (outcome.end, outcome.answer) == (ChildEnd.ANSWERED, b"cba")
    assert outcome.duration_s > 0


def test_requests_and_answers_larger_than_a_pipe_pass_whole() -> None:
    request = bytes(range(256)) * 8192
    outcome = outcome_of("return request + request", request=request)
    assert outcome.answer == request * 2


def test_what_a_library_prints_is_no_part_of_the_answer() -> None:
    outcome = outcome_of("os.write(1, b'printed by a driver')\nprint('more', flush=True)\nreturn b'answer'")
    assert outcome.answer == b"answer"
    assert "printed by a driver" in outcome.stderr_tail
    assert "more" in outcome.stderr_tail


def test_only_the_end_of_a_long_standard_error_is_kept() -> None:
    outcome = outcome_of("sys.stderr.write('x' * 100_000 + 'the end')\nreturn b'answer'")
    assert outcome.stderr_tail.endswith("the end")
    assert len(outcome.stderr_tail) <= 8192


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_child_killed_by_a_signal_has_crashed_and_the_signal_is_named(name: str) -> None:
    outcome = outcome_of(f"os.kill(os.getpid(), signal.{name})\ntime.sleep(60)")
    assert outcome.end is ChildEnd.CRASHED
    assert name in outcome.reason
    assert outcome.answer is None


def test_a_child_that_hangs_is_killed_at_its_time_limit() -> None:
    outcome = outcome_of("time.sleep(600)", ChildLimits(timeout_s=0.3))
    assert outcome.end is ChildEnd.TIMEOUT
    assert "0.3 s" in outcome.reason
    assert outcome.duration_s < 10


def test_a_child_that_does_not_even_read_its_request_is_killed_at_its_time_limit() -> None:
    argv = [sys.executable, "-c", "import time; time.sleep(600)"]
    outcome = run_child(argv, b"x" * 1_000_000, ChildLimits(timeout_s=0.3))
    assert outcome.end is ChildEnd.TIMEOUT


def test_a_child_that_fills_memory_is_killed_at_its_limit() -> None:
    body = "hoard = []\nwhile True:\n    hoard.append(b'x' * 4_000_000)\n    time.sleep(0.002)"
    outcome = outcome_of(body, ChildLimits(timeout_s=30.0, memory_bytes=64 * 1024**2))
    assert outcome.end is ChildEnd.OUT_OF_MEMORY
    assert str(64 * 1024**2) in outcome.reason


HOG = """
if os.fork() == 0:
    hoard = bytearray(160_000_000)
    hoard[::4096] = b"x" * len(hoard[::4096])
    signal.pause()
os.wait()
"""


def test_memory_of_a_process_that_a_child_started_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefleet_contract.child._FAMILY_EVERY_S", 0.01)
    outcome = outcome_of(HOG, ChildLimits(timeout_s=30.0, memory_bytes=128 * 1024**2))
    assert outcome.end is ChildEnd.OUT_OF_MEMORY
    assert outcome.reason.startswith("and what it started used ")


FORKS = """
import os, sys
hoard = bytearray(100_000_000)
hoard[::4096] = b"x" * len(hoard[::4096])
if os.fork():
    print("up", flush=True)
sys.stdin.read()
"""


def test_memory_that_a_fork_shares_counts_once() -> None:
    argv = [sys.executable, "-c", FORKS]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert len(descendants(process.pid)) == 1
        family_bytes, own_bytes = family_memory_bytes(process.pid), resident_bytes(process.pid)
        assert process.stdin is not None
        process.stdin.close()
    assert family_bytes is not None
    assert 100_000_000 < family_bytes < 1.3 * own_bytes


def test_a_process_that_started_none_has_no_family() -> None:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        assert family_memory_bytes(process.pid) is None


def test_one_huge_allocation_is_out_of_memory_and_not_a_crash() -> None:
    outcome = outcome_of("return bytes(1 << 40)")
    assert outcome.end is ChildEnd.OUT_OF_MEMORY


def test_an_exception_that_escapes_is_an_exit_with_its_traceback() -> None:
    outcome = outcome_of("raise ValueError('a bug of ours')")
    assert outcome.end is ChildEnd.EXITED
    assert "code 1" in outcome.reason
    assert "a bug of ours" in outcome.stderr_tail


def test_an_exit_code_is_told() -> None:
    outcome = outcome_of("os._exit(7)")
    assert (outcome.end, "code 7" in outcome.reason) == (ChildEnd.EXITED, True)


def test_exiting_well_without_an_answer_is_garbage() -> None:
    assert outcome_of("os._exit(0)").end is ChildEnd.GARBAGE


def test_an_answer_without_end_is_cut_off_and_garbage() -> None:
    limits = ChildLimits(timeout_s=30.0, answer_bytes=100_000)
    outcome = outcome_of("return b'x' * 10_000_000", limits)
    assert outcome.end is ChildEnd.GARBAGE
    assert "100000 bytes" in outcome.reason


def test_a_crash_while_unloading_after_the_answer_does_not_matter() -> None:
    outcome = outcome_of("import atexit\natexit.register(os.abort)\nreturn b'answer'")
    assert outcome.end is ChildEnd.ANSWERED


def test_a_program_that_cannot_start_raises_and_leaks_no_descriptor() -> None:
    before = descriptors_n()
    with pytest.raises(FileNotFoundError):
        run_child(["/no/such/program"], b"", LIMITS)
    assert descriptors_n() == before


def test_no_descriptor_and_no_thread_is_left_after_any_end() -> None:
    outcome_of("return b'warm'")
    descriptors, threads = descriptors_n(), threading.active_count()
    outcome_of("return b'answer'")
    outcome_of("os._exit(7)", request=b"x" * 1_000_000)
    outcome_of("time.sleep(600)", ChildLimits(timeout_s=0.2))
    assert (descriptors_n(), threading.active_count()) == (descriptors, threads)


def test_a_cancelled_child_is_killed() -> None:
    cancelled = threading.Event()
    pids: list[int] = []

    def cancel(pid: int) -> None:
        pids.append(pid)
        cancelled.set()

    outcome = run_child(child("time.sleep(600)"), b"", LIMITS, cancelled=cancelled, on_started=cancel)
    assert outcome.end is ChildEnd.CANCELLED
    assert resident_bytes(pids[0]) == 0


def test_a_callback_that_raises_takes_its_child_with_it() -> None:
    pids: list[int] = []

    def fail(pid: int) -> None:
        pids.append(pid)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        run_child(child("time.sleep(600)"), b"", LIMITS, on_started=fail)
    assert resident_bytes(pids[0]) == 0


def test_what_a_killed_child_started_is_killed_with_it(fifo: Path) -> None:
    cancelled = threading.Event()
    held: list[int] = []

    def cancel_once_the_grandchild_runs(_: int) -> None:
        held.append(os.open(fifo, os.O_RDONLY))
        assert os.read(held[0], 3) == b"up\n"
        cancelled.set()

    started = f"subprocess.Popen('echo up; exec sleep 600', shell=True, stdout=open({str(fifo)!r}, 'w'))"
    body = f"import subprocess\n{started}\ntime.sleep(600)"
    outcome = run_child(child(body), b"", LIMITS, cancelled=cancelled, on_started=cancel_once_the_grandchild_runs)
    assert outcome.end is ChildEnd.CANCELLED
    assert closed_at_the_other_end(held[0])
    os.close(held[0])


LEAVE_BEHIND = """
alive = open({fifo!r}, 'w')
if os.fork() == 0:
    {first}
    os._exit(0)
"""
"""Leaves a process behind that holds the child's pipes; the fifo stays open while one of the two lives."""


@pytest.mark.parametrize(
    ("last", "end"),
    [
        ("return b'answer'", ChildEnd.ANSWERED),
        ("os._exit(5)", ChildEnd.EXITED),
        ("os.kill(os.getpid(), signal.SIGSEGV)", ChildEnd.CRASHED),
    ],
)
def test_a_process_left_behind_with_the_pipes_hides_no_end_and_is_killed(last: str, end: ChildEnd, fifo: Path) -> None:
    held = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    outcome = outcome_of(LEAVE_BEHIND.format(fifo=str(fifo), first="time.sleep(15)") + last)
    assert outcome.end is end
    assert closed_at_the_other_end(held)
    assert outcome.duration_s < 3
    os.close(held)


def test_a_process_that_left_the_childs_group_holds_up_nothing(fifo: Path) -> None:
    threads = threading.active_count()
    held = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    outcome = outcome_of(LEAVE_BEHIND.format(fifo=str(fifo), first="os.setsid(); time.sleep(3)") + "return b'answer'")
    assert outcome.answer == b"answer"
    assert outcome.duration_s < 3
    assert threading.active_count() == threads
    os.close(held)


def test_a_child_that_closes_its_pipes_and_lives_is_killed_at_its_time_limit() -> None:
    outcome = outcome_of("os.closerange(1, 64)\ntime.sleep(600)", ChildLimits(timeout_s=0.5))
    assert outcome.end is ChildEnd.TIMEOUT
    assert outcome.duration_s < 5


def test_a_child_that_never_stops_talking_is_read_and_forgotten() -> None:
    outcome = outcome_of("line = b'x' * 65536\nfor _ in range(1600):\n    os.write(2, line)\nos._exit(4)")
    assert outcome.end is ChildEnd.EXITED
    assert len(outcome.stderr_tail) == 8192


def test_last_words_hold_nothing_that_steers_a_terminal_or_that_a_database_refuses() -> None:
    outcome = outcome_of("os.write(2, b'\\x1b[31mred\\x1b[0m \\x00\\x07\\xff end\\n')\nos._exit(4)")
    assert outcome.stderr_tail == "red \ufffd\ufffd\ufffd end\n"


def test_a_child_dies_with_a_parent_that_is_killed(fifo: Path) -> None:
    argv = child(f"alive = open({str(fifo)!r}, 'w')\nalive.write('up')\nalive.flush()\ntime.sleep(600)")
    start = f"from edgefleet_contract.child import *; run_child({argv!r}, b'', ChildLimits())"
    parent = subprocess.Popen([sys.executable, "-c", start])
    read_fd = os.open(fifo, os.O_RDONLY)
    assert os.read(read_fd, 2) == b"up"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert closed_at_the_other_end(read_fd)
    os.close(read_fd)


def test_a_child_whose_parent_died_before_it_could_ask_ends_at_once() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    environment = {**os.environ, "EDGEFLEET_PARENT_PID": str(gone.pid), "EDGEFLEET_ANSWER_FD": "1"}
    orphan = subprocess.run(child("return b'answer'"), env=environment, input=b"", capture_output=True, check=False)
    assert (orphan.returncode, orphan.stdout) == (1, b"")


def test_a_crashing_child_leaves_no_core_file() -> None:
    outcome = outcome_of("import resource\nreturn str(resource.getrlimit(resource.RLIMIT_CORE)).encode()")
    assert outcome.answer == b"(0, 0)"


def test_resident_memory_of_a_process_that_is_gone_is_zero() -> None:
    assert resident_bytes(os.getpid()) > 1024**2
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert resident_bytes(gone.pid) == 0


def test_waiting_for_a_child_uses_a_monotonic_clock() -> None:
    began_s = time.monotonic()
    outcome = outcome_of("return b'answer'")
    assert 0 < outcome.duration_s <= time.monotonic() - began_s
