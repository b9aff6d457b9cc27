"""Judges whether a latency run was disturbed, and by whom. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from edgefleet_agent.qualify.steady import Trace, TraceKind
from edgefleet_contract.evidence import LatencyVerdict, Percentiles
from edgefleet_contract.units import format_share

MAX_PREEMPTED = 0.01
"""Above 1 % preempted samples, p99 measures the scheduler, not the model."""
MAX_LOST = 0.01
"""Share of wall time lost to steal or to waiting for a CPU, by the same reasoning."""
MAX_OTHERS = 0.25
"""Share of the machine other processes may use: beyond it, caches and memory are contended even without preemption."""
MATERIAL_TAIL = 0.8
"""Undisturbed p99 below this share of the raw p99: the tail belongs to the disturbance."""
MAX_DRIFT = 0.05
"""A lasting change of the median beyond this is no steady state; twice the noise of steady machines (2 %) and more."""


@dataclass(frozen=True)
class Disturbance:
    """What was seen during a run.

    Attributes:
        preempted: share of samples with an involuntary context switch.
        steal: share of all CPUs' time the hypervisor gave away.
        delayed: share of wall time this thread waited for a CPU.
        others: share of the machine other processes used.
    """

    preempted: float
    steal: float
    delayed: float
    others: float


def outside_cause(seen: Disturbance) -> str | None:
    """Return what took the machine away from the run, or None."""
    if seen.steal > MAX_LOST:
        return f"the hypervisor took {format_share(seen.steal)} of CPU time"
    if seen.delayed > MAX_LOST:
        return f"waited for a CPU {format_share(seen.delayed)} of the time"
    if seen.others > MAX_OTHERS:
        return f"other processes used {format_share(seen.others)} of the machine"
    return None


def judge_latency_run(
    *,
    too_few: str | None,
    seen: Disturbance,
    raw: Percentiles,
    undisturbed: Percentiles | None,
    level: Trace,
    undisturbed_level: Trace,
    overload: str | None = None,
    unsure: str | None = None,
) -> tuple[LatencyVerdict, str | None]:
    """Return whether a run's figures may be believed, and why not.

    A cause seen outside the process explains everything, drift included. Preemption explains drift only when the
    samples without it are steady.

    Args:
        too_few: why there are too few samples to say anything; None when there are enough.
        seen: what disturbed the run.
        raw: figures of all samples.
        undisturbed: figures of samples without preemption; None when there are none.
        level: what the level of all samples did over the run.
        undisturbed_level: the same of samples without preemption.
        overload: why queries could not be answered as fast as they came; None when they could.
        unsure: why the percentile asked for has no interval, where nothing else explains it; None when it has one.
    """
    if too_few:
        return LatencyVerdict.INCONCLUSIVE, too_few
    if cause := outside_cause(seen):
        return LatencyVerdict.CONTENDED, cause
    if overload:
        return LatencyVerdict.UNSTEADY, overload
    if change := _change(undisturbed_level):
        return LatencyVerdict.UNSTEADY, change
    if cause := _preemption(seen, raw, undisturbed, level):
        return LatencyVerdict.CONTENDED, cause
    return (LatencyVerdict.INCONCLUSIVE, unsure) if unsure else (LatencyVerdict.VALID, None)


def _change(level: Trace) -> str | None:
    """Return what a level did, in words; None where it stayed, and where there are too few samples to tell."""
    if level.kind in {TraceKind.FLAT, TraceKind.SHORT}:
        return None
    if level.kind is TraceKind.UNSTEADY:
        return "no level lasted: the median drifted, or went to and fro"
    rose = level.kind is TraceKind.SLOW_DOWN
    share = format_share(abs(1.0 / (1.0 + level.change_share) - 1.0))
    return f"the median {'rose' if rose else 'fell'} by {share} after {level.steady_from_n} samples"


def _preemption(seen: Disturbance, raw: Percentiles, undisturbed: Percentiles | None, level: Trace) -> str | None:
    if seen.preempted > MAX_PREEMPTED:
        return f"{format_share(seen.preempted)} of samples were preempted"
    if change := _change(level):
        return f"{change}, only in preempted samples"
    if undisturbed is not None and undisturbed.p99_ms < MATERIAL_TAIL * raw.p99_ms:
        return "the slowest percent of samples were preempted ones"
    return None
