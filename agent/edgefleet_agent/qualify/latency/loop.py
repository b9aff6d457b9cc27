"""The timed loops: one query after the other, or each at its scheduled arrival."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgefleet_agent.qualify.latency.clocks import Clocks
from edgefleet_agent.qualify.latency.stats import Nanoseconds

Call = Callable[[], object]

_CHUNK_N = 4096
"""Samples are kept in a small array inside the loop, and copied out of it between chunks."""
_LEAST_DELAY_NS = 10_000
_DELAY_SHARE = 0.02
"""A wait for the CPU counts as a disturbance from 10 µs and 2 % of the sample on: less changes no percentile."""
_WATCHED_NS = 50_000
"""Run delay is read for samples of at least 50 µs; for shorter ones reading it would take longer than it says."""
RECOVERIES_NS = (4_000_000, 3_000_000, 2_000_000, 1_000_000, 0)
"""Who had the CPU meanwhile left its caches cold. After a preemption a chain of 12 MB of weights took 70 %, 23 %, 12 %,
7 %, 4 % and 2 % longer in bins of 0.4 ms, and as long as ever after 3 to 4 ms; the longest of these is used that leaves
`KEPT_N` samples and `KEPT_SHARE` of those not preempted: where the CPU goes to and fro every 3 ms, longer ones would
leave few."""
RECOVERY_NS = RECOVERIES_NS[0]
KEPT_N = 400
"""An interval of p99 takes 368 independent samples."""
KEPT_SHARE = 0.25
"""Who under a hog has not been preempted for long was quick, or met a rare quiet moment: of such samples the last 7 %
had a p99 14 % too low, half of all one 6 % too low."""
_LEAD_NS = 3_000
"""Reading the kernel's accounts takes up to 2 µs."""
_LATE_NS = 50_000
"""A start later than this waited for the query before it; an idle loop is a few microseconds late."""


@dataclass
class Samples:
    """What is recorded of each query, in issue order.

    Attributes:
        wall_ns: from the scheduled arrival (or the start) to the end.
        late_ns: from the scheduled arrival to the start; all 0 where nothing is scheduled.
        preempted: whether the CPU was taken away meanwhile.
        due_ns: scheduled arrivals; empty where nothing is scheduled.
    """

    wall_ns: Nanoseconds = field(default_factory=lambda: np.zeros(0, np.int64))
    late_ns: Nanoseconds = field(default_factory=lambda: np.zeros(0, np.int64))
    preempted: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    due_ns: Nanoseconds = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def n(self) -> int:
        """How many."""
        return len(self.wall_ns)

    @property
    def service_ns(self) -> Nanoseconds:
        """Time from start to end."""
        return self.wall_ns - self.late_ns

    @property
    def preempted_share(self) -> float:
        """Share of samples during which the CPU was taken away."""
        return float(self.preempted.mean()) if self.n else 0.0

    @property
    def disturbed(self) -> NDArray[np.bool_]:
        """Preempted samples, those that recovered from a preemption, and those that waited in the queue behind one."""
        disturbed = self.preempted
        least_n = max(KEPT_N, KEPT_SHARE * np.count_nonzero(~disturbed))
        for recovery_ns in RECOVERIES_NS:
            disturbed = self.preempted | self._recovering(recovery_ns)
            for index in np.flatnonzero(self.late_ns > _LATE_NS):
                disturbed[index] |= index > 0 and disturbed[index - 1]
            if np.count_nonzero(~disturbed) >= least_n:
                break
        return disturbed

    def _recovering(self, recovery_ns: int) -> NDArray[np.bool_]:
        """Tell which samples began within some time after a preempted one had ended."""
        scheduled = len(self.due_ns) == self.n
        ended_ns = self.due_ns + self.wall_ns if scheduled else np.cumsum(self.wall_ns)
        last = np.maximum.accumulate(np.where(self.preempted, np.arange(self.n), -1))
        since_ns = ended_ns - self.service_ns - ended_ns[last]
        return np.asarray((last >= 0) & (since_ns < recovery_ns), np.bool_)

    def extend(self, wall_ns: array[int], late_ns: array[int], preempted: bytearray, n: int) -> None:
        """Add the first n of what a loop wrote down."""
        self.wall_ns = np.concatenate([self.wall_ns, np.frombuffer(wall_ns, np.int64)[:n]])
        self.late_ns = np.concatenate([self.late_ns, np.frombuffer(late_ns, np.int64)[:n]])
        self.preempted = np.concatenate([self.preempted, np.frombuffer(bytes(preempted[:n]), np.bool_)])


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the timed loop."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def take(call: Call, samples: Samples, stop_n: int, deadline_ns: int, clocks: Clocks, *, typical_ns: int = 0) -> int:
    """Infer one query after the other until `stop_n` samples are there or the deadline passed, but at least once.

    The kernel's accounts are read between samples, outside of what is timed.

    Args:
        call: one query.
        samples: is extended.
        stop_n: the number of samples to reach.
        deadline_ns: by `clocks.now_ns`.
        clocks: time and the kernel's accounts.
        typical_ns: what a query takes, from warm-up; decides whether run delay is worth reading.

    Returns:
        The clock at the end, in nanoseconds.
    """
    ended_ns = clocks.now_ns()
    while samples.n < stop_n and (ended_ns < deadline_ns or samples.n == 0):
        chunk_n = min(_CHUNK_N, stop_n - samples.n)
        walls, flags = array("q", bytes(8 * chunk_n)), bytearray(chunk_n)
        watched = typical_ns >= _WATCHED_NS
        filled_n, ended_ns = (_watched if watched else _quick)(call, walls, flags, deadline_ns, clocks)
        samples.extend(walls, array("q", bytes(8 * chunk_n)), flags, filled_n)
    return ended_ns


def _quick(call: Call, walls: array[int], flags: bytearray, deadline_ns: int, clocks: Clocks) -> tuple[int, int]:
    now_ns, switches = clocks.now_ns, clocks.switches
    ended_ns, index = 0, 0
    seen_n = switches()
    for index in range(len(walls)):
        began_ns = now_ns()
        call()
        ended_ns = now_ns()
        walls[index] = ended_ns - began_ns
        switched_n = switches()
        if switched_n != seen_n:
            flags[index], seen_n = 1, switched_n
        if ended_ns >= deadline_ns:
            break
    return index + 1, ended_ns


def _watched(call: Call, walls: array[int], flags: bytearray, deadline_ns: int, clocks: Clocks) -> tuple[int, int]:
    now_ns, switches, run_delay_ns = clocks.now_ns, clocks.switches, clocks.run_delay_ns
    ended_ns, index = 0, 0
    seen_n, delay_ns = switches(), run_delay_ns()
    for index in range(len(walls)):
        began_ns = now_ns()
        call()
        ended_ns = now_ns()
        wall_ns = walls[index] = ended_ns - began_ns
        switched_n, delayed_ns = switches(), run_delay_ns()
        if switched_n != seen_n or delayed_ns - delay_ns > max(_LEAST_DELAY_NS, _DELAY_SHARE * wall_ns):
            flags[index] = 1
        seen_n, delay_ns = switched_n, delayed_ns
        if ended_ns >= deadline_ns:
            break
    return index + 1, ended_ns


def take_scheduled(
    call: Call, samples: Samples, arrivals_ns: Nanoseconds, stop_n: int, deadline_ns: int, clocks: Clocks
) -> int:
    """Infer each query at its scheduled arrival, or as soon after it as the one before has ended.

    Args:
        call: one query.
        samples: is extended; the arrival after the samples it holds comes next.
        arrivals_ns: when queries arrive, by `clocks.now_ns`, ascending.
        stop_n: the number of samples to reach.
        deadline_ns: arrivals after it are left out, except the first.
        clocks: time and the kernel's accounts.

    Returns:
        The clock at the end, in nanoseconds.
    """
    due = arrivals_ns[samples.n : stop_n].tolist()
    walls, lates, flags = array("q", bytes(8 * len(due))), array("q", bytes(8 * len(due))), bytearray(len(due))
    now_ns, switches, run_delay_ns, wait_until = clocks.now_ns, clocks.switches, clocks.run_delay_ns, clocks.wait_until
    ended_ns, filled_n, held_up_ns = now_ns(), 0, 0
    seen_n, delay_ns = switches(), run_delay_ns()
    for due_ns in due:
        if filled_n + samples.n > 0 and (due_ns > deadline_ns or ended_ns >= deadline_ns):
            break
        held_up_ns = 0
        if ended_ns < due_ns:
            # The accounts are read shortly before the arrival: what happened while nothing was due does not count.
            wait_until(due_ns - _LEAD_NS)
            seen_n, woken_ns = switches(), run_delay_ns()
            held_up_ns, delay_ns = woken_ns - delay_ns, woken_ns
            wait_until(due_ns)
        began_ns = now_ns()
        call()
        ended_ns = now_ns()
        wall_ns, late_ns = ended_ns - due_ns, began_ns - due_ns
        walls[filled_n], lates[filled_n] = wall_ns, late_ns
        switched_n, delayed_ns = switches(), run_delay_ns()
        taken_away = switched_n != seen_n or delayed_ns - delay_ns > max(_LEAST_DELAY_NS, _DELAY_SHARE * wall_ns)
        if taken_away or (late_ns > _LATE_NS and held_up_ns > _LEAST_DELAY_NS):
            flags[filled_n] = 1
        seen_n, delay_ns = switched_n, delayed_ns
        filled_n += 1
    samples.extend(walls, lates, flags, filled_n)
    samples.due_ns = arrivals_ns[: samples.n]
    return ended_ns
