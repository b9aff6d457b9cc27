"""What an apply tells about itself while it runs: events in the store, and a bell for those who wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from edgefleet_controller.api import ProgressEvent, Stage, Unit

MIN_INTERVAL_S = 0.2
"""Figures that move faster than this are not written each time: nobody can read them, and each is a transaction."""


class EventStore(Protocol):
    """What is needed of the store."""

    def add_event(
        self,
        revision: int,
        stage: Stage,
        key: str,
        text: str,
        *,
        at_ns: int,
        done: float | None = None,
        total: float | None = None,
        unit: Unit | None = None,
    ) -> None:
        """Write an event; it replaces the one with the same stage and key."""

    def events_after(self, revision: int, after_id: int) -> tuple[ProgressEvent, ...]:
        """Return events newer than an id."""


class Bell:
    """Wakes everyone who waits for something to happen."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._rung_n = 0

    def ring(self) -> None:
        """Wake everyone."""
        with self._condition:
            self._rung_n += 1
            self._condition.notify_all()

    def count(self) -> int:
        """Return how often it rang; pass it to `wait` so that nothing in between is missed."""
        with self._condition:
            return self._rung_n

    def wait(self, seen_n: int, timeout_s: float) -> int:
        """Wait until it has rung more than `seen_n` times, or `timeout_s` has passed; return how often it rang."""
        with self._condition:
            self._condition.wait_for(lambda: self._rung_n > seen_n, timeout=timeout_s)
            return self._rung_n


class Progress:
    """Writes the events of one revision and rings the bell."""

    def __init__(
        self,
        store: EventStore,
        revision: int,
        bell: Bell,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._revision = revision
        self._bell = bell
        self._clock_ns = clock_ns
        self._monotonic_s = monotonic_s
        self._last_s: dict[tuple[str, str], float] = {}

    def event(
        self,
        stage: Stage,
        key: str,
        text: str,
        done: float | None = None,
        total: float | None = None,
        unit: Unit | None = None,
    ) -> None:
        """Tell of a step. Figures on their way to `total` are thinned out; the first and the last always show."""
        if self._too_soon(stage, key, done, total):
            return
        self._store.add_event(
            self._revision,
            stage,
            key[:256],
            text[:500],
            at_ns=self._clock_ns(),
            done=done,
            total=total,
            unit=unit,
        )
        self._bell.ring()

    def _too_soon(self, stage: str, key: str, done: float | None, total: float | None) -> bool:
        now_s = self._monotonic_s()
        last_s = self._last_s.get((stage, key))
        moving = done is not None and total is not None and done < total
        if moving and last_s is not None and now_s - last_s < MIN_INTERVAL_S:
            return True
        self._last_s[stage, key] = now_s
        return False
