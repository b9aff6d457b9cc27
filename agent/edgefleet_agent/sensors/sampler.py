"""Reads rails over time: at a random moment within each period, so that no regular load can hide between readings.

Point sampling at a fixed rate is blind to loads that beat with it: 30 ms bursts ten times a second, sampled at 10 Hz,
gave 55 % of error at any length of the run. One reading at a uniformly random moment of each period (stratified
sampling) is unbiased for every load; balancing these moments takes most of the error from loads that repeat at the
sampling rate, a multiple or a simple fraction of it.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgefleet_agent.sensors.files import SensorFileError
from edgefleet_agent.sensors.rails import Call, Rail
from edgefleet_agent.sensors.reader import Row
from edgefleet_contract.profile import RailKind

FASTEST_S = 0.005
"""200 Hz: twice what 1 % on 60 s of 30 ms bursts needs, and still below 1 % of a core where a reading takes 50 µs."""
FILE_SHARE = 0.2
"""Reading files takes at most this share of the time, most of which is waiting for a bus: 2 ms are read at 100 Hz."""
CALL_SHARE = 0.05
"""Calls work for their answer, so they get less: `vcgencmd`, some 8 ms, at 6 Hz."""
COUNTER_S = 0.2
"""Counters miss nothing between readings; this often, no wrap is missed (the shortest, 65 kJ, takes 65 s at 1 kW)."""
SPLITS = (2, 2, 5)
"""Loads may repeat at 20ths of the sampling rate: moments of every 2nd, 4th and 20th period are balanced as well."""
PARTS_N = 8
"""Parts of the period over which the moments of every 20th are balanced; those of all are over 160."""
CYCLE_N = math.prod(SPLITS) * PARTS_N
_COST_READS = 5
_NS_PER_S = 1_000_000_000
MAX_READINGS = 1_000_000

SleepS = Callable[[float], object]


class Reads(Protocol):
    """What can be read again and again; a `RailReader`, or a double of one."""

    def read(self) -> Row:
        """Return the raw numbers of one round. Raises SensorFileError."""


@dataclass(frozen=True)
class SamplerClock:
    """Time for a sampler, so tests can make it.

    Attributes:
        now_ns: a monotonic clock, the same the load is timed with.
        sleep_s: waits.
    """

    now_ns: Callable[[], int] = time.perf_counter_ns
    sleep_s: SleepS = time.sleep


@dataclass
class Trace:
    """Readings as they were taken: when (the middle of the reading) and the raw numbers."""

    at_ns: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    failed_n: int = 0
    last_failure: str | None = None


def take_reading(reader: Reads, trace: Trace, now_ns: Callable[[], int]) -> None:
    """Read once; a failure is counted, since sensors fail now and then (EAGAIN while a chip converts)."""
    began_ns = now_ns()
    try:
        row = reader.read()
    except SensorFileError as error:
        trace.failed_n += 1
        trace.last_failure = str(error)
        return
    trace.at_ns.append((began_ns + now_ns()) // 2)
    trace.rows.append(row)


def sample(
    reader: Reads, trace: Trace, clock: SamplerClock, *, period_s: float, draw: Callable[[], float],
    stopped: Callable[[], bool], balanced: bool = True,
) -> None:  # fmt: skip
    """Read once at a random moment of each period until stopped; periods that were slept through are left out.

    Args:
        reader: the rails.
        trace: where readings go.
        clock: time.
        period_s: length of a period.
        draw: a random number, uniform in [0, 1).
        stopped: asked before each reading.
        balanced: whether the moments are balanced over the period; else they are as drawn.
    """
    period_ns = int(period_s * _NS_PER_S)
    origin_ns = clock.now_ns()
    period, cycle, phases = 0, -1, [0.0] * CYCLE_N
    while not stopped() and len(trace.rows) < MAX_READINGS:
        if period // CYCLE_N != cycle:
            cycle = period // CYCLE_N
            phases = balanced_phases(draw) if balanced else [draw() for _ in phases]
        wait_ns = origin_ns + int((period + phases[period % CYCLE_N]) * period_ns) - clock.now_ns()
        if wait_ns > 0:
            clock.sleep_s(wait_ns / _NS_PER_S)
        take_reading(reader, trace, clock.now_ns)
        period = max(period + 1, (clock.now_ns() - origin_ns) // period_ns)


def balanced_phases(draw: Callable[[], float]) -> list[float]:
    """Return random moments within each of `CYCLE_N` periods, uniform in [0, 1), balanced over the period.

    Each of 160 equal parts of the period holds one moment; each of 80 one of the even periods and one of the odd;
    each of 40 one of every fourth; each of 8 one of every twentieth. A sliced Latin hypercube (Qian 2012, "Sliced Latin
    Hypercube Designs", JASA 107), nested: as unbiased as independent moments, and for loads that repeat at a multiple
    of a twentieth of the sampling rate, where regular sampling is worst, with a fraction of their error.
    """
    classes = [list(range(CYCLE_N))]
    for ways_n in SPLITS:
        dealt = [_dealt(parts, ways_n, draw) for parts in classes]
        classes = [hands[way] for way in range(ways_n) for hands in dealt]
    turns = zip(*(_shuffled(parts, draw) for parts in classes), strict=True)
    return [(part + draw()) / CYCLE_N for turn in turns for part in turn]


def _dealt(parts: Sequence[int], ways_n: int, draw: Callable[[], float]) -> list[list[int]]:
    """Return the parts in so many hands: of each so many neighbours every hand gets one, at random."""
    groups = [_shuffled(parts[at : at + ways_n], draw) for at in range(0, len(parts), ways_n)]
    return [list(hand) for hand in zip(*groups, strict=True)]


def _shuffled(parts: Sequence[int], draw: Callable[[], float]) -> list[int]:
    return sorted(parts, key=lambda _: draw())


def read_cost_s(reader: Reads, clock: SamplerClock) -> float:
    """Return how long one reading takes, the median of five. Raises SensorFileError when it cannot be read."""
    costs = []
    for _ in range(_COST_READS):
        began_ns = clock.now_ns()
        reader.read()
        costs.append(clock.now_ns() - began_ns)
    return statistics.median(costs) / _NS_PER_S


def choose_period_s(rails: tuple[Rail, ...], cost_s: float) -> float:
    """Return how often to read: as often as the cost allows; averages and counters no more often than is of use."""
    powers = [rail for rail in rails if rail.kind is not RailKind.COUNTER]
    useful_s = COUNTER_S if not powers else min((rail.window_s or 0.0) / 50 for rail in powers)
    share = CALL_SHARE if any(isinstance(rail.source, Call) for rail in rails) else FILE_SHARE
    return max(FASTEST_S, useful_s, cost_s / share)


class _Locked:
    """A reader for two threads: one reading at a time, since calls such as the PMIC's are not made for two."""

    def __init__(self, reader: Reads) -> None:
        self._reader = reader
        self._lock = threading.Lock()

    def read(self) -> Row:
        """Read once. Raises SensorFileError."""
        with self._lock:
            return self._reader.read()


class Sampler:
    """Reads rails in a thread of its own between `start` and `stop`; `mark` reads at once."""

    def __init__(self, reader: Reads, *, period_s: float, draw: Callable[[], float], clock: SamplerClock) -> None:
        self._reader = _Locked(reader)
        self._stop = threading.Event()
        self._now_ns = clock.now_ns
        waiting = SamplerClock(clock.now_ns, self._stop.wait)
        self.trace = Trace()
        self.marks = Trace()
        self._thread = threading.Thread(
            target=self._run, args=(waiting, period_s, draw), name="power-sampler", daemon=True
        )

    def _run(self, clock: SamplerClock, period_s: float, draw: Callable[[], float]) -> None:
        sample(self._reader, self.trace, clock, period_s=period_s, draw=draw,
               stopped=self._stop.is_set)  # fmt: skip

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def mark(self) -> int:
        """Read at this moment, for counters; return the moment, in nanoseconds."""
        take_reading(self._reader, self.marks, self._now_ns)
        return self.marks.at_ns[-1] if self.marks.at_ns else self._now_ns()

    def stop(self) -> None:
        """End reading."""
        self._stop.set()
        self._thread.join()
