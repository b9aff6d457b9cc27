"""Judges whether a latency run was disturbed, and by whom. Pure."""

from __future__ import annotations

from dataclasses import dataclass

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
    enough: bool,
    seen: Disturbance,
    raw: Percentiles,
    undisturbed: Percentiles | None,
    drift: float,
    undisturbed_drift: float,
) -> tuple[LatencyVerdict, str | None]:
    """Return whether a run's figures may be believed, and why not.

    A cause seen outside the process explains everything, drift included. Preemption explains drift only when the
    samples without it are steady.

    Args:
        enough: whether the wanted number of samples was reached.
        seen: what disturbed the run.
        raw: figures of all samples.
        undisturbed: figures of samples without preemption; None when there are none.
        drift: lasting change of the median over the run, of all samples.
        undisturbed_drift: the same of samples without preemption.
    """
    if not enough:
        return LatencyVerdict.INCONCLUSIVE, f"only {raw.n} inferences within the time allowed"
    if cause := outside_cause(seen):
        return LatencyVerdict.CONTENDED, cause
    if undisturbed_drift > MAX_DRIFT:
        return LatencyVerdict.UNSTEADY, f"the median changed by {format_share(undisturbed_drift)} during the run"
    if cause := _preemption(seen, raw, undisturbed, drift):
        return LatencyVerdict.CONTENDED, cause
    return LatencyVerdict.VALID, None


def _preemption(seen: Disturbance, raw: Percentiles, undisturbed: Percentiles | None, drift: float) -> str | None:
    if seen.preempted > MAX_PREEMPTED:
        return f"{format_share(seen.preempted)} of samples were preempted"
    if drift > MAX_DRIFT:
        return f"the median changed by {format_share(drift)}, only in preempted samples"
    if undisturbed is not None and undisturbed.p99_ms < MATERIAL_TAIL * raw.p99_ms:
        return "the slowest percent of samples were preempted ones"
    return None
