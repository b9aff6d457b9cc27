"""Order statistics of correlated samples: percentiles, effective sample size, and intervals that stay honest.

Pure: arrays in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgefleet_agent.qualify.latency.stats_beta import rank_of, student_975
from edgefleet_contract.evidence import Percentiles

Nanoseconds = NDArray[np.int64]
_NS_PER_MS = 1e6
_TAIL = 0.025
"""Probability left out on each side of a 95 % interval."""
_ENOUGH_EXCEED = 100
"""So many samples beyond a level give a usable estimate of how they are correlated."""
_UNCORRELATED = 0.8
"""Above this share of n an effective size is that of independent samples, within its own error."""
_NEAR_WEIGHT = 0.6
"""Weight (in logarithms) of the nearer level, between bias (0) and needless width (1)."""
_LEAST_SLACK, _AMPLE_SLACK = 1.1, 2.0
"""Correlated samples must be this many times the least number; from the second on `_NEAR_WEIGHT` holds."""
_LEAST_OF_MEAN = 10
"""Independent samples from which on a mean's distribution is near enough to normal."""


def nearest_rank(ordered: Sequence[int] | Nanoseconds, quantile: float) -> int:
    """Return the nearest-rank quantile of ascending values: the smallest with at least that share at or below it."""
    return int(ordered[max(0, math.ceil(quantile * len(ordered)) - 1)])


def effective_n(series: NDArray[np.bool_] | NDArray[np.float64]) -> float:
    """Return how many independent samples carry as much about the mean of a series, at most its length.

    Geyer's initial positive sequence (1992): autocovariances are summed in pairs for as long as the sums are positive.
    """
    n = len(series)
    centred = series - series.mean()
    variance = float(centred @ centred) / n
    if variance == 0.0:
        return float(n)
    spectrum = np.fft.rfft(centred, 2 * n)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), 2 * n)[: n - n % 2] / n
    pairs = covariance.reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0.0)
    positive = pairs[: ends[0]] if len(ends) else pairs
    asymptotic = -variance + 2.0 * float(positive.sum())
    return float(n) if asymptotic <= variance else n * variance / asymptotic


def interval_ranks(n: float, quantile: float) -> tuple[float, float] | None:
    """Return the real-valued ranks (from 1) between which a quantile lies with 95 % confidence; None if n is too small.

    Equal tails of the binomial distribution. The upper rank of p99 exists from n = 368 on.
    """
    if n < 1.0:
        return None
    low, high = rank_of(n, quantile, 1.0 - _TAIL), rank_of(n, quantile, _TAIL)
    return (low, high) if low >= 1.0 and high <= n else None


def quantile_interval(samples: Nanoseconds, quantile: float) -> tuple[float, tuple[float, float] | None]:
    """Return (effective sample size, 95 % interval of a quantile or None) of samples in issue order.

    The effective size is that of the series "this sample exceeds the quantile", so the interval keeps its coverage
    when slow samples come in bursts. Ranks are found at the effective size and stretched to the real one.

    The effective size is itself an estimate, and far out in the tail a poor one. So, for correlated samples, it is
    averaged with that of the nearest level that enough samples exceed, and reduced by Student's t for the few bursts
    it was estimated from. There is no interval unless the more careful of the two levels gives one as well, and close
    to that border the more careful one decides. The rules were fitted to keep coverage within 0.93 … 0.97
    (`python -m bench intervals`).
    """
    n, ordered = len(samples), np.sort(samples)
    n_eff = _exceedance_n(samples, ordered, quantile)
    careful_n = min(n_eff, _nearer_n(samples, ordered, quantile, n_eff))
    slack = _for_few(careful_n, n, quantile) / _least_n(quantile)
    if slack < (1.0 if careful_n > _UNCORRELATED * n else _LEAST_SLACK):
        return n_eff, None
    towards_border = min(max((_AMPLE_SLACK - slack) / (_AMPLE_SLACK - _LEAST_SLACK), 0.0), 1.0)
    weight = _NEAR_WEIGHT + (1.0 - _NEAR_WEIGHT) * towards_border
    used_n = _for_few(n_eff ** (1.0 - weight) * careful_n**weight, n, quantile)
    ranks = interval_ranks(used_n, quantile)
    if ranks is None:
        return n_eff, None
    low, high = (_between(ordered, rank / (used_n + 1.0) * (n + 1.0)) for rank in ranks)
    return n_eff, (low, high)


def _least_n(quantile: float) -> float:
    """Return the number of independent samples from which on a 95 % interval of a quantile exists."""
    return math.log(_TAIL) / math.log(max(quantile, 1.0 - quantile))


def _exceedance_n(samples: Nanoseconds, ordered: Nanoseconds, quantile: float) -> float:
    return effective_n(samples > nearest_rank(ordered, quantile))


def _nearer_n(samples: Nanoseconds, ordered: Nanoseconds, quantile: float, n_eff: float) -> float:
    """Return the effective size at the nearest level that enough samples exceed; `n_eff` where it finds nothing."""
    n = len(ordered)
    margin = min(_ENOUGH_EXCEED / n, 0.5)
    nearer = min(max(quantile, margin), 1.0 - margin)
    near_n = n_eff if nearer == quantile else _exceedance_n(samples, ordered, nearer)
    return n_eff if near_n > _UNCORRELATED * n else near_n


def _for_few(n_eff: float, n: int, quantile: float) -> float:
    """Return an effective size reduced for being estimated from few independent exceedances.

    Their number stands for the degrees of freedom of the correlation found, and counts for nothing where none was
    found. Below three nothing can be said: 0.
    """
    if n_eff >= n:
        return n_eff
    correlated = 1.0 - n_eff / n
    freedom = n_eff * min(quantile, 1.0 - quantile) / correlated**2
    return n_eff * (student_975(math.inf) / student_975(freedom)) ** 2 if freedom >= 3.0 else 0.0


def _between(ordered: Nanoseconds, rank: float) -> float:
    """Return the value at a real-valued rank (from 1), by linear interpolation."""
    below = min(max(1, math.floor(rank)), len(ordered))
    above = min(below + 1, len(ordered))
    share = min(max(rank - below, 0.0), 1.0)
    return float(ordered[below - 1]) + share * float(ordered[above - 1] - ordered[below - 1])


def percentiles(samples: Nanoseconds) -> Percentiles:
    """Return p50, p95 and p99 in milliseconds with their 95 % intervals; `n_eff` is that of p95.

    Args:
        samples: wall time of each inference in issue order, in nanoseconds; at least one.
    """
    ordered = np.sort(samples)
    found = {share: quantile_interval(samples, share) for share in (0.50, 0.95, 0.99)}
    return Percentiles(
        n=len(samples),
        n_eff=found[0.95][0],
        p50_ms=nearest_rank(ordered, 0.50) / _NS_PER_MS,
        p95_ms=nearest_rank(ordered, 0.95) / _NS_PER_MS,
        p99_ms=nearest_rank(ordered, 0.99) / _NS_PER_MS,
        ci95_p50_ms=_in_ms(found[0.50][1]),
        ci95_p95_ms=_in_ms(found[0.95][1]),
        ci95_p99_ms=_in_ms(found[0.99][1]),
    )


def _in_ms(interval_ns: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval_ns is None else (interval_ns[0] / _NS_PER_MS, interval_ns[1] / _NS_PER_MS)


def mean_interval(samples: Nanoseconds) -> tuple[float, tuple[float, float] | None]:
    """Return (mean, 95 % interval or None) in nanoseconds, at the effective sample size of the mean.

    Student's t with as many degrees of freedom as independent samples; None for fewer than 10 of them.
    """
    values = samples.astype(np.float64)
    mean, n_eff = float(values.mean()), effective_n(values)
    if n_eff < _LEAST_OF_MEAN:
        return mean, None
    reach = student_975(n_eff - 1.0) * float(values.std(ddof=1)) / math.sqrt(n_eff)
    return mean, (mean - reach, mean + reach)


def block_medians(samples: Nanoseconds, block_n: int) -> NDArray[np.float64]:
    """Return the median of each full block of `block_n` consecutive samples, in nanoseconds."""
    full = len(samples) // block_n
    blocks = samples[: full * block_n].reshape(full, block_n)
    return np.asarray(np.median(blocks, axis=1), np.float64)
