"""Order statistics of correlated samples: percentiles, effective sample size, and intervals that stay honest.

Pure: arrays in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgefleet_contract.evidence import Percentiles

Nanoseconds = NDArray[np.int64]
_NS_PER_MS = 1e6
_TAIL = 0.025
"""Probability left out on each side of a 95 % interval."""


def nearest_rank(ordered: Sequence[int] | Nanoseconds, quantile: float) -> int:
    """Return the nearest-rank quantile of ascending values: the smallest with at least that share at or below it."""
    return int(ordered[max(0, math.ceil(quantile * len(ordered)) - 1)])


def effective_n(indicator: NDArray[np.bool_]) -> float:
    """Return how many independent samples carry as much about the mean of a 0/1 series, at most its length.

    Geyer's initial positive sequence (1992): autocovariances are summed in pairs for as long as the sums are positive.
    """
    n = len(indicator)
    centred = indicator - indicator.mean()
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


def interval_ranks(n: int, quantile: float) -> tuple[int, int] | None:
    """Return the ranks (from 1) between which a quantile lies with 95 % confidence, or None when n is too small.

    Binomial order-statistic interval with equal tails. The upper rank of p99 exists from n = 368 on.
    """
    below = _binomial_cdf(n, quantile)
    low = below.rank_of(_TAIL)
    high = below.rank_of(1.0 - _TAIL) + 1
    return (low, high) if low >= 1 and high <= n else None


class _Cdf:
    """A cumulative distribution over a window of counts beginning at `start`."""

    def __init__(self, start: int, values: NDArray[np.float64]) -> None:
        self._start = start
        self._values = values

    def rank_of(self, probability: float) -> int:
        """Return the smallest count whose cumulative probability reaches `probability`."""
        return self._start + int(np.searchsorted(self._values, probability))


def _binomial_cdf(n: int, p: float) -> _Cdf:
    """Return the binomial distribution function within 12 standard deviations of its mean; outside it is 0 or 1."""
    reach = 12.0 * math.sqrt(n * p * (1.0 - p)) + 20.0
    start, stop = max(0, int(n * p - reach)), min(n, int(n * p + reach))
    first = math.lgamma(n + 1) - math.lgamma(start + 1) - math.lgamma(n - start + 1)
    first += start * math.log(p) + (n - start) * math.log1p(-p)
    counts = np.arange(start, stop, dtype=np.float64)
    ratios = np.log((n - counts) / (counts + 1.0)) + math.log(p) - math.log1p(-p)
    log_pmf = first + np.concatenate(([0.0], np.cumsum(ratios)))
    return _Cdf(start, np.cumsum(np.exp(log_pmf)))


def quantile_interval(samples: Nanoseconds, quantile: float) -> tuple[float, tuple[int, int] | None]:
    """Return (effective sample size, 95 % interval of a quantile or None) of samples in issue order.

    The effective size is that of the series "this sample exceeds the quantile", so the interval keeps its coverage
    when slow samples come in bursts. Ranks are found at the effective size and stretched to the real one.
    """
    ordered = np.sort(samples)
    n_eff = effective_n(samples > nearest_rank(ordered, quantile))
    whole = int(n_eff)
    ranks = interval_ranks(whole, quantile) if whole >= 1 else None
    if ranks is None:
        return n_eff, None
    stretch = len(ordered) / whole
    low, high = (min(len(ordered), math.ceil(rank * stretch)) - 1 for rank in ranks)
    return n_eff, (int(ordered[max(0, low - math.ceil(stretch) + 1)]), int(ordered[high]))


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


def _in_ms(interval_ns: tuple[int, int] | None) -> tuple[float, float] | None:
    return None if interval_ns is None else (interval_ns[0] / _NS_PER_MS, interval_ns[1] / _NS_PER_MS)


def block_medians(samples: Nanoseconds, block_n: int) -> NDArray[np.float64]:
    """Return the median of each full block of `block_n` consecutive samples, in nanoseconds."""
    full = len(samples) // block_n
    blocks = samples[: full * block_n].reshape(full, block_n)
    return np.asarray(np.median(blocks, axis=1), np.float64)


def drift(samples: Nanoseconds) -> float:
    """Return by which share the median of the last third differs from that of the first; 0 for under 60 samples.

    A level that comes back is noise, and widens the intervals; one that stays away is a change.
    """
    third = len(samples) // 3
    if third < 20:
        return 0.0
    first, last = float(np.median(samples[:third])), float(np.median(samples[-third:]))
    return abs(last - first) / min(first, last) if min(first, last) > 0 else 0.0
