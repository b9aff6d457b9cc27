"""Latency of one model under one scenario: warm-up until steady, then samples until the answer is known well enough."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from edgefleet_agent.qualify.clocks import Clocks, CpuAccounts
from edgefleet_agent.qualify.contention import MAX_DRIFT, MAX_PREEMPTED, Disturbance
from edgefleet_agent.qualify.early_stopping import needed_queries
from edgefleet_agent.qualify.latency_loop import RECOVERY_NS, Call, Samples, no_collection, take, take_scheduled
from edgefleet_agent.qualify.latency_result import Run, Start, latency_result
from edgefleet_agent.qualify.scenario import Schedule, schedule
from edgefleet_agent.qualify.stats import Nanoseconds, quantile_interval
from edgefleet_agent.qualify.steady import BLOCK_N, TraceKind, classify
from edgefleet_contract.evidence import LatencyResult, StopReason
from edgefleet_contract.job import LatencyBudget

STEADY_N = 5 * BLOCK_N
"""Samples the last level must hold for in warm-up."""
FIRST_LOOK_N = 12 * BLOCK_N
"""In fewer blocks neither a trend nor a cycle can be told from noise."""
NARROW_SHARE = 0.05
"""The run may end when the 95 % interval of the percentile asked for is this narrow, relative to its upper end."""
CHECK_GROWTH = 1.3
"""Between looks at the interval the run grows by this factor, so looking costs little and never biases much."""
FLOOR_N = 1000
OVERTIME = 4
"""The run goes on past its time only to reach its smallest n, and never past this many times its time."""

_NS_PER_S = 1_000_000_000

__all__ = ["Start", "measure_latency"]


@dataclass(frozen=True)
class _WarmUp:
    """How warm-up went: its queries, whether the level stayed, and what a query took at the end, in nanoseconds."""

    n: int
    steady: bool
    typical_ns: int


def measure_latency(
    call: Call, budget: LatencyBudget, *, start: Start, spinning: bool, clocks: Clocks, samples_n: int = 1
) -> LatencyResult:
    """Warm up, measure, and judge.

    Args:
        call: one query, bound to its input: one inference, or `samples_per_query` samples where the scenario has more.
        budget: the scenario, how long and how many.
        start: load and first-inference times, measured before.
        spinning: whether idle threads spin, for the record.
        clocks: time and the kernel's accounts.
        samples_n: samples in a query.
    """
    with no_collection():
        floor_ns = _floor_ns(clocks)
        warm_up = _warm_up(call, budget, clocks)
        planned = schedule(budget, max(1, warm_up.typical_ns))
        before, began_ns = clocks.accounts(), clocks.now_ns()
        samples, stopped_by, paused_ns = _measure(call, budget, planned, warm_up.typical_ns, clocks)
        ended_ns, after = clocks.now_ns(), clocks.accounts()
    duration_ns = max(1, ended_ns - began_ns)
    run = Run(
        samples=samples,
        budget=budget,
        schedule=planned,
        samples_per_query=samples_n,
        disturbance=_disturbance(samples, before, after, duration_ns),
        duration_ns=duration_ns,
        active_ns=max(1, duration_ns - paused_ns),
        warmup_n=warm_up.n,
        warmed_up=warm_up.steady,
        floor_ns=floor_ns,
        stopped_by=stopped_by,
    )
    return latency_result(run, start, spinning=spinning)


def _floor_ns(clocks: Clocks) -> int:
    """Return the median cost of the timing loop around a call that does nothing, in nanoseconds."""
    samples = Samples()
    take(_nothing, samples, FLOOR_N, clocks.now_ns() + _NS_PER_S, clocks)
    return int(np.median(samples.wall_ns))


def _nothing() -> None:
    """Do nothing."""


def _warm_up(call: Call, budget: LatencyBudget, clocks: Clocks) -> _WarmUp:
    """Infer until the last level has held for `STEADY_N` samples, or the time is over."""
    deadline_ns = clocks.now_ns() + int(budget.warmup_max_s * _NS_PER_S)
    samples, steady, look_n = Samples(), False, FIRST_LOOK_N
    while clocks.now_ns() < deadline_ns and not steady:
        ended_ns = take(call, samples, look_n, deadline_ns, clocks)
        steady = ended_ns < deadline_ns and is_steady(samples.wall_ns)
        look_n = max(look_n + BLOCK_N, int(look_n * CHECK_GROWTH))
    typical_ns = int(np.median(samples.wall_ns[-STEADY_N:])) if samples.n else 0
    return _WarmUp(samples.n, steady, typical_ns)


def is_steady(samples: Nanoseconds) -> bool:
    """Tell whether the last level of a series has held for `STEADY_N` samples."""
    found = classify(samples)
    return found.steady_from_n is not None and len(samples) - found.steady_from_n >= STEADY_N


def _measure(
    call: Call, budget: LatencyBudget, planned: Schedule | None, typical_ns: int, clocks: Clocks
) -> tuple[Samples, StopReason, int]:
    """Return the samples, why there are no more, and how long the harness paused between them, in nanoseconds."""
    samples, paused_ns = Samples(), 0
    began_ns = clocks.now_ns()
    least_ns = began_ns + int(budget.min_duration_s * _NS_PER_S)
    most_ns = began_ns + int(budget.max_duration_s * _NS_PER_S)
    max_n = max(budget.min_n, budget.max_n) if planned is None else len(planned.arrivals_ns)
    arrivals_ns = None if planned is None else planned.arrivals_ns + began_ns

    def go_on(stop_n: int, deadline_ns: int) -> int:
        if arrivals_ns is None:
            return take(call, samples, stop_n, deadline_ns, clocks, typical_ns=typical_ns)
        return take_scheduled(call, samples, arrivals_ns, stop_n, deadline_ns, clocks)

    # The smallest n may take overtime; what comes after it may not.
    ended_ns = go_on(min(budget.min_n, max_n), began_ns + OVERTIME * (most_ns - began_ns))
    while samples.n < max_n and ended_ns < most_ns:
        if ended_ns >= least_ns and seen_enough(samples, budget.percentile):
            return samples, StopReason.INTERVAL, paused_ns
        before_n = samples.n
        pause_ns = _warm_again(call, clocks) - ended_ns
        paused_ns += pause_ns
        if arrivals_ns is not None:
            # Nothing arrives while the harness computes: else its own pause would stand in the latencies.
            arrivals_ns[before_n:] += pause_ns
        ended_ns = go_on(min(max_n, int(before_n * CHECK_GROWTH) + BLOCK_N), most_ns)
        if samples.n == before_n:
            break
    return samples, StopReason.COUNT if samples.n >= max_n else StopReason.TIME, paused_ns


def _warm_again(call: Call, clocks: Clocks) -> int:
    """Infer without recording until caches are as warm as before the harness used them; return the clock after it."""
    until_ns = clocks.now_ns() + RECOVERY_NS
    while True:
        call()
        now_ns = clocks.now_ns()
        if now_ns >= until_ns:
            return now_ns


def seen_enough(samples: Samples, asked: float) -> bool:
    """Tell whether the percentile asked for is known well enough and the level has not shifted.

    On a contended machine more samples do not narrow the disturbed tail, so there the undisturbed one decides.
    """
    if samples.n < needed_queries(asked):
        return False
    kept = ~samples.disturbed
    undisturbed_ns = samples.wall_ns[kept]
    if classify(samples.service_ns[kept], equivalent_share=MAX_DRIFT).kind not in {TraceKind.FLAT, TraceKind.SHORT}:
        return False
    contended = samples.preempted_share > MAX_PREEMPTED
    return _is_narrow(samples.wall_ns, asked) or (contended and _is_narrow(undisturbed_ns, asked))


def _is_narrow(samples: Nanoseconds, asked: float) -> bool:
    if len(samples) == 0:
        return False
    _, interval_ns = quantile_interval(samples, asked)
    return interval_ns is not None and interval_ns[1] - interval_ns[0] <= NARROW_SHARE * interval_ns[1]


def _disturbance(samples: Samples, before: CpuAccounts, after: CpuAccounts, duration_ns: int) -> Disturbance:
    machine_ns = duration_ns * (os.cpu_count() or 1)
    others_ns = (after.busy_ns - before.busy_ns) - (after.own_ns - before.own_ns)
    return Disturbance(
        preempted=samples.preempted_share,
        steal=(after.steal_ns - before.steal_ns) / machine_ns,
        delayed=(after.run_delay_ns - before.run_delay_ns) / duration_ns,
        others=max(0, others_ns) / machine_ns,
    )
