"""Energy from readings: joules with an interval that says how far they may be off. Pure.

Three kinds of rail, three ways: a *counter* is exact but for its staleness at the ends; an *instant* reading is a
sample, so the integral has a sampling error, estimated from the data; an *average* lags, so it is integrated until it
has forgotten the load. Calibration of the sensor is in none of these intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

BLOCKS = 32
"""Blocks a window is cut into to estimate the sampling error: enough for a t quantile near 2, long enough that what
happens within a block (bursts, repeats of a slow sensor) averages out inside it."""
MIN_READINGS = 8
_NS_PER_S = 1e9
_Z975 = 1.959964


class EnergyError(Exception):
    """The readings do not give the energy; the message says why."""


@dataclass(frozen=True)
class Window:
    """A span of time on the clock of the readings."""

    begin_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """Return its length."""
        return (self.end_ns - self.begin_ns) / _NS_PER_S


@dataclass(frozen=True)
class Estimate:
    """A quantity with what is not known about it.

    Attributes:
        value: in joules or watts.
        variance: of the sampling error, in the square of that.
        bound: what it may be off besides, whatever the sampling (staleness, drift), as a half width.
        freedom: degrees of freedom of the variance.
    """

    value: float
    variance: float = 0.0
    bound: float = 0.0
    freedom: float = math.inf

    def plus(self, other: Estimate) -> Estimate:
        """Return the sum of two independent quantities."""
        freedom = min(self.freedom, other.freedom)
        return Estimate(self.value + other.value, self.variance + other.variance, self.bound + other.bound, freedom)

    def times(self, factor: float) -> Estimate:
        """Return a multiple."""
        size = abs(factor)
        return Estimate(self.value * factor, self.variance * factor**2, self.bound * size, self.freedom)

    @property
    def ci95(self) -> tuple[float, float]:
        """Return the 95 % interval."""
        half = t975(self.freedom) * math.sqrt(self.variance) + self.bound
        return (self.value - half, self.value + half)


def t975(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t distribution (Cornish-Fisher expansion; within 1 % from 3 on)."""
    z, v = _Z975, max(freedom, 3.0)
    if math.isinf(v):
        return z
    first = (z**3 + z) / (4 * v)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return z + first + second + third


def unwrap(counts: Sequence[int | float], range_n: int | None) -> list[int | float]:
    """Return a counter's readings as a series that only grows, begun at its first reading.

    Exact for any number of wraps, as long as less than one whole range passes between two readings.

    Args:
        counts: readings in order.
        range_n: the count at which it begins at 0 again; None when not told.

    Raises:
        EnergyError: it went back and its range is not told, or a reading lies outside the range.
    """
    grown: list[int | float] = []
    offset: int | float = 0
    last: int | float | None = None
    for count in counts:
        if range_n is not None and not 0 <= count <= range_n:
            msg = f"the counter reads {count}, outside its range of {range_n}"
            raise EnergyError(msg)
        if last is not None and count < last:
            if range_n is None:
                msg = "the counter went back, and where it begins again is not told"
                raise EnergyError(msg)
            offset += range_n
        last = count
        grown.append(count + offset)
    return grown


def counter_energy(
    at_ns: Sequence[int], joules: Sequence[float], window: Window, *, refresh_s: float, max_watts: float = math.inf
) -> Estimate:
    """Return the energy a counter saw in a window.

    Args:
        at_ns: when it was read, ascending; the window must lie between the first and the last.
        joules: the unwrapped counter.
        window: the span.
        refresh_s: how often the counter is renewed: each end may be this old.
        max_watts: more than this between two readings is a reset, not energy.

    Raises:
        EnergyError: too few readings, or a jump no device draws.
    """
    if len(at_ns) < 2 or at_ns[0] > window.begin_ns or at_ns[-1] < window.end_ns:
        msg = "the counter was not read before and after the load"
        raise EnergyError(msg)
    for index in range(1, len(at_ns)):
        seconds = (at_ns[index] - at_ns[index - 1]) / _NS_PER_S
        if joules[index] - joules[index - 1] > max_watts * (seconds + refresh_s):
            msg = f"the counter jumped by {joules[index] - joules[index - 1]:.3g} J in {seconds:.3g} s: it was reset"
            raise EnergyError(msg)
    value = _at(at_ns, joules, window.end_ns) - _at(at_ns, joules, window.begin_ns)
    watts = value / window.seconds if window.seconds > 0 else 0.0
    return Estimate(value, bound=watts * refresh_s)


def _at(at_ns: Sequence[int], joules: Sequence[float], moment_ns: int) -> float:
    """Return the counter at a moment, on the line between the readings around it."""
    after = next(index for index, taken_ns in enumerate(at_ns) if taken_ns >= moment_ns)
    if at_ns[after] == moment_ns or after == 0:
        return joules[after]
    before = after - 1
    share = (moment_ns - at_ns[before]) / (at_ns[after] - at_ns[before])
    return joules[before] + share * (joules[after] - joules[before])


def power_energy(at_ns: Sequence[int], watts: Sequence[float], window: Window, *, block_s: float = 0.0) -> Estimate:
    """Return the integral of sampled power over a window.

    Each reading stands for the time halfway to its neighbours, so the readings fill the window exactly; with one
    reading at a random moment of each period this is unbiased for every load. The error is estimated from the
    differences of consecutive block means (von Neumann 1941), which a slow trend inflates little and which is not too
    small where blocks are independent.

    Args:
        at_ns: when power was read, ascending.
        watts: power.
        window: the span; readings outside it are not used.
        block_s: the shortest block: longer than what the sensor or the load repeats over.

    Raises:
        EnergyError: fewer than 8 readings in the window.
    """
    inside = [(taken_ns, power) for taken_ns, power in zip(at_ns, watts, strict=True)
              if window.begin_ns <= taken_ns <= window.end_ns]  # fmt: skip
    if len(inside) < MIN_READINGS:
        msg = f"{len(inside)} readings in {window.seconds:.3g} s; at least {MIN_READINGS} are needed"
        raise EnergyError(msg)
    weights_s = _weights_s([taken_ns for taken_ns, _ in inside], window)
    value = math.fsum(weight * power for weight, (_, power) in zip(weights_s, inside, strict=True))
    length_ns = max((window.end_ns - window.begin_ns) / min(BLOCKS, len(inside) // 2), block_s * _NS_PER_S)
    blocks = _blocks(inside, weights_s, window, length_ns)
    if len(blocks) < 4:
        msg = f"{window.seconds:.3g} s hold {len(blocks)} blocks of {length_ns / _NS_PER_S:.3g} s; 4 are needed"
        raise EnergyError(msg)
    return Estimate(value, variance=_variance(blocks), freedom=2.0 * (len(blocks) - 1) / 3.0)


def _weights_s(at_ns: Sequence[int], window: Window) -> list[float]:
    edges = [
        window.begin_ns,
        *((earlier + later) / 2 for earlier, later in pairwise(at_ns)),
        window.end_ns,
    ]
    return [(right - left) / _NS_PER_S for left, right in pairwise(edges)]


def _blocks(
    inside: Sequence[tuple[int, float]], weights_s: Sequence[float], window: Window, length_ns: float
) -> list[tuple[float, float]]:
    """Return (seconds, mean watts) of consecutive blocks of the window."""
    sums: dict[int, tuple[float, float]] = {}
    for (taken_ns, power), weight_s in zip(inside, weights_s, strict=True):
        number = int((taken_ns - window.begin_ns) / length_ns)
        seconds, joules = sums.get(number, (0.0, 0.0))
        sums[number] = (seconds + weight_s, joules + weight_s * power)
    return [(seconds, joules / seconds) for _, (seconds, joules) in sorted(sums.items()) if seconds > 0]


def _variance(blocks: Sequence[tuple[float, float]]) -> float:
    """Return the variance of the integral: each block's from half the squared differences to its neighbours."""
    squares = [(later[1] - earlier[1]) ** 2 / 2 for earlier, later in pairwise(blocks)]
    around = [squares[:1], *([left, right] for left, right in pairwise(squares)), squares[-1:]]
    return math.fsum(
        seconds**2 * math.fsum(near) / len(near) for (seconds, _), near in zip(blocks, around, strict=True)
    )


def rise_s(at_ns: Sequence[int], watts: Sequence[float], window: Window, *, idle_w: float, load_w: float) -> float:
    """Return how long after a window's begin the readings first came halfway from the idle to the load's mean draw.

    A sensor that filters or renews slowly shows the load late, and so misses that much of it. 0 where the draws do not
    differ; the whole window where the readings never came there.
    """
    half_w = abs(load_w - idle_w) / 2
    if half_w == 0.0:
        return 0.0
    for taken_ns, power in zip(at_ns, watts, strict=True):
        if window.begin_ns <= taken_ns <= window.end_ns and abs(power - idle_w) >= half_w:
            return (taken_ns - window.begin_ns) / _NS_PER_S
    return window.seconds


def averaged_energy(
    at_ns: Sequence[int], watts: Sequence[float], window: Window, *, window_s: float, tail_s: float, idle: Estimate
) -> Estimate:
    """Return the energy in a window from a sensor that reads the average of the last `window_s`.

    Averaging keeps the area: the readings are integrated until `tail_s` after the window, when the sensor has forgotten
    the load, and the idle draw of that tail is taken off. That is exact when the device idles before and after.

    Raises:
        EnergyError: too few readings.
    """
    longer = Window(window.begin_ns, window.end_ns + int(tail_s * _NS_PER_S))
    return power_energy(at_ns, watts, longer, block_s=window_s).plus(idle.times(-tail_s))
