"""Judges what a trial measured against what was asked. Pure: figures and limits in, a ruling out."""

from __future__ import annotations

from dataclasses import dataclass

from edgefleet_contract.accept import (
    EnergyAccept,
    FallbackPolicy,
    IfUnmeasured,
    LatencyAccept,
    MemoryAccept,
    PlacementAccept,
)
from edgefleet_contract.evidence import (
    EnergyResult,
    EnergyStatus,
    LatencyResult,
    LatencyVerdict,
    MemoryResult,
    ParityResult,
    ParityVerdict,
    PlacementResult,
)
from edgefleet_contract.units import format_bytes, format_ms, format_share


@dataclass(frozen=True)
class Ruling:
    """Why a gate was missed, or None when it was passed; and what is worth saying either way."""

    missed: str | None = None
    warnings: tuple[str, ...] = ()


PASSED = Ruling()

_CPU_ENGINES = frozenset({"cpu", "xnnpack"})
"""Engines whose fallback runs on the same CPU: slower at worst, and latency shows that."""
_MAX_NAMED = 5


def judge_placement(placement: PlacementResult | None, accept: PlacementAccept, *, engine: str) -> Ruling:
    """Judge where operators ran. What could not be read misses a limit: it was not shown to hold.

    Fallback nobody asked for misses the gate unless the manifest allows it, be it in words or by a share below 1.

    Args:
        placement: what the runtime told; None when it does not tell.
        accept: the manifest's limits.
        engine: the engine asked for.
    """
    unsaid = accept.fallback is None and accept.min_accelerated is None
    forbidden = accept.fallback is FallbackPolicy.FORBID
    limited = forbidden or accept.min_accelerated is not None
    if placement is None:
        text = "this runtime does not tell where operators ran"
        return Ruling(missed=f"{text}, and the manifest limits it") if limited else Ruling(warnings=(text,))
    ran = f"{format_share(placement.accelerated)} of operators ran on the engine asked for ({_nodes(placement)})"
    if accept.min_accelerated is not None and placement.accelerated < accept.min_accelerated:
        return Ruling(missed=f"{ran}; at least {format_share(accept.min_accelerated)} must")
    if placement.accelerated == 1.0:
        return PASSED
    if forbidden:
        return Ruling(missed=f"{ran}; fallback is forbidden")
    if unsaid and engine not in _CPU_ENGINES:
        step = "write `placement: {fallback: allow}` under `accept` to accept it"
        return Ruling(missed=f"{ran}; nobody asked for fallback; {step}")
    return Ruling(warnings=(ran,))


def _nodes(placement: PlacementResult) -> str:
    counts = ", ".join(f"{name}: {count}" for name, count in sorted(placement.nodes.items()))
    frequent = sorted(placement.elsewhere, key=lambda op: (-placement.elsewhere[op], op))
    if not frequent:
        return counts
    more = " …" if len(frequent) > _MAX_NAMED else ""
    return f"{counts}; not: {', '.join(frequent[:_MAX_NAMED])}{more}"


def judge_parity(parity: ParityResult) -> Ruling:
    """Judge a parity result; `weak` passes with a warning."""
    if parity.verdict is ParityVerdict.FAIL:
        check = parity.failed_check.value if parity.failed_check else "parity"
        return Ruling(missed=f"{check}: {parity.reason or 'outputs differ'}")
    if parity.verdict is ParityVerdict.WEAK:
        return Ruling(warnings=(f"parity is weak: {parity.reason or 'the samples prove little'}",))
    return PASSED


def judge_latency(latency: LatencyResult, accept: LatencyAccept) -> Ruling:
    """Judge percentiles of all samples, disturbed ones included: they are what the device delivers.

    A percentile above its limit misses the gate. A percentile below it whose 95 % interval reaches above it, or has
    no upper end at this sample size, passes with a warning.
    """
    asked = (
        ("p50", accept.p50_ms, latency.p50_ms, latency.ci95_p50_ms),
        ("p95", accept.p95_ms, latency.p95_ms, latency.ci95_p95_ms),
        ("p99", accept.p99_ms, latency.p99_ms, latency.ci95_p99_ms),
    )
    warnings: list[str] = []
    for name, limit_ms, measured_ms, interval_ms in asked:
        if limit_ms is None:
            continue
        figures = f"{name} {format_ms(measured_ms)}, limit {format_ms(limit_ms)}"
        if measured_ms > limit_ms:
            return Ruling(missed=figures + _excuse(latency, name), warnings=tuple(warnings))
        if interval_ms is None:
            warnings.append(f"{figures}: {latency.n} samples are too few for its 95 % interval")
        elif interval_ms[1] > limit_ms:
            warnings.append(f"{figures}: its 95 % interval reaches {format_ms(interval_ms[1])}")
    return Ruling(warnings=tuple(warnings))


def _excuse(latency: LatencyResult, name: str) -> str:
    """Return what else the run says about a missed percentile."""
    if latency.verdict is LatencyVerdict.VALID:
        return ""
    said = f" (run was {latency.verdict.value}: {latency.reason})"
    if latency.undisturbed is None:
        return said
    undisturbed_ms = {
        "p50": latency.undisturbed.p50_ms,
        "p95": latency.undisturbed.p95_ms,
        "p99": latency.undisturbed.p99_ms,
    }
    return f"{said}; without preempted samples {format_ms(undisturbed_ms[name])}"


def judge_memory(memory: MemoryResult | None, accept: MemoryAccept) -> Ruling:
    """Judge the peak."""
    if memory is None:
        text = "this system does not tell the memory peak"
        return Ruling(warnings=(text,)) if accept.peak_bytes is None else Ruling(missed=f"{text}, which is limited")
    if accept.peak_bytes is not None and memory.peak_bytes > accept.peak_bytes:
        return Ruling(missed=f"peak {format_bytes(memory.peak_bytes)}, limit {format_bytes(accept.peak_bytes)}")
    return PASSED


def _not_measured(energy: EnergyResult) -> str:
    if energy.status is EnergyStatus.MODELLED and energy.per_inference_mj is not None:
        return f"only modelled, as {energy.per_inference_mj:.3g} mJ"
    return "not measured"


def judge_energy(energy: EnergyResult, accept: EnergyAccept) -> Ruling:
    """Judge energy; a limit on what could not be measured is treated as the manifest says."""
    limit_mj = accept.per_inference_mj
    if limit_mj is None:
        return PASSED
    if energy.status is EnergyStatus.MEASURED and energy.per_inference_mj is not None:
        figures = f"{energy.per_inference_mj:.3g} mJ per inference, limit {limit_mj:.3g} mJ"
        if energy.per_inference_mj > limit_mj:
            return Ruling(missed=figures)
        high_mj = energy.ci95_per_inference_mj[1] if energy.ci95_per_inference_mj else limit_mj
        over = f"{figures}: its 95 % interval reaches {high_mj:.3g} mJ"
        return Ruling(warnings=(over,)) if high_mj > limit_mj else PASSED
    text = f"energy is limited to {limit_mj:.3g} mJ and was {_not_measured(energy)}: {energy.reason}"
    if accept.if_unmeasured is IfUnmeasured.FAIL:
        return Ruling(missed=text)
    return Ruling(warnings=(text,)) if accept.if_unmeasured is IfUnmeasured.WARN else PASSED
