"""Scenarios: how queries arrive and of what they are made. Names and meaning are MLPerf Inference's. Pure.

- `single-stream`: a query of one sample; the next begins when it has ended.
- `multi-stream`: the same with several samples a query; the query ends with its last sample.
- `server`: queries arrive at random (Poisson), whether or not the device is ready; latency counts from the arrival.
- `offline`: everything is there at once; samples per second count.
- `fixed-rate`: as `server`, with even gaps: a camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefleet_agent.qualify.latency.stats import Nanoseconds
from edgefleet_contract.accept import LatencyAccept, Scenario
from edgefleet_contract.job import LatencyBudget

SCHEDULED = frozenset({Scenario.SERVER, Scenario.FIXED_RATE})
MULTI_STREAM_SAMPLES = 8
"""MLPerf's samples per query."""
OFFLINE_SAMPLES = 32
"""Samples handed over at a time; more gain little on small devices and cost memory."""
_NS_PER_S = 1e9
_SPARE_ARRIVALS = 1.3
"""Poisson arrivals of a run number their mean ± 3 √mean; 30 % more than the mean cover 100 and up."""


@dataclass(frozen=True)
class Schedule:
    """When queries arrive.

    Attributes:
        rate_hz: how many a second, on average.
        seed: what they were drawn with; None for even gaps.
        arrivals_ns: from the start, ascending.
    """

    rate_hz: float
    seed: int | None
    arrivals_ns: Nanoseconds


def samples_per_query(budget: LatencyBudget) -> int:
    """Return how many samples a query has."""
    default = {Scenario.MULTI_STREAM: MULTI_STREAM_SAMPLES, Scenario.OFFLINE: OFFLINE_SAMPLES}.get(budget.scenario)
    return 1 if default is None else budget.samples_per_query or default


def budget_for(accept: LatencyAccept, budget: LatencyBudget) -> LatencyBudget:
    """Return a budget for what a manifest limits: its scenario, its load, and the highest percentile it names."""
    named = ((0.99, accept.p99_ms), (0.95, accept.p95_ms), (0.50, accept.p50_ms))
    asked = next((share for share, limit_ms in named if limit_ms is not None), budget.percentile)
    if accept.scenario is Scenario.SINGLE_STREAM:
        return budget.model_copy(update={"percentile": asked})
    changed = {
        "percentile": asked,
        "scenario": accept.scenario,
        "rate_hz": accept.rate_hz,
        "load_share": accept.load_share,
        "samples_per_query": accept.samples_per_query,
    }
    return budget.model_copy(update=changed)


def schedule(budget: LatencyBudget, service_ns: float) -> Schedule | None:
    """Return when queries arrive; None where each follows the last.

    Args:
        budget: the scenario, its rate or load, how long and how many.
        service_ns: what one query takes by itself, > 0.
    """
    if budget.scenario not in SCHEDULED:
        return None
    rate_hz = budget.rate_hz or budget.load_share * _NS_PER_S / service_ns
    n = min(budget.max_n, max(budget.min_n, int(_SPARE_ARRIVALS * rate_hz * budget.max_duration_s) + 1))
    if budget.scenario is Scenario.FIXED_RATE:
        return Schedule(rate_hz, None, (np.arange(n) * (_NS_PER_S / rate_hz)).astype(np.int64))
    return Schedule(rate_hz, budget.seed, poisson_arrivals_ns(rate_hz, n, budget.seed))


def poisson_arrivals_ns(rate_hz: float, n: int, seed: int) -> Nanoseconds:
    """Return n arrivals of a Poisson process, from 0, in nanoseconds: gaps are exponential and independent."""
    gaps_ns = np.random.default_rng(seed).exponential(_NS_PER_S / rate_hz, n)
    return np.asarray(np.cumsum(gaps_ns), np.int64)
