"""Latency of one model under one scenario: warm-up until steady, then samples until the answer is known well enough."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgefleet_agent.qualify.latency.clocks import Clocks, CpuAccounts
from edgefleet_agent.qualify.latency.contention import Disturbance
from edgefleet_agent.qualify.latency.loop import Call, Samples, no_collection, take
from edgefleet_agent.qualify.latency.measuring import CHECK_GROWTH, Looks, Measuring
from edgefleet_agent.qualify.latency.result import Run, Start, latency_result
from edgefleet_agent.qualify.latency.scenario import schedule
from edgefleet_agent.qualify.latency.stats import Nanoseconds
from edgefleet_agent.qualify.latency.steady import BLOCK_N, classify
from edgefleet_contract.evidence import LatencyResult
from edgefleet_contract.job import LatencyBudget

STEADY_N = 5 * BLOCK_N
"""Samples the last level must hold for in warm-up."""
FIRST_LOOK_N = 12 * BLOCK_N
"""In fewer blocks neither a trend nor a cycle can be told from noise."""
FLOOR_N = 1000

_NS_PER_S = 1_000_000_000

__all__ = ["Start", "measure_latency"]


@dataclass(frozen=True)
class _WarmUp:
    """How warm-up went: its queries, whether the level stayed, and what a query took at the end, in nanoseconds."""

    n: int
    steady: bool
    typical_ns: int


def measure_latency(
    call: Call,
    budget: LatencyBudget,
    *,
    start: Start,
    spinning: bool,
    clocks: Clocks,
    samples_n: int = 1,
    look: Callable[[], object] | None = None,
) -> LatencyResult:
    """Warm up, measure, and judge.

    Args:
        call: one query, bound to its input: one inference, or `samples_per_query` samples where the scenario has more.
        budget: the scenario, how long and how many.
        start: load and first-inference times, measured before.
        spinning: whether idle threads spin, for the record.
        clocks: time and the kernel's accounts.
        samples_n: samples in a query.
        look: called between samples, about once a second; looks at temperatures, say.
    """
    return latency_result(measured_run(call, budget, clocks, samples_n, look), start, spinning=spinning)


def measured_run(
    call: Call, budget: LatencyBudget, clocks: Clocks, samples_n: int = 1, look: Callable[[], object] | None = None
) -> Run:
    """Warm up, measure, and return everything as it was; the arguments are those of `measure_latency`."""
    looks = Looks(look, clocks.now_ns)
    with no_collection():
        floor_ns = _floor_ns(clocks)
        warm_up = _warm_up(call, budget, clocks, looks)
        planned = schedule(budget, max(1, warm_up.typical_ns))
        before, began_ns = clocks.accounts(), clocks.now_ns()
        measuring = Measuring(call, budget, planned, warm_up.typical_ns, clocks, looks)
        stopped_by = measuring.run()
        ended_ns, after = clocks.now_ns(), clocks.accounts()
    samples, duration_ns = measuring.samples, max(1, ended_ns - began_ns)
    return Run(
        samples=samples,
        budget=budget,
        schedule=planned,
        samples_per_query=samples_n,
        disturbance=_disturbance(samples, before, after, duration_ns),
        duration_ns=duration_ns,
        active_ns=max(1, duration_ns - measuring.paused_ns),
        warmup_n=warm_up.n,
        warmed_up=warm_up.steady,
        floor_ns=floor_ns,
        stopped_by=stopped_by,
    )


def _floor_ns(clocks: Clocks) -> int:
    """Return the median cost of the timing loop around a call that does nothing, in nanoseconds."""
    samples = Samples()
    take(_nothing, samples, FLOOR_N, clocks.now_ns() + _NS_PER_S, clocks)
    return int(np.median(samples.wall_ns))


def _nothing() -> None:
    """Do nothing."""


def _warm_up(call: Call, budget: LatencyBudget, clocks: Clocks, looks: Looks) -> _WarmUp:
    """Infer until the last level has held for `STEADY_N` samples, or the time is over."""
    deadline_ns = clocks.now_ns() + int(budget.warmup_max_s * _NS_PER_S)
    samples, steady, look_n = Samples(), False, FIRST_LOOK_N
    while clocks.now_ns() < deadline_ns and not steady:
        ended_ns = take(call, samples, look_n, deadline_ns, clocks)
        looks.if_due()
        steady = ended_ns < deadline_ns and is_steady(samples.wall_ns)
        look_n = max(look_n + BLOCK_N, int(look_n * CHECK_GROWTH))
    typical_ns = int(np.median(samples.wall_ns[-STEADY_N:])) if samples.n else 0
    return _WarmUp(samples.n, steady, typical_ns)


def is_steady(samples: Nanoseconds) -> bool:
    """Tell whether the last level of a series has held for `STEADY_N` samples."""
    found = classify(samples)
    return found.steady_from_n is not None and len(samples) - found.steady_from_n >= STEADY_N


def _disturbance(samples: Samples, before: CpuAccounts, after: CpuAccounts, duration_ns: int) -> Disturbance:
    machine_ns = duration_ns * (os.cpu_count() or 1)
    others_ns = (after.busy_ns - before.busy_ns) - (after.own_ns - before.own_ns)
    return Disturbance(
        preempted=samples.preempted_share,
        steal=(after.steal_ns - before.steal_ns) / machine_ns,
        delayed=(after.run_delay_ns - before.run_delay_ns) / duration_ns,
        others=max(0, others_ns) / machine_ns,
    )
