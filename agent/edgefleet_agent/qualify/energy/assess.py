"""Turns the readings around a load into an energy result: gross, net, per inference, with intervals. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgefleet_agent.qualify.energy.estimate import (
    EnergyError,
    Estimate,
    Window,
    averaged_energy,
    counter_energy,
    power_energy,
    rise_s,
    unwrap,
)
from edgefleet_agent.sensors.rails import MAX_WATTS, NEVER_RUN, Rail, Total
from edgefleet_agent.sensors.reader import Row
from edgefleet_agent.sensors.sampler import Trace
from edgefleet_contract.base import clip_reason
from edgefleet_contract.evidence import EnergyResult, EnergyStatus
from edgefleet_contract.profile import RailKind

MAX_FAILED_SHARE = 0.05
"""More failed readings than this may be failing for a reason that has to do with the load."""
SLOW_REFRESH_S = 0.02
"""A sensor that renews its reading less often than 50 times a second is blind to loads that beat with it."""
MAX_LATE_SHARE = 0.2
"""A sensor that shows a load this late misses a fifth of it."""
LEAST_PACE = 0.5
"""Of the readings that were meant to be taken; a busy machine loses some."""
_COVER_SHARE = 0.95
"""A rail that covers others reads at least what they read, less what the sensors' accuracy allows."""

Counts = Callable[[Row], tuple["int | float", ...]]
"""Makes one number a rail of a row of raw numbers (`RailReader.counts`)."""


@dataclass(frozen=True)
class Recording:
    """What was read around a load.

    Attributes:
        total: the rails that add up.
        inside: counters that the total's rail contains, read along to check it; may be empty.
        counts: makes one number a rail (those of the total, then `inside`) of a row.
        trace: readings at random moments.
        marks: readings at the windows' ends.
        idle_before: idle window before the load.
        load: the load's window.
        idle_after: idle window after it.
        tail_s: time an averaging sensor takes to forget the load; `idle_after` begins no earlier.
        dithered: the load paused at random, or is too fast for any sensor, so that it cannot beat with a slow one.
        resolution_w: one step of the power rails together; each reading is within half of it.
        period_s: how often the sampler was to read; 0 when not known.
        repeat_s: what the load repeats over: blocks are longer than this.
    """

    total: Total
    counts: Counts
    trace: Trace
    marks: Trace
    idle_before: Window
    load: Window
    idle_after: Window
    tail_s: float = 0.0
    dithered: bool = False
    repeat_s: float = 0.0
    period_s: float = 0.0
    resolution_w: float = 0.0
    inside: tuple[Rail, ...] = ()


def unmeasured(reason: str) -> EnergyResult:
    """Return the result of a device, or a run, whose energy is not known."""
    return EnergyResult(status=EnergyStatus.UNMEASURED, reason=clip_reason(reason))


def assess(recording: Recording, n: int) -> EnergyResult:
    """Return the energy of `n` inferences. Whatever the readings do not give is `unmeasured` with the reason."""
    try:
        _require_enough(recording, n)
        before = _mean_watts(recording, recording.idle_before)
        after = _mean_watts(recording, recording.idle_after)
        idle = _idle(before, after)
        gross = _joules(recording, recording.load, idle)
        _require_cover(recording, gross)
        late_share = _late_share(recording, before)
    except EnergyError as error:
        return unmeasured(f"{error} ({', '.join(rail.name for rail in recording.total.rails[:6])})")
    seconds = recording.load.seconds
    net = gross.plus(idle.times(-seconds))
    if late_share:
        net = net.plus(Estimate(0.0, bound=abs(net.value) * late_share))
    if net.value <= 0.0:
        low, high = net.ci95
        return unmeasured(
            f"the draw under load, {gross.value / seconds:.4g} W, cannot be told from the idle draw, "
            f"{idle.value:.4g} W: net {net.value:.3g} J in {seconds:.3g} s, 95 % interval {low:.3g} to {high:.3g} J"
        )
    return _result(recording, n, before, after, gross, net)


def _require_enough(recording: Recording, n: int) -> None:
    if n < 1 or recording.load.seconds <= 0:
        msg = "no inference ran in the load window"
        raise EnergyError(msg)
    failed_n = recording.trace.failed_n + recording.marks.failed_n
    if failed_n > MAX_FAILED_SHARE * (failed_n + len(recording.trace.rows)):
        last = recording.trace.last_failure or recording.marks.last_failure
        msg = f"{failed_n} readings failed, {len(recording.trace.rows)} did not: {last}"
        raise EnergyError(msg)
    _require_pace(recording)
    for rail in recording.total.rails:
        if rail.kind is RailKind.AVERAGE and rail.window_s is None:
            msg = f"{rail.name} is an average over a time it does not tell: what it shows may be older than the load"
            raise EnergyError(msg)
        slow = rail.kind is RailKind.INSTANT and (rail.refresh_s or 0.0) > SLOW_REFRESH_S
        if slow and not recording.dithered:
            msg = f"{rail.name} is renewed every {rail.refresh_s:.3g} s: a load that beats with it would not be seen"
            raise EnergyError(msg)


def _require_pace(recording: Recording) -> None:
    """Refuse instants read far less often than meant: they were read when the load let the sampler, not at random."""
    if recording.period_s <= 0 or all(rail.kind is not RailKind.INSTANT for rail in recording.total.rails):
        return
    load = recording.load
    read_n = sum(load.begin_ns <= taken_ns <= load.end_ns for taken_ns in recording.trace.at_ns)
    meant_n = load.seconds / recording.period_s
    if read_n < LEAST_PACE * meant_n:
        msg = f"{read_n} of {meant_n:.0f} readings came in time: the load leaves the sampler no turn"
        raise EnergyError(msg)


def _idle(before: Estimate, after: Estimate) -> Estimate:
    """Return the idle draw during the load: the mean of before and after, off by at most half their difference."""
    mean = before.plus(after).times(0.5)
    drift = abs(before.value - after.value) / 2
    return Estimate(mean.value, mean.variance, mean.bound + drift, mean.freedom)


def _mean_watts(recording: Recording, window: Window) -> Estimate:
    if window.seconds <= 0:
        msg = "there was no idle time to compare with"
        raise EnergyError(msg)
    return _joules(recording, window, None).times(1.0 / window.seconds)


def _joules(recording: Recording, window: Window, idle: Estimate | None) -> Estimate:
    """Return the energy of all rails in a window; `idle` is given for the load's, which averages lag behind."""
    rails = recording.total.rails
    energy = Estimate(0.0)
    for index, rail in enumerate(rails):
        if rail.kind is RailKind.COUNTER:
            energy = energy.plus(_counted(recording, index, rail, window))
    for kind in (RailKind.INSTANT, RailKind.AVERAGE):
        chosen = [index for index, rail in enumerate(rails) if rail.kind is kind]
        if chosen:
            rounding = Estimate(0.0, bound=recording.resolution_w / 2 * window.seconds)
            energy = energy.plus(_sampled(recording, chosen, kind, window, idle)).plus(rounding)
    return energy


def _counted(recording: Recording, index: int, rail: Rail, window: Window) -> Estimate:
    both = [*zip(recording.trace.at_ns, recording.trace.rows, strict=True),
            *zip(recording.marks.at_ns, recording.marks.rows, strict=True)]  # fmt: skip
    readings = sorted((taken_ns, recording.counts(row)[index]) for taken_ns, row in both)
    grown = unwrap([count for _, count in readings], rail.range_n)
    return counter_energy(
        [taken_ns for taken_ns, _ in readings],
        [count / rail.source.per_unit for count in grown],
        window,
        refresh_s=rail.refresh_s or 0.0,
        max_watts=MAX_WATTS,
    )


def _sampled(
    recording: Recording, chosen: Sequence[int], kind: RailKind, window: Window, idle: Estimate | None
) -> Estimate:
    """Return the energy of power rails: summed at each reading first, so that what they share is not counted twice."""
    rails = recording.total.rails
    trace = recording.trace
    watts = _summed_watts(recording, chosen)
    slowest_s = max((rails[index].refresh_s or 0.0 for index in chosen), default=0.0)
    if kind is RailKind.INSTANT:
        return power_energy(trace.at_ns, watts, window, block_s=max(2 * slowest_s, recording.repeat_s))
    window_s = max(rails[index].window_s or 0.0 for index in chosen)
    if idle is None:
        return power_energy(trace.at_ns, watts, window, block_s=0.0)
    own_idle = power_energy(trace.at_ns, watts, recording.idle_before, block_s=0.0).times(
        1.0 / recording.idle_before.seconds
    )
    return averaged_energy(trace.at_ns, watts, window, window_s=window_s, tail_s=recording.tail_s, idle=own_idle)


def _late_share(recording: Recording, before: Estimate) -> float:
    """Return the share of the load that instant readings showed too late. Raises EnergyError when it is a fifth.

    The draw before and that of the load's last quarter are compared: a slow sensor shows neither the mean of the load
    nor the idle draw after it.
    """
    rails = recording.total.rails
    chosen = [index for index, rail in enumerate(rails) if rail.kind is RailKind.INSTANT]
    if len(chosen) < len(rails):
        return 0.0  # beside counters or averages the draw of the instants alone is not known
    load = recording.load
    watts = _summed_watts(recording, chosen)
    last_ns = load.end_ns - (load.end_ns - load.begin_ns) // 4
    last = [power for taken_ns, power in zip(recording.trace.at_ns, watts, strict=True)
            if last_ns <= taken_ns <= load.end_ns]  # fmt: skip
    level_w = statistics.fmean(last) if last else before.value
    late_s = rise_s(recording.trace.at_ns, watts, load, idle_w=before.value, load_w=level_w)
    if late_s >= MAX_LATE_SHARE * load.seconds:
        msg = f"the sensor showed the load only after {late_s:.2g} of {load.seconds:.3g} s: it is too slow for this run"
        raise EnergyError(msg)
    return late_s / load.seconds


def _summed_watts(recording: Recording, chosen: Sequence[int]) -> list[float]:
    rails = recording.total.rails
    return [
        math.fsum(numbers[index] / rails[index].source.per_unit for index in chosen)
        for numbers in map(recording.counts, recording.trace.rows)
    ]


def _require_cover(recording: Recording, gross: Estimate) -> None:
    """Check a counter that covers others against them: psys is wired wrongly, or not at all, on some machines."""
    if not recording.inside:
        return
    first = len(recording.total.rails)
    parts = [_counted(recording, first + at, rail, recording.load).value for at, rail in enumerate(recording.inside)]
    if gross.value < _COVER_SHARE * math.fsum(parts):
        names = ", ".join(rail.name for rail in recording.inside)
        msg = f"reads {gross.value:.4g} J, less than the {math.fsum(parts):.4g} J of what it contains ({names})"
        raise EnergyError(msg)


def _result(
    recording: Recording, n: int, before: Estimate, after: Estimate, gross: Estimate, net: Estimate
) -> EnergyResult:
    total, seconds = recording.total, recording.load.seconds
    load = recording.load
    readings_n = sum(load.begin_ns <= taken_ns <= load.end_ns for taken_ns in recording.trace.at_ns)
    return EnergyResult.model_validate(
        {
            "status": EnergyStatus.MODELLED if total.modelled else EnergyStatus.MEASURED,
            "reason": _words(total, net),
            "per_inference_mj": net.value / n * 1e3,
            "ci95_per_inference_mj": _not_below_zero(net.times(1e3 / n).ci95),
            "gross_per_inference_mj": gross.value / n * 1e3,
            "ci95_gross_per_inference_mj": _not_below_zero(gross.times(1e3 / n).ci95),
            "gross_j": gross.value,
            "net_j": net.value,
            "ci95_net_j": net.ci95,
            "load_w": gross.value / seconds,
            "idle_before_w": before.value,
            "idle_after_w": after.value,
            "n": n,
            "duration_s": seconds,
            "sensor": ", ".join(rail.sensor for rail in total.rails)[:256],
            "rails": [rail.name for rail in total.rails],
            "scope": total.scope,
            "kind": total.kind,
            "readings_n": readings_n,
            "rate_hz": readings_n / seconds,
            "leaves_out": total.leaves_out,
            "proven_on": None if all(rail.family == "meter" for rail in total.rails) else NEVER_RUN,
        }
    )


def _words(total: Total, net: Estimate) -> str | None:
    faint = "the 95 % interval of the net energy holds 0" if net.ci95[0] <= 0.0 else None
    words = "; ".join(word for word in (total.reason, faint) if word)
    return clip_reason(words) if words else None


def _not_below_zero(interval: tuple[float, float]) -> tuple[float, float]:
    return (max(0.0, interval[0]), max(0.0, interval[1]))
