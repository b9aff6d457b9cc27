"""Judges whether a latency run was disturbed, and by whom. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from edgefleet_agent.qualify.latency.wander import Level, to_and_fro
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
    level: Level,
    undisturbed_level: Level,
    overload: str | None = None,
    unsure: str | None = None,
) -> tuple[LatencyVerdict, str | None]:
    """Return whether a run's figures may be believed, and why not.

    A cause seen outside the process explains everything, drift included. Preemption explains drift only when the
    samples without it are steady. A level that goes to and fro and averages is noise, and told with the verdict.

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
    if change := overload or undisturbed_level.change():
        return LatencyVerdict.UNSTEADY, change
    # Where the undisturbed samples wander, too, preemption does not explain that all do.
    moved = level.change() if undisturbed_level.wander is None else None
    if cause := _preemption(seen, raw, undisturbed, moved):
        return LatencyVerdict.CONTENDED, cause
    went = to_and_fro(undisturbed_level.wander) if undisturbed_level.wander else None
    if unsure:
        return LatencyVerdict.INCONCLUSIVE, f"{unsure}: {went}" if went else unsure
    return LatencyVerdict.VALID, went


def _preemption(seen: Disturbance, raw: Percentiles, undisturbed: Percentiles | None, moved: str | None) -> str | None:
    if seen.preempted > MAX_PREEMPTED:
        return f"{format_share(seen.preempted)} of samples were preempted"
    if moved:
        return f"{moved}, only in preempted samples"
    if undisturbed is not None and undisturbed.p99_ms < MATERIAL_TAIL * raw.p99_ms:
        return "the slowest percent of samples were preempted ones"
    return None
