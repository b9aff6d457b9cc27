"""Makes the record of a latency run out of its samples. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefleet_agent.qualify.latency.contention import Disturbance, judge_latency_run
from edgefleet_agent.qualify.latency.early_stopping import early_stopping
from edgefleet_agent.qualify.latency.histogram import encode_histogram
from edgefleet_agent.qualify.latency.loop import Samples
from edgefleet_agent.qualify.latency.scenario import Schedule
from edgefleet_agent.qualify.latency.stats import mean_interval, percentiles, quantile_interval
from edgefleet_agent.qualify.latency.wander import Level, level_of
from edgefleet_contract.base import clip_reason
from edgefleet_contract.evidence import LatencyResult, LatencyVerdict, Percentiles, StopReason
from edgefleet_contract.job import LatencyBudget
from edgefleet_contract.units import format_share

EARLY_STOPPING = (0.90, 0.95, 0.99)
"""The percentiles MLPerf's scenarios ask for."""
MAX_BUSY = 0.98
"""Share of time spent inferring from which on queries pile up: what waits does not get less."""
_NS_PER_MS = 1e6
_NS_PER_S = 1e9


@dataclass(frozen=True)
class Start:
    """How long the model took to become ready, in nanoseconds."""

    load_ns: int
    first_ns: int


@dataclass(frozen=True)
class Run:
    """Everything one run left behind; `active_ns` is its duration without the harness's own pauses."""

    samples: Samples
    budget: LatencyBudget
    schedule: Schedule | None
    samples_per_query: int
    disturbance: Disturbance
    duration_ns: int
    active_ns: int
    warmup_n: int
    warmed_up: bool
    floor_ns: int
    stopped_by: StopReason


def latency_result(run: Run, start: Start, *, spinning: bool) -> LatencyResult:
    """Return the record of a run, judged."""
    samples, budget = run.samples, run.budget
    wall_ns = samples.wall_ns
    kept_ns = wall_ns[~samples.disturbed]
    raw = percentiles(wall_ns)
    undisturbed = percentiles(kept_ns) if len(kept_ns) else None
    level = level_of(samples.service_ns[~samples.disturbed])
    verdict, reason = _verdict(run, raw, undisturbed, level)
    throughput_hz, ci95_throughput_hz = _throughput(run)
    ordered = np.sort(wall_ns)
    return LatencyResult(
        **raw.model_dump(),
        verdict=verdict,
        reason=None if reason is None else clip_reason(reason),
        scenario=budget.scenario,
        min_ms=int(ordered[0]) / _NS_PER_MS,
        max_ms=int(ordered[-1]) / _NS_PER_MS,
        mean_ms=float(wall_ns.mean()) / _NS_PER_MS,
        load_ms=start.load_ns / _NS_PER_MS,
        first_ms=start.first_ns / _NS_PER_MS,
        warmup_n=run.warmup_n,
        warmed_up=run.warmed_up,
        duration_s=run.duration_ns / _NS_PER_S,
        threads=budget.threads,
        spinning=spinning,
        preempted_n=int(samples.preempted.sum()),
        undisturbed=undisturbed,
        harness_floor_ms=run.floor_ns / _NS_PER_MS,
        samples_per_query=run.samples_per_query,
        rate_hz=run.schedule.rate_hz if run.schedule else None,
        seed=run.schedule.seed if run.schedule else None,
        throughput_hz=throughput_hz,
        ci95_throughput_hz=ci95_throughput_hz,
        service=percentiles(samples.service_ns) if run.schedule else None,
        asked=budget.percentile,
        stopped_by=run.stopped_by,
        wander=level.wander,
        early_stopping=tuple(early_stopping(ordered, share) for share in EARLY_STOPPING),
        histogram=encode_histogram(wall_ns),
    )


def _verdict(
    run: Run, raw: Percentiles, undisturbed: Percentiles | None, undisturbed_level: Level
) -> tuple[LatencyVerdict, str | None]:
    return judge_latency_run(
        too_few=_too_few(run),
        seen=run.disturbance,
        raw=raw,
        undisturbed=undisturbed,
        level=level_of(run.samples.service_ns),
        undisturbed_level=undisturbed_level,
        overload=_overload(run),
        unsure=_unsure(run),
    )


def _too_few(run: Run) -> str | None:
    """Return why the run shows nothing at all; None when it shows something."""
    if run.samples.n >= run.budget.min_n or run.stopped_by is not StopReason.TIME:
        return None
    return f"only {run.samples.n} inferences within the time allowed"


def _unsure(run: Run) -> str | None:
    """Return why nothing can be said about the percentile asked for; None when something can."""
    if quantile_interval(run.samples.wall_ns, run.budget.percentile)[1] is not None:
        return None
    name = f"p{100 * run.budget.percentile:g}"
    return f"{run.samples.n} samples are too few, or too alike their neighbours, for an interval of {name}"


def _overload(run: Run) -> str | None:
    if run.schedule is None:
        return None
    busy = float(run.samples.service_ns.sum()) / run.active_ns
    if busy <= MAX_BUSY:
        return None
    return f"busy {format_share(busy)} of the time: it cannot keep up with {run.schedule.rate_hz:.4g} queries a second"


def _throughput(run: Run) -> tuple[float, tuple[float, float] | None]:
    """Return samples per second with a 95 % interval.

    Where each query follows the last it is that of the time spent inferring: the harness's own work is left out.
    """
    samples = run.samples
    if run.schedule is not None:
        return samples.n * run.samples_per_query * _NS_PER_S / run.active_ns, None
    mean_ns, interval_ns = mean_interval(samples.wall_ns)
    if mean_ns <= 0.0:
        return 0.0, None
    per_s = run.samples_per_query * _NS_PER_S
    low_high = None if interval_ns is None or interval_ns[0] <= 0 else (per_s / interval_ns[1], per_s / interval_ns[0])
    return per_s / mean_ns, low_high
