"""MLPerf's early stopping: how many queries a statement on a percentile needs, and what it then may say. Pure.

Defined in the MLPerf Inference rules ("Early stopping criterion"): of n independent queries, t may exceed a latency
if so few would exceed it with a probability of less than 1 - confidence, were it not above the percentile asked for.
"""

from __future__ import annotations

import math

from edgefleet_agent.qualify.latency.stats import Nanoseconds
from edgefleet_agent.qualify.latency.stats_beta import at_most
from edgefleet_contract.evidence import EarlyStopping

CONFIDENCE = 0.99
"""MLPerf's."""
_NS_PER_MS = 1e6


def needed_queries(percentile: float, confidence: float = CONFIDENCE) -> int:
    """Return the least number of queries for a statement on a percentile: 662 for p99 at 99 %, 64 for p90.

    Args:
        percentile: 0 < percentile < 1.
        confidence: 0 < confidence < 1.
    """
    low, high = 1, 2
    while not _holds(1, high, percentile, confidence):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _holds(1, middle, percentile, confidence) else (middle, high)
    return high


def discardable(n: int, percentile: float, confidence: float = CONFIDENCE) -> int | None:
    """Return how many of n queries lie above the latency that may be stated, itself included; None if n is too small.

    This is MLPerf's t: the statement is the t-th highest latency, and t - 1 queries are discarded.
    """
    if n < needed_queries(percentile, confidence):
        return None
    # `_holds` turns from true to false as t grows: past the mean number of exceedances it is false.
    low, high = 1, min(n, math.ceil(n * (1.0 - percentile)) + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _holds(middle, n, percentile, confidence) else (low, middle)
    return low


def _holds(events_n: int, n: int, percentile: float, confidence: float) -> bool:
    return events_n < n and at_most(events_n, n, 1.0 - percentile) < 1.0 - confidence


def early_stopping(ordered_ns: Nanoseconds, percentile: float) -> EarlyStopping:
    """Return what MLPerf's criterion lets these queries say about a percentile.

    Args:
        ordered_ns: latencies in ascending order, in nanoseconds.
        percentile: 0 < percentile < 1.
    """
    above_n = discardable(len(ordered_ns), percentile)
    return EarlyStopping(
        percentile=percentile,
        confidence=CONFIDENCE,
        needed_n=needed_queries(percentile),
        discarded_n=None if above_n is None else above_n - 1,
        estimate_ms=None if above_n is None else int(ordered_ns[len(ordered_ns) - above_n]) / _NS_PER_MS,
    )
