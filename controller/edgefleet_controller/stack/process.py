"""One supervised child process: started, logged, restarted when it dies, stopped without leaving anything behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from edgefleet_controller.stack.restart import RestartBudget, RestartRule

LOG_BYTES = 5 * 1024**2
"""A log file is moved aside (`.1`) at this size: two of them are all a child can ever fill."""

_READ_BYTES = 65_536
TAIL_BYTES = 4096


@dataclass(frozen=True)
class ChildSpec:
    """What to run: a name for people and files, the command, additions to this process's environment."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


class BoundedLog:
    """A log file with a largest size: what is over it stays readable in `<name>.log.1` until the next time."""

    def __init__(self, path: Path, limit_bytes: int = LOG_BYTES) -> None:
        self._path = path
        self._limit_bytes = limit_bytes

    def copy_from(self, stream: IO[bytes]) -> None:
        """Append all of `stream` until it ends. A disk that is full or gone loses log lines, never blocks the child."""
        with stream:
            while chunk := stream.read1(_READ_BYTES):  # type: ignore[attr-defined]
                with contextlib.suppress(OSError):
                    self.append(chunk)

    def append(self, chunk: bytes) -> None:
        """Write `chunk` at the end; move the file aside first when it would grow above its limit."""
        size_bytes = self._path.stat().st_size if self._path.exists() else 0
        if size_bytes and size_bytes + len(chunk) > self._limit_bytes:
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        with self._path.open("ab") as file:
            file.write(chunk)

    def tail(self, limit_bytes: int = TAIL_BYTES) -> str:
        """Return the last whole lines, at most `limit_bytes`; empty when there is no log."""
        try:
            with self._path.open("rb") as file:
                size_bytes = file.seek(0, os.SEEK_END)
                file.seek(max(0, size_bytes - limit_bytes))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        whole = text if size_bytes <= limit_bytes else text.partition("\n")[2]
        return whole.strip()


class ManagedProcess:
    """A child that is kept running until `stop`.

    All starts happen in one thread that lives as long as the child is wanted: a child that asks the kernel to die with
    its parent (PR_SET_PDEATHSIG) dies with the *thread* that started it. Its standard input is a pipe we hold open; the
    kernel closes it however we end, and the child exits then.

    Args:
        spec: what to run.
        log: where its output goes.
        on_started: called with each new pid, from the child's thread.
        on_gave_up: called once, when the rule says that restarting does not help.
    """

    def __init__(
        self,
        spec: ChildSpec,
        log: BoundedLog,
        *,
        rule: RestartRule,
        on_started: Callable[[str, int], None],
        on_gave_up: Callable[[str, str], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self.log = log
        self._budget = RestartBudget(rule)
        self._on_started = on_started
        self._on_gave_up = on_gave_up
        self._clock_s = clock_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep_running, daemon=True, name=f"keep-{spec.name}")

    @property
    def name(self) -> str:
        """The child's name."""
        return self._spec.name

    @property
    def pid(self) -> int | None:
        """The pid of the running child, or None between two lives."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the child and keep it running."""
        self._thread.start()

    def _keep_running(self) -> None:
        while not self._stopping.is_set():
            end = self._live_once()
            pause_s = self._budget.next_pause_s(self._clock_s())
            if self._stopping.is_set():
                return
            if pause_s is None:
                self._on_gave_up(self.name, end)
                return
            self._stopping.wait(pause_s)

    def _live_once(self) -> str:
        try:
            process = self._spawn()
        except OSError as error:
            return f"could not be started: {error}"
        if process is None:
            return "not started: stopping"
        pump = threading.Thread(target=self.log.copy_from, args=(process.stdout,), daemon=True, name=f"log-{self.name}")
        pump.start()
        self._on_started(self.name, process.pid)
        code = process.wait()
        # Whatever a dead child left running in its group may hold the pipe: do not wait for its end without a bound.
        pump.join(timeout=1.0)
        if process.stdin is not None:
            process.stdin.close()
        return f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            self._process = subprocess.Popen(
                self._spec.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._spec.env},
                process_group=0,  # a Ctrl-C at the terminal is for us; we stop children in order
            )
            return self._process

    def stop(self, grace_s: float = 3.0) -> None:
        """End the child: SIGTERM, `grace_s` to finish, then SIGKILL for its whole group. Safe to call twice."""
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is not None:
            _end(process, grace_s)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=grace_s)


def _end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    process.terminate()
    try:
        process.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
