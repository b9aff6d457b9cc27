"""Was the device slowed down while it was measured? Signs before and after, and a gate for the temperature to start at.

Only evidence counts: an alarm counter that changed, a brake that is on, a firmware bit. A spinning fan is cooling, not
braking, and a power mode that caps clocks (nvpmodel) is a setting, not an event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
    """Waits until the device is cool enough, then looks before and after a measurement.

    Args:
        look: looks once at everything thermal.
        sleep_s: waits; None begins at once, however hot the device is.
        longest_s: the longest wait.
    """

    def __init__(
        self,
        look: ReadThermal,
        sleep_s: Callable[[float], object] | None = None,
        *,
        longest_s: float = LONGEST_WAIT_S,
    ) -> None:
        self._look = look
        self._gate = wait_until_cool(look, sleep_s, longest_s=longest_s) if sleep_s is not None else None
        self._before = look()

    def stop(self) -> ThermalResult:
        """Look again and return what was seen, and whether the device was slowed down meanwhile."""
        after = self._look()
        throttling = compare(self._before, after)
        words = [throttling.reason or throttling.unsure]
        if self._gate is not None and not self._gate.reached:
            words.append(
                f"it began at {self._gate.start_c:.1f} °C: {self._gate.waited_s:.0f} s were not enough to cool"
            )
        return ThermalResult(
            throttled=throttling.throttled,
            reason=clip_reason("; ".join(word for word in words if word)) or None,
            start_c=self._before.hottest_c,
            end_c=after.hottest_c,
            start_limit_c=self._gate.limit_c if self._gate else None,
            waited_s=self._gate.waited_s if self._gate else 0.0,
            clock_start_mhz=_clock_mhz(self._before),
            clock_end_mhz=_clock_mhz(after),
        )


def _clock_mhz(thermal: Thermal) -> float | None:
    return next((clock.mhz for clock in thermal.frequencies if clock.mhz is not None), None)


def judged(latency: LatencyResult, thermal: ThermalResult) -> LatencyResult:
    """Return a latency result that says `throttled` when the device was; an earlier verdict is kept in words."""
    if not thermal.throttled or latency.verdict is LatencyVerdict.THROTTLED:
        return latency
    words = [thermal.reason or "the device was slowed down"]
    if latency.verdict is not LatencyVerdict.VALID:
        words.append(f"also {latency.verdict.value}: {latency.reason}")
    return latency.model_copy(update={"verdict": LatencyVerdict.THROTTLED, "reason": clip_reason("; ".join(words))})
