"""Phases of a run by its temperature and clock: cold, steady, throttled. Pure.

*Throttled*: the clock stays below 95 % of the best it held for a while, and the chip is near the hottest it became; a
governor that lowers the clock of a cool chip is saving power. *Cold*: the temperature still climbs towards its level.
*Steady*: the rest.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from edgefleet_contract.evidence import Phase, PhaseSpan

SMOOTH_N = 5
"""A median of five ignores single readings of a clock that is read between two states."""
FULL_SHARE = 0.95
"""A clock within 5 % of its best is not throttled: governors step by about as much."""
HOT_C = 5.0
"""Within 5 °C of the hottest: thermal governors hold a temperature to some degrees."""
LEVEL_SHARE = 0.9
"""Of the rise from start to level: an exponential approach has 90 % after 2.3 time constants."""
MIN_RISE_C = 3.0
"""Sensors step by up to 1 °C; a smaller rise is no warm-up."""


@dataclass(frozen=True)
class ThermalPoint:
    """One look during a run; `mhz` is 0 where no clock is told, and then nothing is called throttled."""

    at_s: float
    celsius: float
    mhz: float


def label_phases(points: Sequence[ThermalPoint]) -> tuple[PhaseSpan, ...]:
    """Return the phases of a run in order; empty for fewer than 5 points.

    Args:
        points: temperature and clock over time, ascending.
    """
    if len(points) < SMOOTH_N:
        return ()
    celsius = _smooth([point.celsius for point in points])
    mhz = _smooth([point.mhz for point in points])
    start_c, level_c, peak_c, best_mhz = celsius[0], statistics.median(celsius[-SMOOTH_N:]), max(celsius), max(mhz)
    warm_c = start_c + LEVEL_SHARE * (max(level_c, peak_c) - start_c)
    warms = max(level_c, peak_c) - start_c >= MIN_RISE_C
    first_warm = next((index for index, value in enumerate(celsius) if value >= warm_c), len(points))
    labels = [
        Phase.THROTTLED
        if value < FULL_SHARE * best_mhz and celsius[index] >= peak_c - HOT_C
        else Phase.COLD
        if warms and index < first_warm
        else Phase.STEADY
        for index, value in enumerate(mhz)
    ]
    return _spans(points, labels)


def _smooth(values: Sequence[float]) -> list[float]:
    reach = SMOOTH_N // 2
    return [statistics.median(values[max(0, index - reach) : index + reach + 1]) for index in range(len(values))]


def _spans(points: Sequence[ThermalPoint], labels: Sequence[Phase]) -> tuple[PhaseSpan, ...]:
    starts: list[tuple[Phase, float]] = []
    for phase, group in groupby(zip(labels, points, strict=True), key=lambda pair: pair[0]):
        starts.append((phase, next(group)[1].at_s))
    ends = [*(begin_s for _, begin_s in starts[1:]), points[-1].at_s]
    return tuple(
        PhaseSpan(phase=phase, begin_s=begin_s, end_s=end_s)
        for (phase, begin_s), end_s in zip(starts, ends, strict=True)
    )
