"""Finds where a series of latencies changes its level, and whether it has come to rest. Pure.

Method: medians of blocks of 20 samples, in logarithms, so that single slow samples do not count and levels compare as
ratios; change points by PELT (Killick, Fearnhead and Eckley, "Optimal detection of changepoints with a linear
computational cost", JASA 107, 2012) with squared error, a robust noise estimate and the penalty 3 ln n; segments whose
levels differ by less than 2 % are one state. Sorting traces into flat, warm-up, slow-down and no steady state is
Barrett, Bolz-Tereick, Killick, Mount and Tratt, "Virtual Machine Warmup Blows Hot and Cold", OOPSLA 2017.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from edgefleet_agent.qualify.latency.stats import Nanoseconds, block_medians

BLOCK_N = 20
"""Samples in a block: the median of 20 ignores single preemptions."""
MOST_BLOCKS = 400
"""Longer traces are cut into larger blocks, so that a verdict takes milliseconds also on a small board."""
EQUIVALENT_SHARE = 0.02
"""Levels within 2 % of each other are one state (told apart 8 of 8 labelled traces)."""
LEAST_TAIL_SHARE = 0.2
"""The last state must hold for a fifth of the trace, else nobody knows that it is the last."""
_LEAST_BLOCKS = 3
"""Of a segment: fewer are a disturbance, not a level."""
_LEAST_SIGMA = 0.001
"""Noise of the block medians below 0.1 % is clock resolution."""
_PENALTY = 3.0
_CLIP_SIGMAS = 3.0
_TREND_T = 4.0
"""A trend counts from four standard errors on: once in 16,000 flat traces."""
_TREND_AFTER_CHANGE_T = 2.5
"""What has changed once is believed to go on changing on less evidence."""
_CYCLE_CHANCE = 1e-3

Series = NDArray[np.float64]


class TraceKind(str, Enum):
    """What a trace does."""

    FLAT = "flat"
    """One level throughout; spikes and several modes at random are noise."""
    WARM_UP = "warm-up"
    """Slower first, then one level."""
    SLOW_DOWN = "slow-down"
    """Faster first, then one level: throttling, most often."""
    UNSTEADY = "unsteady"
    """No level lasts: it drifts, or goes to and fro."""
    SHORT = "short"
    """Too few samples to tell."""


@dataclass(frozen=True)
class Trace:
    """What was found.

    Attributes:
        kind: what the trace does.
        steady_from_n: samples before the last level; 0 for a flat one, None where there is no last level.
        change_share: how far the first level of a changing trace lies from its last, as a share of the last.
    """

    kind: TraceKind
    steady_from_n: int | None = None
    change_share: float = 0.0


def classify(samples: Nanoseconds, *, equivalent_share: float = EQUIVALENT_SHARE) -> Trace:
    """Tell what a series of latencies does.

    Args:
        samples: wall time of each inference in issue order, in nanoseconds, all > 0.
        equivalent_share: levels within this share of each other are one state.
    """
    block_n = max(BLOCK_N, math.ceil(len(samples) / MOST_BLOCKS))
    medians = block_medians(samples, block_n)
    if len(medians) < _LEAST_BLOCKS or medians.min() <= 0.0:
        return Trace(TraceKind.SHORT)
    sigma = max(_LEAST_SIGMA, noise(np.log(medians)), median_error(samples, block_n))
    levels = _without_spikes(np.log(medians), sigma)
    starts = change_points(levels, sigma)
    places = _located(samples, levels, starts, block_n)
    return _judge(levels, starts, places, math.log1p(equivalent_share))


def _located(samples: Nanoseconds, levels: Series, starts: tuple[int, ...], block_n: int) -> tuple[int, ...]:
    """Return the samples before each change: the best place for a step within a block to either side.

    Best is the smallest sum of absolute deviations from the levels before and after, of logarithms, so single slow
    samples weigh little.
    """
    bounds = (0, *starts, len(levels))
    places: list[int] = []
    for before, start, after in zip(bounds, starts, bounds[2:], strict=False):
        low, high = float(np.median(levels[before:start])), float(np.median(levels[start:after]))
        first = (start - 1) * block_n
        window = np.log(np.maximum(samples[first : (start + 1) * block_n], 1))
        gain = np.concatenate(([0.0], np.cumsum(np.abs(window - low) - np.abs(window - high))))
        places.append(first + int(np.argmin(gain)))
    return tuple(places)


def _without_spikes(levels: Series, sigma: float) -> Series:
    """Return the series with single blocks pulled in to three standard deviations around the median of five."""
    padded = np.pad(levels, 2, mode="edge")
    centre = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    reach = _CLIP_SIGMAS * sigma
    return np.asarray(np.clip(levels, centre - reach, centre + reach), np.float64)


def noise(levels: Series) -> float:
    """Return the standard deviation of a series around its local level: 1.4826 MAD of the steps, over √2."""
    steps = np.diff(levels)
    if len(steps) == 0:
        return 0.0
    return float(1.4826 * np.median(np.abs(steps - np.median(steps))) / math.sqrt(2.0))


def median_error(samples: Nanoseconds, block_n: int) -> float:
    """Return the standard error of a block's median, in logarithms, as a typical block's own order statistics tell it.

    Where samples have two modes, a block's median jumps between them now and then; the steps of the medians do not
    show that noise, the spread within the blocks does.
    """
    full = len(samples) // block_n
    blocks = np.sort(samples[: full * block_n].reshape(full, block_n), axis=1)
    reach = 0.98 * math.sqrt(block_n)  # the binomial 95 % interval of a median
    low, high = max(0, round(block_n / 2 - reach)), min(block_n - 1, round(block_n / 2 + reach))
    return float(np.median(np.log(blocks[:, high] / blocks[:, low]))) / (2 * 1.96)


def change_points(levels: Series, sigma: float) -> tuple[int, ...]:
    """Return where segments after the first begin: PELT with squared error and the penalty 3 σ² ln n.

    Args:
        levels: the series.
        sigma: standard deviation of its noise, > 0.
    """
    n = len(levels)
    penalty = _PENALTY * sigma * sigma * math.log(n)
    sums, squares = (np.concatenate(([0.0], np.cumsum(values))) for values in (levels, levels * levels))
    best = np.full(n + 1, np.inf)
    best[0] = -penalty
    last = np.zeros(n + 1, np.int64)
    candidates = np.array([0], np.int64)
    for end in range(_LEAST_BLOCKS, n + 1):
        fresh = end - _LEAST_BLOCKS
        if fresh > 0:
            candidates = np.append(candidates, fresh)
        long_n = end - candidates
        total = sums[end] - sums[candidates]
        cost = best[candidates] + squares[end] - squares[candidates] - total * total / long_n
        chosen = int(np.argmin(cost))
        best[end], last[end] = cost[chosen] + penalty, candidates[chosen]
        candidates = candidates[cost <= best[end]]
    return _walk_back(last, n)


def _walk_back(last: NDArray[np.int64], n: int) -> tuple[int, ...]:
    starts: list[int] = []
    end = n
    while end > 0:
        end = int(last[end])
        starts.append(end)
    return tuple(sorted(start for start in starts if start > 0))


def _judge(levels: Series, starts: tuple[int, ...], places: tuple[int, ...], alike: float) -> Trace:
    bounds = (0, *starts, len(levels))
    segments = [levels[low:high] for low, high in itertools.pairwise(bounds)]
    means = [float(np.median(segment)) for segment in segments]
    tail = len(means) - 1
    while tail > 0 and abs(means[tail - 1] - means[-1]) <= alike:
        tail -= 1
    begin = bounds[tail]
    change = math.expm1(means[0] - means[-1])
    rest = levels[begin:]
    residuals = np.concatenate([segment - mean for segment, mean in zip(segments, means, strict=True)])
    unsteady = Trace(TraceKind.UNSTEADY, None, change)
    if tail and len(rest) < LEAST_TAIL_SHARE * len(levels):
        return unsteady
    if (
        _trends(rest, alike, _TREND_AFTER_CHANGE_T if tail else _TREND_T)
        or _cycles(residuals, alike)
        or _returns(means[:tail], means[-1], alike)
    ):
        return unsteady
    if tail and _is_ramp(levels, residuals):
        return unsteady
    if tail == 0:
        return Trace(TraceKind.FLAT, 0)
    kind = TraceKind.WARM_UP if means[tail - 1] > means[-1] else TraceKind.SLOW_DOWN
    return Trace(kind, places[tail - 1], change)


def _returns(earlier: list[float], final: float, alike: float) -> bool:
    """Tell whether the last level was there before: what left it once may leave it again."""
    return any(abs(mean - final) <= alike for mean in earlier)


def _is_ramp(levels: Series, residuals: Series) -> bool:
    """Tell whether one straight line fits a changing trace better than its steps do."""
    times = np.arange(len(levels)) - (len(levels) - 1) / 2.0
    left = levels - levels.mean() - times * float(times @ levels) / float(times @ times)
    return float(left @ left) < float(residuals @ residuals)


def _trends(levels: Series, alike: float, least_t: float) -> bool:
    """Tell whether a level moves by more than `alike` from its first to its last fifth, along a sure slope."""
    n = len(levels)
    if n < 2 * _LEAST_BLOCKS:
        return False
    times = np.arange(n) - (n - 1) / 2.0
    spread = float(times @ times)
    slope = float(times @ levels) / spread
    left = levels - levels.mean() - slope * times
    error = math.sqrt(max(float(left @ left) / (n - 2), _LEAST_SIGMA**2) / spread)
    fifth = max(1, n // 5)
    moved = abs(float(np.median(levels[-fifth:]) - np.median(levels[:fifth])))
    return moved > alike and abs(slope) > least_t * error


def _cycles(residuals: Series, alike: float) -> bool:
    """Tell whether one period stands out of the noise (Fisher's g test) with a swing of more than `alike`."""
    n = len(residuals)
    if n < 4 * _LEAST_BLOCKS:
        return False
    power = np.abs(np.fft.rfft(residuals - residuals.mean()))[1:] ** 2
    total = float(power.sum())
    if total <= 0.0:
        return False
    share, swing = float(power.max()) / total, 4.0 * math.sqrt(float(power.max())) / n
    return swing > alike and len(power) * (1.0 - share) ** (len(power) - 1) < _CYCLE_CHANCE
