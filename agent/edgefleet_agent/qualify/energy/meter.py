"""Measures energy on the device: idle, load, idle, with a sampler beside; for the worker, never for the resident agent.

::

    meter = EnergyMeter.of(probe())        # or a reason why there is none
    meter.start()                          # idles, then begins the load window
    …n inferences…
    result = meter.stop(n)                 # ends it, idles again, and returns the energy

`measure_energy` does all that with a load of its own: latency is never timed with a sampler beside it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from edgefleet_agent.qualify.energy.assess import Recording, assess, unmeasured
from edgefleet_agent.qualify.energy.estimate import Window
from edgefleet_agent.qualify.energy.thermal import compare
from edgefleet_agent.sensors.files import SensorFileError
from edgefleet_agent.sensors.probe import Sensors
from edgefleet_agent.sensors.rails import Rail, Total
from edgefleet_agent.sensors.reader import RailReader
from edgefleet_agent.sensors.sampler import Sampler, SamplerClock, Trace, choose_period_s, read_cost_s
from edgefleet_contract.base import clip_reason
from edgefleet_contract.evidence import EnergyResult
from edgefleet_contract.profile import RailKind

DITHER_N = 8
"""Inferences between random pauses: of up to one inference each, so they cost about 6 % of the time."""
LEAST_DITHER_S = 1e-3
"""Shorter inferences are a blur to every power sensor, whose conversions take about a millisecond; and the shortest
pause the system knows, some 60 µs, would be longer than they are."""
REPEAT_DITHERS = 2
"""Blocks of the error estimate hold at least this many stretches between pauses."""
LEAST_BLOCKS = 8
"""A slow model leaves at least so many: it is slow against any sensor, so nothing can beat."""
LONGEST_TAIL_S = 10.0
"""An averaging sensor is waited for three times a run, so this adds at most half a minute."""
_MIN_SETTLE_S = 0.2
"""Governors and caches calm down within some tens of milliseconds."""
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class EnergyPlan:
    """How long an energy pass takes.

    Attributes:
        load_s: length of the load; at least one inference is run.
        idle_s: length of each idle window.
    """

    load_s: float = 6.0
    idle_s: float = 2.0


def plan_for(latency_s: float) -> EnergyPlan:
    """Return a plan about as long as a latency run may be: three fifths load, the rest idle; at most 100 s."""
    load_s = min(60.0, 0.6 * latency_s)
    return EnergyPlan(load_s, load_s / 3)


class Samples(Protocol):
    """Reads rails beside a load; a `Sampler`, or a double of one."""

    @property
    def trace(self) -> Trace:
        """Return the readings at random moments."""

    @property
    def marks(self) -> Trace:
        """Return the readings at the moments asked for."""

    def start(self) -> None:
        """Begin to read."""

    def mark(self) -> int:
        """Read now and return the moment, in nanoseconds."""

    def stop(self) -> None:
        """End reading; may be called again."""


MakeSampler = Callable[[RailReader, float, Callable[[], float], SamplerClock], Samples]
"""Makes what reads rails once a period (in seconds) at a random moment."""


def _in_a_thread(reader: RailReader, period_s: float, draw: Callable[[], float], clock: SamplerClock) -> Samples:
    return Sampler(reader, period_s=period_s, draw=draw, clock=clock)


@dataclass
class EnergyMeter:
    """Reads a total's rails around a load. One use; not for two threads.

    Attributes:
        total: the rails that add up; there is at least one.
        inside: counters the total contains, to check it.
        plan: how long to idle.
        clock: time.
        draw: a random number, uniform in [0, 1).
        make_sampler: makes what reads beside the load.
        dithered: whether the load paused at random, or repeats too fast for any sensor to follow; whoever runs the load
            says so.
        repeat_s: what the load repeats over.
    """

    total: Total
    inside: tuple[Rail, ...] = ()
    plan: EnergyPlan = EnergyPlan()
    clock: SamplerClock = field(default_factory=SamplerClock)
    draw: Callable[[], float] = random.random
    make_sampler: MakeSampler = _in_a_thread
    dithered: bool = False
    repeat_s: float = 0.0
    _reader: RailReader | None = field(default=None, init=False)
    _sampler: Samples | None = field(default=None, init=False)
    _idle_before: Window | None = field(default=None, init=False)
    _begin_ns: int = field(default=0, init=False)
    _period_s: float = field(default=0.0, init=False)
    _problem: str | None = field(default=None, init=False)

    @classmethod
    def of(cls, sensors: Sensors, plan: EnergyPlan | None = None) -> EnergyMeter | None:
        """Return a meter on the device's total, or None when it has none (`sensors.total.reason` says why)."""
        if not sensors.total.rails:
            return None
        return cls(sensors.total, _contained_counters(sensors), plan or EnergyPlan())

    @property
    def dithers(self) -> bool:
        """Tell whether the load must pause at random: a sensor that reads instants may beat with a regular load."""
        return any(rail.kind is RailKind.INSTANT for rail in self.total.rails)

    @property
    def tail_s(self) -> float:
        """Return how long the sensors take to forget a load: twice what they average over, and what they are late."""
        return max(2 * (rail.window_s or 0.0) + (rail.refresh_s or 0.0) for rail in self.total.rails)

    @property
    def problem(self) -> str | None:
        """Return why there will be no energy, once it was started; None when there may be."""
        return self._problem

    def start(self) -> None:
        """Open the sensors, idle, and begin the load window. A sensor that fails is told by `stop`, not raised."""
        rails = (*self.total.rails, *self.inside)
        if self.tail_s > LONGEST_TAIL_S:
            self._problem = f"the sensor averages over {self.tail_s / 2:.3g} s: too long for a run of this length"
            return
        try:
            self._reader = RailReader(rails)
            cost_s = read_cost_s(self._reader, self.clock)
        except SensorFileError as error:
            self._problem = str(error)
            return
        self._period_s = choose_period_s(self.total.rails, cost_s)
        self._sampler = self.make_sampler(self._reader, self._period_s, self.draw, self.clock)
        self._sampler.start()
        self.clock.sleep_s(max(_MIN_SETTLE_S, self.tail_s))
        self._idle_before = self._idle(self._sampler)
        self._begin_ns = self._sampler.mark()

    def _idle(self, sampler: Samples) -> Window:
        begin_ns = sampler.mark()
        self.clock.sleep_s(self.plan.idle_s)
        return Window(begin_ns, sampler.mark())

    def stop(self, n: int) -> EnergyResult:
        """End the load window, idle, close the sensors, and return the energy of the `n` inferences in it."""
        if self._reader is None or self._sampler is None or self._idle_before is None:
            return unmeasured(self._problem or "the meter was not started")
        sampler = self._sampler
        end_ns = sampler.mark()
        self.clock.sleep_s(max(_MIN_SETTLE_S, self.tail_s))
        idle_after = self._idle(sampler)
        sampler.stop()
        recording = Recording(
            total=self.total,
            counts=self._reader.counts,
            trace=sampler.trace,
            marks=sampler.marks,
            idle_before=self._idle_before,
            load=Window(self._begin_ns, end_ns),
            idle_after=idle_after,
            tail_s=self.tail_s,
            dithered=self.dithered,
            repeat_s=self.repeat_s,
            period_s=self._period_s,
            resolution_w=self._resolution_w(),
            inside=self.inside,
        )
        try:
            return assess(recording, n)
        finally:
            self.close()

    def _resolution_w(self) -> float:
        if self._reader is None or self._sampler is None:
            return 0.0
        steps = self._reader.resolutions(self._sampler.trace.rows)
        return math.fsum(
            step
            for step, rail in zip(steps, self._reader.rails, strict=True)
            if rail.kind is not RailKind.COUNTER and rail not in self.inside
        )

    def close(self) -> None:
        """Stop reading and close the sensors; for a load that failed between `start` and `stop`."""
        if self._sampler is not None:
            self._sampler.stop()
        if self._reader is not None:
            self._reader.close()


def _contained_counters(sensors: Sensors) -> tuple[Rail, ...]:
    """Return the readable packages a single covering counter contains: disjoint, so their sum must not exceed it."""
    rails = sensors.total.rails
    if len(rails) != 1 or rails[0].kind is not RailKind.COUNTER:
        return ()
    return tuple(
        rail
        for rail in sensors.rails
        if rail.name in rails[0].includes and rail.scope == "package" and rail.problem is None
    )


def run_load(call: Callable[[], object], load_s: float, meter: EnergyMeter) -> int:
    """Infer for some time, with random pauses where the sensor needs them; return the number of inferences."""
    clock = meter.clock
    deadline_ns = clock.now_ns() + int(load_s * _NS_PER_S)
    n, stretch_n = 0, 1
    while True:
        began_ns, before_n = clock.now_ns(), n
        for _ in range(stretch_n):
            call()
            n += 1
            if clock.now_ns() >= deadline_ns:
                return n
        inference_s = (clock.now_ns() - began_ns) / _NS_PER_S / (n - before_n)
        stretch_n = DITHER_N if LEAST_BLOCKS * DITHER_N * inference_s <= load_s else 1
        if meter.dithers:
            _dither(meter, inference_s, stretch_n, load_s)


def _dither(meter: EnergyMeter, inference_s: float, stretch_n: int, load_s: float) -> None:
    """Pause for up to one inference, unless it is too short for any sensor to follow: now the load beats with none."""
    meter.dithered = True
    if inference_s >= LEAST_DITHER_S:
        meter.repeat_s = max(meter.repeat_s, min(REPEAT_DITHERS * stretch_n * inference_s, load_s / LEAST_BLOCKS))
        meter.clock.sleep_s(meter.draw() * inference_s)


def measure_energy(call: Callable[[], object], sensors: Sensors, plan: EnergyPlan | None = None) -> EnergyResult:
    """Return the energy of one inference, from a load of this function's own; `unmeasured` where no sensor can tell.

    Takes about `load_s + 2 idle_s`, and some seconds more where the sensor averages. What `call` raises is raised.
    """
    meter = EnergyMeter.of(sensors, plan)
    if meter is None:
        return unmeasured(sensors.total.reason or "no power sensor on this device")
    before = sensors.read_thermal()
    meter.start()
    try:
        result = meter.stop(0 if meter.problem else run_load(call, meter.plan.load_s, meter))
    finally:
        meter.close()
    throttling = compare(before, sensors.read_thermal())
    if not throttling.throttled:
        return result
    words = "; ".join(word for word in (result.reason, f"slowed down meanwhile: {throttling.reason}") if word)
    return result.model_copy(update={"reason": clip_reason(words)})
