"""Run work in a child process with limits of time and memory, and answer for every way it can end.

Both sides need this and neither may import the other: the agent runs trials in a child, the controller runs
builds and host checks in one. It is standard library only. The protocol is one JSON document each way over two
pipes of their own, so nothing a native library prints can be taken for an answer.

A death is a result (`ChildEnd`), not an exception: crash with its signal, timeout, out of memory, exit code, or
garbage on the pipe.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, NoReturn

from edgefleet_contract.text import printable

_PR_SET_PDEATHSIG = 1
_ANSWER_FD_ENV = "EDGEFLEET_ANSWER_FD"
_MEMORY_ENV = "EDGEFLEET_MEMORY_BYTES"
_PARENT_ENV = "EDGEFLEET_PARENT_PID"
_POLL_S = 0.05
_CLOSED_POLL_S = 0.005
"""A process ends within milliseconds of its pipes."""
_FAMILY_EVERY_S = 1.0
"""What a child started is looked for so often: that reads a file a thread, which each 50 ms would disturb what it
measures."""
_MOST_DESCENDANTS = 64
_READ_BYTES = 65536
_STDERR_TAIL_BYTES = 8192
_EXIT_GRACE_S = 10.0
_ADDRESS_SPACE_SLACK_BYTES = 8 * 1024**3
OUT_OF_MEMORY_EXIT = 86
"""Exit code by which a child says that an allocation failed under its limit."""


class ChildEnd(str, Enum):
    """How a child process ended."""

    ANSWERED = "answered"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out-of-memory"
    EXITED = "exited"
    GARBAGE = "garbage"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class ChildLimits:
    """Bounds on one child.

    Attributes:
        timeout_s: wall time from start to answer; the child is killed after it.
        memory_bytes: resident memory of the child and what it started; all are killed above it.
        answer_bytes: the longest answer that is read.
    """

    timeout_s: float = 300.0
    memory_bytes: int = 4 * 1024**3
    answer_bytes: int = 16 * 1024**2


@dataclass(frozen=True)
class ChildOutcome:
    """What became of a child. `answer` is set if and only if `end` is `answered`."""

    end: ChildEnd
    answer: bytes | None
    reason: str
    stderr_tail: str
    duration_s: float


def run_child(
    argv: Sequence[str],
    request: bytes,
    limits: ChildLimits,
    *,
    env: Mapping[str, str] | None = None,
    cancelled: threading.Event | None = None,
    on_started: Callable[[int], None] | None = None,
) -> ChildOutcome:
    """Start a child, hand it `request`, and wait for its answer or its end.

    The child is killed when the thread that calls this ends, so call it from one that stays.

    Args:
        argv: the command; the program must end in `serve_child`.
        request: written to the child's standard input, then closed.
        limits: time, memory and answer bounds.
        env: environment; default: this process's.
        cancelled: when set, the child is killed.
        on_started: called with the child's pid once it runs.
    """
    started_s = time.monotonic()
    read_fd, write_fd = os.pipe()
    try:
        process = _start(argv, write_fd, limits, os.environ if env is None else env)
    except BaseException:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)
    pipes = _Pipes(read_fd, process, limits.answer_bytes)
    feeder = threading.Thread(target=_feed, args=(process.stdin, request), daemon=True)
    watch = _Watch(process, pipes, limits, started_s, cancelled, _oom_kills())
    try:
        feeder.start()
        if on_started is not None:
            on_started(process.pid)
        end, answer, reason = watch.wait()
    finally:
        _reap(process)
        pipes.close()
    feeder.join(timeout=1.0)
    return ChildOutcome(end, answer, reason, pipes.tail(), time.monotonic() - started_s)


def _start(argv: Sequence[str], write_fd: int, limits: ChildLimits, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(write_fd,),
        env={
            **env,
            _ANSWER_FD_ENV: str(write_fd),
            _MEMORY_ENV: str(limits.memory_bytes),
            _PARENT_ENV: str(os.getpid()),
        },
        # Of its own session, so that Ctrl-C on the terminal reaches only the parent, which decides, and so that
        # whatever the child starts can be killed with it.
        start_new_session=True,
    )


def _feed(pipe: IO[bytes] | None, request: bytes) -> None:
    if pipe is None:
        return
    # Both the write and the flush inside close fail when the child died first; how it died is what gets reported.
    with contextlib.suppress(BrokenPipeError, ValueError):
        pipe.write(request)
    with contextlib.suppress(BrokenPipeError, ValueError):
        pipe.close()


class _Pipes:
    """What a child says: its answer, and the last few KiB of its standard error. Reading never waits for the child.

    A process the child started may hold both pipes open and write to them long after the child has ended, so their
    end is not the child's.
    """

    def __init__(self, answer_fd: int, process: subprocess.Popen[bytes], answer_bytes: int) -> None:
        self.answer = bytearray()
        self.answer_ended = False
        self._answer_fd = answer_fd
        self._answer_bytes = answer_bytes
        self._error = process.stderr
        self._tail = b""
        self._open = select.poll()
        for descriptor in (answer_fd, *([self._error.fileno()] if self._error else [])):
            os.set_blocking(descriptor, False)
            self._open.register(descriptor, select.POLLIN)

    @property
    def too_long(self) -> bool:
        """Whether the answer is longer than is read."""
        return len(self.answer) > self._answer_bytes

    def read(self, wait_s: float) -> None:
        """Read what is there, once; wait at most this long for something."""
        for descriptor, _ in self._open.poll(wait_s * 1000.0):
            self._read(descriptor)

    def drain(self) -> None:
        """Read on until nothing is left of what a child has written that has ended; others may write for ever."""
        for _ in range(self._answer_bytes // _READ_BYTES + 2):
            ready = self._open.poll(0)
            if not ready or self.too_long:
                return
            for descriptor, _ in ready:
                self._read(descriptor)

    def _read(self, descriptor: int) -> None:
        chunk = os.read(descriptor, _READ_BYTES)
        if not chunk:
            self._open.unregister(descriptor)
            self.answer_ended = self.answer_ended or descriptor == self._answer_fd
        elif descriptor == self._answer_fd:
            self.answer += chunk
        else:
            self._tail = (self._tail + chunk)[-_STDERR_TAIL_BYTES:]

    def close(self) -> None:
        """Read what is left, and close."""
        self.drain()
        os.close(self._answer_fd)
        if self._error is not None:
            self._error.close()

    def tail(self) -> str:
        """Return the end of standard error as text that can be shown and stored."""
        return printable(self._tail.decode("utf-8", "replace"))


_End = tuple[ChildEnd, bytes | None, str]
"""How a child ended, its answer, and the reason in words."""


@dataclass(frozen=True)
class _Watch:
    """Waits for a child's answer within its limits."""

    process: subprocess.Popen[bytes]
    pipes: _Pipes
    limits: ChildLimits
    started_s: float
    cancelled: threading.Event | None
    oom_kills_before: int

    def wait(self) -> _End:
        closed_s: float | None = None
        counted_s = self.started_s
        while not _has_ended(self.process):
            over = self._over_a_limit()
            if over is None and time.monotonic() - counted_s >= _FAMILY_EVERY_S:
                over, counted_s = self._family_over_its_limit(), time.monotonic()
            if over is not None:
                return over
            if closed_s is not None and time.monotonic() - closed_s > _EXIT_GRACE_S:
                reason = f"closed its answer pipe but did not exit within {_EXIT_GRACE_S:g} s"
                return ChildEnd.TIMEOUT, None, reason
            self.pipes.read(_POLL_S if closed_s is None else _CLOSED_POLL_S)
            if closed_s is None and self.pipes.answer_ended:
                closed_s = time.monotonic()
        self.pipes.drain()
        return self._judge()

    def _over_a_limit(self) -> _End | None:
        if self.cancelled is not None and self.cancelled.is_set():
            return ChildEnd.CANCELLED, None, "was cancelled"
        if time.monotonic() - self.started_s > self.limits.timeout_s:
            return ChildEnd.TIMEOUT, None, f"gave no answer in {self.limits.timeout_s:g} s and was killed"
        if self.pipes.too_long:
            return ChildEnd.GARBAGE, None, f"answered more than {self.limits.answer_bytes} bytes and was killed"
        if (resident := resident_bytes(self.process.pid)) > self.limits.memory_bytes:
            return self._out_of_memory(f"used {resident} bytes of memory")
        return None

    def _family_over_its_limit(self) -> _End | None:
        family_bytes = family_memory_bytes(self.process.pid)
        if family_bytes is None or family_bytes <= self.limits.memory_bytes:
            return None
        return self._out_of_memory(f"and what it started used {family_bytes} bytes of memory")

    def _out_of_memory(self, used: str) -> _End:
        return ChildEnd.OUT_OF_MEMORY, None, f"{used}, allowed {self.limits.memory_bytes}, and was killed"

    def _judge(self) -> _End:
        """Return how a child ended that has ended."""
        _kill_group(self.process)
        code = self.process.wait()
        if code < 0:
            return self._judge_signal(-code)
        if code == OUT_OF_MEMORY_EXIT:
            reason = f"failed to allocate memory under its limit of {self.limits.memory_bytes} bytes"
            return ChildEnd.OUT_OF_MEMORY, None, reason
        if code != 0:
            return ChildEnd.EXITED, None, f"exited with code {code} before answering"
        if self.pipes.too_long:
            return ChildEnd.GARBAGE, None, f"answered more than {self.limits.answer_bytes} bytes"
        if not self.pipes.answer:
            return ChildEnd.GARBAGE, None, "exited without an answer"
        return ChildEnd.ANSWERED, bytes(self.pipes.answer), "answered"

    def _judge_signal(self, number: int) -> _End:
        if number == signal.SIGKILL and _oom_kills() > self.oom_kills_before:
            return ChildEnd.OUT_OF_MEMORY, None, "was killed by the kernel because the machine ran out of memory"
        return ChildEnd.CRASHED, None, f"was killed by signal {number} ({_signal_name(number)})"


def _oom_kills() -> int:
    """Return how often the kernel has killed a process for memory since boot; 0 where it does not tell."""
    try:
        text = Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return 0
    counts = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    return int(counts.get("oom_kill", 0))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown signal"


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether a child has ended, without collecting it: its group's number stays its own until then."""
    if process.returncode is not None:
        return True
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return process.poll() is not None
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a child that still runs, and whatever it started that stayed in its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS answers the latter for a group of zombies
        os.killpg(process.pid, signal.SIGKILL)


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Kill a child with everything it started, and collect it."""
    if process.returncode is None:
        _kill_group(process)
    process.wait()


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory in bytes; 0 when it is gone or the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
        return int(fields[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


def descendants(pid: int) -> tuple[int, ...]:
    """Return the processes a process started, and those they started; at most 64, none where the kernel does not tell.

    One whose parent has ended is not among them.
    """
    found: list[int] = []
    waiting = [pid]
    while waiting and len(found) < _MOST_DESCENDANTS:
        for children in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError, ValueError):
                fresh = [int(word) for word in children.read_text(encoding="ascii").split()]
                found.extend(fresh)
                waiting.extend(fresh)
    return tuple(found[:_MOST_DESCENDANTS])


def family_memory_bytes(pid: int) -> int | None:
    """Return the memory of a process and its descendants in bytes, shared pages once; None where it has none."""
    started = descendants(pid)
    return sum(map(_proportional_bytes, (pid, *started))) if started else None


def _proportional_bytes(pid: int) -> int:
    """Return a process's memory in bytes, of pages that it shares only its part; 0 where the system does not say.

    A process that forked shares all its pages with the new one until either writes to them.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii", errors="replace").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    except (OSError, ValueError, IndexError):
        return 0


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends (Linux; elsewhere a no-op)."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def exit_when_closed(stream: IO[bytes], before: Callable[[], object] = lambda: None) -> None:
    """Exit this process as soon as `stream` (a pipe whose other end the parent holds) is closed.

    Works where the kernel offers no parent-death signal, and whatever thread started the process. `before` is called
    first, in a thread of its own; it must come to an end.
    """
    # Not `stream.read`: its buffer's lock, held by a thread that waits, aborts the interpreter at an orderly exit.
    descriptor = stream.fileno()

    def watch() -> None:
        while os.read(descriptor, 4096):
            pass
        try:
            before()
        finally:
            os._exit(0)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def serve_child(handle: Callable[[bytes], bytes]) -> NoReturn:
    """Answer the one request of this process: the child's side of `run_child`.

    Native libraries may print to standard output; it is sent to standard error before anything is loaded. An
    allocation that fails under the limit ends the process with `OUT_OF_MEMORY_EXIT`. Exceptions of `handle` are
    its own to turn into answers; what escapes ends the process with its traceback on standard error. Does not
    return: the process ends with the answer.
    """
    die_with_parent()
    _exit_when_orphaned(int(os.environ.pop(_PARENT_ENV, "0")))
    answer_fd = int(os.environ.pop(_ANSWER_FD_ENV))
    os.set_inheritable(answer_fd, False)
    os.dup2(2, 1)
    _set_limits(int(os.environ.pop(_MEMORY_ENV, "0")))
    request = sys.stdin.buffer.read()
    try:
        answer = handle(request)
    except MemoryError:
        os._exit(OUT_OF_MEMORY_EXIT)
    with os.fdopen(answer_fd, "wb") as pipe:
        pipe.write(answer)
    sys.stderr.flush()
    os._exit(0)  # past the answer, a native library that crashes or hangs while unloading is no concern of the caller


def _exit_when_orphaned(parent_pid: int) -> None:
    """End this process if its parent died before the kernel was asked to tell."""
    if parent_pid <= 0 or os.getppid() == parent_pid:
        return
    try:
        os.kill(parent_pid, 0)  # alive: this process was started through a wrapper
    except ProcessLookupError:
        os._exit(1)
    except PermissionError:
        return


def _set_limits(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash here is a result; its core file would fill small disks
    if memory_bytes <= 0:
        return
    # Address space is larger than resident memory (code, arenas, mapped files), so this is a second, looser fence
    # behind the parent's watch over resident memory: it stops one huge allocation the watch would see too late.
    fence = memory_bytes + _ADDRESS_SPACE_SLACK_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or fence < hard:
        resource.setrlimit(resource.RLIMIT_AS, (fence, hard))
