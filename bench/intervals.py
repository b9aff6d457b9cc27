"""Coverage of the 95 % intervals on samples whose truth is known, beside the usual binomial ones.

Log-normal latencies, independent and with autocorrelation 0.3 to 0.9 between neighbours (AR(1) in logarithms). For
each n, correlation and percentile: the share of intervals that hold the truth, and the share of runs that gave none.
`BENCH_SEEDS` shortens the run.
"""

from __future__ import annotations

import math
import os
import time

import numpy as np
from scipy.signal import lfilter
from scipy.stats import norm

from bench.conditions import conditions
from edgefleet_agent.qualify.latency.stats import interval_ranks, quantile_interval

SEEDS_N = int(os.environ.get("BENCH_SEEDS", "1000"))
SIZES = (2000, 5000)
CORRELATIONS = (0.0, 0.3, 0.6, 0.9)
QUANTILES = (0.50, 0.90, 0.95, 0.99)
BAND = (0.93, 0.97)
FEW = 0.1
"""Where fewer than this share of runs gave an interval, its coverage says nothing about them."""


def autoregressive(seed: int, n: int, rho: float) -> np.ndarray:
    """Return n latencies around 1 ms in nanoseconds, stationary from the first."""
    noise = np.random.default_rng(seed).normal(size=n)
    noise[1:] *= math.sqrt(1.0 - rho * rho)
    return np.asarray(np.exp(0.1 * lfilter([1.0], [1.0, -rho], noise)) * 1e6, np.int64)


def naive(samples: np.ndarray, quantile: float) -> tuple[float, float] | None:
    """Return the binomial interval that takes every sample for independent."""
    ranks = interval_ranks(len(samples), quantile)
    if ranks is None:
        return None
    ordered = np.sort(samples)
    return float(ordered[int(ranks[0]) - 1]), float(ordered[min(len(ordered), math.ceil(ranks[1])) - 1])


def main() -> None:
    """Count and print."""
    began_s = time.perf_counter()
    outside: list[str] = []
    print(f"{'n':>5} {'rho':>4} {'p':>4}  covered  refused  naive")
    for n in SIZES:
        for rho in CORRELATIONS:
            series = [autoregressive(seed, n, rho) for seed in range(SEEDS_N)]
            for quantile in QUANTILES:
                truth = math.exp(0.1 * norm.ppf(quantile)) * 1e6
                ours = [quantile_interval(samples, quantile)[1] for samples in series]
                given = [interval for interval in ours if interval is not None]
                usual = [interval for samples in series if (interval := naive(samples, quantile)) is not None]
                covered = sum(low <= truth <= high for low, high in given) / max(1, len(given))
                naively = sum(low <= truth <= high for low, high in usual) / max(1, len(usual))
                refused = 1.0 - len(given) / SEEDS_N
                told = len(given) >= FEW * SEEDS_N
                shown = f"{covered:7.3f}" if told else "     --"
                print(f"{n:5} {rho:4} {100 * quantile:4g}  {shown}  {refused:7.3f}  {naively:.3f}", flush=True)
                if told and not BAND[0] <= covered <= BAND[1]:
                    outside.append(f"n {n}, rho {rho}, p{100 * quantile:g}: {covered:.3f}")
    print(f"outside {BAND[0]} … {BAND[1]}: {', '.join(outside) or 'none'}")
    print(f"conditions: {SEEDS_N} seeds each, {time.perf_counter() - began_s:.0f} s; {conditions()}")


if __name__ == "__main__":
    main()
