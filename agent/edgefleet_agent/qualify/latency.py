"""Latency of one model, single-stream: the next inference starts when the last has ended (MLPerf's meaning)."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgefleet_agent.qualify.clocks import Clocks, CpuAccounts
from edgefleet_agent.qualify.contention import MAX_DRIFT, MAX_PREEMPTED, Disturbance, judge_latency_run
from edgefleet_agent.qualify.stats import Nanoseconds, block_medians, drift, percentiles, quantile_interval
from edgefleet_agent.runtimes.base import UnsupportedError
from edgefleet_contract.accept import Scenario
from edgefleet_contract.base import clip_reason
from edgefleet_contract.evidence import LatencyResult
from edgefleet_contract.job import LatencyBudget

BLOCK_N = 20
"""Samples in a warm-up block: the median of 20 ignores single preemptions."""
STEADY_BLOCKS = 3
STEADY_SHARE = 0.02
"""Blocks within 2 % of each other are equivalent (measured on eight labelled traces)."""
NARROW_SHARE = 0.05
"""The run may end when the 95 % interval of p95 is this narrow, relative to its upper end."""
CHECK_GROWTH = 1.3
"""Between looks at the interval the run grows by this factor, so looking costs little and never biases much."""
FLOOR_N = 1000
OVERTIME = 4
"""The run goes on past its time only to reach its smallest n, and never past this many times its time."""

_NS_PER_S = 1_000_000_000
_NS_PER_MS = 1e6


@dataclass(frozen=True)
class Start:
    """How long the model took to become ready, in nanoseconds."""

    load_ns: int
    first_ns: int


@dataclass
class _Trace:
    """Samples as they are taken, preallocated; `n` of them are filled."""

    wall_ns: Nanoseconds
    preempted: NDArray[np.bool_]
    n: int = 0

    @classmethod
    def for_at_most(cls, max_n: int) -> _Trace:
        return cls(np.zeros(max_n, np.int64), np.zeros(max_n, np.bool_))

    @property
    def taken_ns(self) -> Nanoseconds:
        return self.wall_ns[: self.n]

    @property
    def preempted_share(self) -> float:
        return float(self.preempted[: self.n].mean()) if self.n else 0.0

    @property
    def undisturbed_ns(self) -> Nanoseconds:
        return self.taken_ns[~self.preempted[: self.n]]


def require_single_stream(scenario: Scenario) -> None:
    """Refuse scenarios this version does not measure. Raises UnsupportedError."""
    if scenario is not Scenario.SINGLE_STREAM:
        msg = f"scenario {scenario.value}: this version of the agent measures single-stream only"
        raise UnsupportedError(msg)


def measure_latency(
    call: Callable[[], object], budget: LatencyBudget, *, start: Start, spinning: bool, clocks: Clocks
) -> LatencyResult:
    """Warm up, measure, and judge.

    Args:
        call: one inference, bound to its input.
        budget: how long and how many.
        start: load and first-inference times, measured before.
        spinning: whether idle threads spin, for the record.
        clocks: time and the kernel's accounts.

    Raises:
        UnsupportedError: a scenario other than single-stream.
    """
    require_single_stream(budget.scenario)
    with _no_collection():
        floor_ns = _floor_ns(clocks)
        warmup_n = _warm_up(call, budget, clocks)
        before, began_ns = clocks.accounts(), clocks.now_ns()
        trace = _measure(call, budget, clocks)
        ended_ns, after = clocks.now_ns(), clocks.accounts()
    duration_ns = max(1, ended_ns - began_ns)
    seen = _disturbance(trace, before, after, duration_ns)
    return _result(trace, budget, start, seen, spinning=spinning, warmup_n=warmup_n, duration_ns=duration_ns,
                   floor_ns=floor_ns)  # fmt: skip


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the timed loop."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _take(call: Callable[[], object], trace: _Trace, stop_n: int, deadline_ns: int, clocks: Clocks) -> int:
    """Take samples until `stop_n` are there or the deadline passed; return the clock at the end, in nanoseconds."""
    now_ns, switches = clocks.now_ns, clocks.switches
    wall_ns, preempted = trace.wall_ns, trace.preempted
    ended_ns = now_ns()
    while trace.n < stop_n and (ended_ns < deadline_ns or trace.n == 0):
        switched_n = switches()
        began_ns = now_ns()
        call()
        ended_ns = now_ns()
        wall_ns[trace.n] = ended_ns - began_ns
        preempted[trace.n] = switches() != switched_n
        trace.n += 1
    return ended_ns


def _floor_ns(clocks: Clocks) -> int:
    """Return the median cost of the timing loop around a call that does nothing, in nanoseconds."""
    trace = _Trace.for_at_most(FLOOR_N)
    _take(lambda: None, trace, FLOOR_N, clocks.now_ns() + _NS_PER_S, clocks)
    return int(np.median(trace.taken_ns))


def _warm_up(call: Callable[[], object], budget: LatencyBudget, clocks: Clocks) -> int:
    """Infer until the last blocks are equivalent, or the time is over; return the number of inferences."""
    deadline_ns = clocks.now_ns() + int(budget.warmup_max_s * _NS_PER_S)
    medians: list[float] = []
    warmup_n = 0
    while clocks.now_ns() < deadline_ns and not is_steady(medians):
        block = _Trace.for_at_most(BLOCK_N)
        _take(call, block, BLOCK_N, deadline_ns, clocks)
        warmup_n += block.n
        medians.extend(block_medians(block.taken_ns, BLOCK_N))
    return warmup_n


def is_steady(medians: list[float]) -> bool:
    """Tell whether the last blocks' medians are within 2 % of each other on the log scale."""
    last = medians[-STEADY_BLOCKS:]
    if len(last) < STEADY_BLOCKS or min(last) <= 0:
        return False
    return math.log(max(last) / min(last)) <= math.log1p(STEADY_SHARE)


def _measure(call: Callable[[], object], budget: LatencyBudget, clocks: Clocks) -> _Trace:
    trace = _Trace.for_at_most(max(budget.min_n, budget.max_n))
    began_ns = clocks.now_ns()
    least_ns = began_ns + int(budget.min_duration_s * _NS_PER_S)
    most_ns = began_ns + int(budget.max_duration_s * _NS_PER_S)
    look_n = min(budget.min_n, len(trace.wall_ns))
    # The smallest n may take overtime; what comes after it may not.
    ended_ns = _take(call, trace, look_n, began_ns + OVERTIME * (most_ns - began_ns), clocks)
    while trace.n < budget.max_n and ended_ns < most_ns and not (ended_ns >= least_ns and _seen_enough(trace)):
        look_n = min(budget.max_n, int(trace.n * CHECK_GROWTH) + BLOCK_N)
        ended_ns = _take(call, trace, look_n, most_ns, clocks)
    return trace


def _seen_enough(trace: _Trace) -> bool:
    """Tell whether p95 is known well enough and the level has not shifted.

    On a contended machine more samples do not narrow the disturbed tail, so there the undisturbed p95 decides.
    """
    undisturbed_ns = trace.undisturbed_ns
    if drift(undisturbed_ns) > MAX_DRIFT:
        return False
    contended = trace.preempted_share > MAX_PREEMPTED
    return _is_narrow(trace.taken_ns) or (contended and _is_narrow(undisturbed_ns))


def _is_narrow(samples: Nanoseconds) -> bool:
    if len(samples) == 0:
        return False
    _, interval_ns = quantile_interval(samples, 0.95)
    return interval_ns is not None and interval_ns[1] - interval_ns[0] <= NARROW_SHARE * interval_ns[1]


def _disturbance(trace: _Trace, before: CpuAccounts, after: CpuAccounts, duration_ns: int) -> Disturbance:
    machine_ns = duration_ns * (os.cpu_count() or 1)
    others_ns = (after.busy_ns - before.busy_ns) - (after.own_ns - before.own_ns)
    return Disturbance(
        preempted=trace.preempted_share,
        steal=(after.steal_ns - before.steal_ns) / machine_ns,
        delayed=(after.run_delay_ns - before.run_delay_ns) / duration_ns,
        others=max(0, others_ns) / machine_ns,
    )


def _result(
    trace: _Trace, budget: LatencyBudget, start: Start, seen: Disturbance, *, spinning: bool, warmup_n: int,
    duration_ns: int, floor_ns: int,
) -> LatencyResult:  # fmt: skip
    samples, undisturbed_ns = trace.taken_ns, trace.undisturbed_ns
    raw = percentiles(samples)
    undisturbed = percentiles(undisturbed_ns) if len(undisturbed_ns) else None
    verdict, reason = judge_latency_run(
        enough=trace.n >= budget.min_n,
        seen=seen,
        raw=raw,
        undisturbed=undisturbed,
        drift=drift(samples),
        undisturbed_drift=drift(undisturbed_ns),
    )
    return LatencyResult(
        **raw.model_dump(),
        verdict=verdict,
        reason=None if reason is None else clip_reason(reason),
        scenario=budget.scenario,
        min_ms=int(samples.min()) / _NS_PER_MS,
        max_ms=int(samples.max()) / _NS_PER_MS,
        mean_ms=float(samples.mean()) / _NS_PER_MS,
        load_ms=start.load_ns / _NS_PER_MS,
        first_ms=start.first_ns / _NS_PER_MS,
        warmup_n=warmup_n,
        duration_s=duration_ns / _NS_PER_S,
        threads=budget.threads,
        spinning=spinning,
        preempted_n=int(trace.preempted[: trace.n].sum()),
        undisturbed=undisturbed,
        harness_floor_ms=floor_ns / _NS_PER_MS,
    )
