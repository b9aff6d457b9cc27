"""One thread that lives as long as the process and does what would hold up the agent's loop, one thing at a time.

Workers are started from it: the kernel kills a worker when the *thread* that started it ends, so that thread must
not end before the process does.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Background:
    """Runs functions in the order they were handed in, each with an event that asks it to stop."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[Callable[[threading.Event], None], threading.Event]] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        threading.Thread(target=self._run, daemon=True, name="background").start()

    def submit(self, task: Callable[[threading.Event], None]) -> None:
        """Run `task(cancelled)` after those before it."""
        self._idle.clear()
        self._tasks.put((task, self._cancelled))

    def cancel(self) -> None:
        """Ask everything handed in so far to stop."""
        self._cancelled.set()
        self._cancelled = threading.Event()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing runs, at most this long; return whether that is so."""
        return self._idle.wait(timeout_s)

    def _run(self) -> None:
        while True:
            task, cancelled = self._tasks.get()
            if not cancelled.is_set():
                _run_safely(task, cancelled)
            if self._tasks.empty():
                self._idle.set()


def _run_safely(task: Callable[[threading.Event], None], cancelled: threading.Event) -> None:
    try:
        task(cancelled)
    except Exception:
        # A thread's end is a process boundary; its task reports failures of its own kind as events.
        log.exception("a background task failed; this is a bug")
