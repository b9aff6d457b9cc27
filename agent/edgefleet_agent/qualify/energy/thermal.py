"""Was the device slowed down while it was measured? Signs before and after, and a gate for the temperature to start at.

Only evidence counts: an alarm counter that changed, a brake that is on, a firmware bit. A spinning fan is cooling, not
braking, and a power mode that caps clocks (nvpmodel) is a setting, not an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgefleet_agent.qualify.energy.thermal_phases import FULL_SHARE, ThermalPoint, label_phases
from edgefleet_agent.sensors.thermal import ReadThermal, Thermal
from edgefleet_contract.base import clip_reason
from edgefleet_contract.evidence import LatencyResult, LatencyVerdict, ThermalResult
from edgefleet_contract.profile import ThrottleFlag

START_MARGIN_C = 15.0
"""A start this far below the lowest passive trip point leaves room to reach a steady state before the brake."""
START_C = 70.0
"""Where no trip point is told: hardly any chip brakes below 85 °C."""
LOWEST_START_C = 45.0
"""A trip point of a skin sensor may be as low as 40 °C; waiting for room temperature would wait for ever."""
LONGEST_WAIT_S = 30.0
MOST_LOOKS = 600
"""Of one measurement: one a second for ten minutes."""
MOST_PHASES = 64
"""As many as the evidence holds."""
_LOOK_S = 1.0


@dataclass(frozen=True)
class Throttling:
    """Whether the device was slowed down, and by what evidence."""

    throttled: bool
    reason: str | None = None
    unsure: str | None = None
    """What could not be told, such as a sticky bit that was set before."""


def compare(before: Thermal, after: Thermal) -> Throttling:
    """Return whether throttling happened between two looks. Pure."""
    earlier = {(flag.source, flag.name): flag for flag in before.throttle}
    signs: list[str] = []
    doubts: list[str] = []
    for flag in after.throttle:
        was = earlier.get((flag.source, flag.name))
        signs.extend(_signs(was, flag))
        doubts.extend(_doubts(was, flag))
    if signs:
        return Throttling(throttled=True, reason=clip_reason("; ".join(signs)))
    return Throttling(throttled=False, unsure=clip_reason("; ".join(doubts)) if doubts else None)


def compare_all(looks: Sequence[Thermal]) -> Throttling:
    """Return whether throttling happened between the first look and the last, or showed in one between. Pure.

    A brake may come on and go off again within one measurement; only a look that falls between sees it.
    """
    whole = compare(looks[0], looks[-1])
    if whole.throttled:
        return whole
    for between in looks[1:-1]:
        if (found := compare(looks[0], between)).throttled:
            return Throttling(throttled=True, reason=clip_reason(f"in between: {found.reason}"))
    return whole


def _signs(was: ThrottleFlag | None, now: ThrottleFlag) -> Iterator[str]:
    if was is None:
        return
    if was.active or now.active:
        when = "before and after" if was.active and now.active else "before" if was.active else "after"
        yield f"{now.name} ({now.source}) was on {when}"
    elif now.active is not None and now.since_boot and not was.since_boot:
        yield f"{now.name} ({now.source}) came on meanwhile"
    if was.events_n is not None and now.events_n is not None and now.events_n != was.events_n:
        yield f"{now.name} ({now.source}) went from {was.events_n} to {now.events_n} events"


def _doubts(was: ThrottleFlag | None, now: ThrottleFlag) -> Iterator[str]:
    if was is not None and now.events_n is None and was.since_boot and now.since_boot and not now.active:
        yield f"{now.name} ({now.source}) had been on since boot: whether it came on again cannot be told"


@dataclass(frozen=True)
class Gate:
    """How the wait for the start temperature ended.

    Attributes:
        start_c: the hottest zone when the wait ended; None where there is none.
        limit_c: what it was to be below.
        waited_s: how long it took.
        reached: whether it was below at the end.
    """

    start_c: float | None
    limit_c: float
    waited_s: float
    reached: bool


def start_limit_c(thermal: Thermal) -> float:
    """Return the temperature a measurement may start at: 15 °C below the lowest passive trip point, within reason."""
    trips = [zone.passive_trip_c for zone in thermal.temperatures if zone.passive_trip_c is not None]
    if not trips:
        return START_C
    return min(START_C, max(LOWEST_START_C, min(trips) - START_MARGIN_C))


def longest_wait_s(latency_s: float) -> float:
    """Return how long to wait at most before a latency run of some length: three times that, and half a minute."""
    return min(LONGEST_WAIT_S, 3 * latency_s)


def wait_until_cool(
    look: ReadThermal, sleep_s: Callable[[float], object], *, longest_s: float = LONGEST_WAIT_S
) -> Gate:
    """Wait until the hottest zone is cool enough to start; at most `longest_s`, in steps of a second."""
    thermal = look()
    limit_c = start_limit_c(thermal)
    waited_s = 0.0
    while thermal.hottest_c is not None and thermal.hottest_c > limit_c and waited_s < longest_s:
        sleep_s(_LOOK_S)
        waited_s += _LOOK_S
        thermal = look()
    reached = thermal.hottest_c is None or thermal.hottest_c <= limit_c
    return Gate(thermal.hottest_c, limit_c, waited_s, reached)


class ThermalWatch:
    """Waits until the device is cool enough, then looks before, during and after a measurement.

    Args:
        look: looks once at everything thermal.
        sleep_s: waits; None begins at once, however hot the device is.
        longest_s: the longest wait.
        now_s: a monotonic clock.
    """

    def __init__(
        self,
        look: ReadThermal,
        sleep_s: Callable[[float], object] | None = None,
        *,
        longest_s: float = LONGEST_WAIT_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._now_s = look, now_s
        self._gate = wait_until_cool(look, sleep_s, longest_s=longest_s) if sleep_s is not None else None
        self._seen: list[tuple[float, Thermal]] = []
        self._began_s = now_s()
        self.look()

    def look(self) -> None:
        """Look once more; the last `MOST_LOOKS` but the first are kept."""
        if len(self._seen) == MOST_LOOKS:
            del self._seen[1]
        self._seen.append((self._now_s() - self._began_s, self._look()))

    def stop(self) -> ThermalResult:
        """Look again and return what was seen, and whether the device was slowed down meanwhile."""
        self.look()
        before, after = self._seen[0][1], self._seen[-1][1]
        throttling = compare_all([thermal for _, thermal in self._seen])
        words = [throttling.reason or throttling.unsure, _too_hot(self._gate)]
        clocks_mhz = [mhz for _, thermal in self._seen if (mhz := _clock_mhz(thermal)) is not None]
        points = _points(self._seen)
        return ThermalResult(
            throttled=throttling.throttled,
            reason=clip_reason("; ".join(word for word in words if word)) or None,
            start_c=before.hottest_c,
            end_c=after.hottest_c,
            start_limit_c=self._gate.limit_c if self._gate else None,
            waited_s=self._gate.waited_s if self._gate else 0.0,
            clock_start_mhz=_clock_mhz(before),
            clock_end_mhz=_clock_mhz(after),
            clock_lowest_mhz=min(clocks_mhz, default=None),
            peak_c=max((point.celsius for point in points), default=None),
            phases=label_phases(points)[:MOST_PHASES],
        )


def _too_hot(gate: Gate | None) -> str | None:
    if gate is None or gate.reached:
        return None
    return f"it began at {gate.start_c:.1f} °C: {gate.waited_s:.0f} s were not enough to cool"


def _points(seen: Sequence[tuple[float, Thermal]]) -> list[ThermalPoint]:
    return [
        ThermalPoint(at_s, thermal.hottest_c, _clock_mhz(thermal) or 0.0)
        for at_s, thermal in seen
        if thermal.hottest_c is not None
    ]


def _clock_mhz(thermal: Thermal) -> float | None:
    """Return the fastest CPU clock: of a chip with slow cores beside fast ones, that of the fast."""
    told = [(clock.name.startswith("cpufreq"), clock.mhz) for clock in thermal.frequencies if clock.mhz is not None]
    return max((mhz for is_cpu, mhz in told if is_cpu), default=next((mhz for _, mhz in told), None))


def judged(latency: LatencyResult, thermal: ThermalResult) -> LatencyResult:
    """Return a latency result that says `throttled` when the device was; an earlier verdict is kept in words.

    Where no level lasted and the CPU's clock moved, that is said: a governor may lower the clock for other reasons than
    heat.
    """
    if latency.verdict is LatencyVerdict.THROTTLED:
        return latency
    if not thermal.throttled:
        moved = _clock_moved(thermal)
        if latency.verdict is not LatencyVerdict.UNSTEADY or moved is None:
            return latency
        return latency.model_copy(update={"reason": clip_reason(f"{latency.reason}; {moved}")})
    words = [thermal.reason or "the device was slowed down"]
    if latency.verdict is not LatencyVerdict.VALID:
        words.append(f"also {latency.verdict.value}: {latency.reason}")
    return latency.model_copy(update={"verdict": LatencyVerdict.THROTTLED, "reason": clip_reason("; ".join(words))})


def _clock_moved(thermal: ThermalResult) -> str | None:
    """Return between what the CPU's clock went, in words; None where it stayed within 5 %, or is not told."""
    told = [thermal.clock_start_mhz, thermal.clock_lowest_mhz, thermal.clock_end_mhz]
    clocks_mhz = [mhz for mhz in told if mhz is not None]
    if not clocks_mhz or min(clocks_mhz) >= FULL_SHARE * max(clocks_mhz):
        return None
    return f"meanwhile the CPU's clock went between {min(clocks_mhz):.0f} and {max(clocks_mhz):.0f} MHz"
