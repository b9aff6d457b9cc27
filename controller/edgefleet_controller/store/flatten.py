"""Evidence and artifacts as columns: what people filter and compare by. Pure."""

from __future__ import annotations

from typing import Any

from edgefleet_contract.artifact import ArtifactDocument
from edgefleet_contract.evidence import (
    EnergyResult,
    Evidence,
    LatencyResult,
    MemoryResult,
    MetricResult,
    ParityResult,
    PlacementResult,
    ThermalResult,
)
from edgefleet_controller.store import tables

Columns = dict[str, Any]
Interval = tuple[float, float] | None

# Rows of one INSERT name the same columns, so what was not measured is named too.
_UNMEASURED: Columns = {column.name: None for column in tables.evidence.c if column.nullable}


def evidence_columns(evidence: Evidence) -> Columns:
    """Return the columns of one evidence, `body` included; a part that was not measured leaves its columns None."""
    return {
        **_UNMEASURED,
        **_identity(evidence),
        **(_parity(evidence.parity) if evidence.parity else {}),
        **(_device_parity(evidence.device_parity) if evidence.device_parity else {}),
        **(_metric(evidence.parity.metric) if evidence.parity and evidence.parity.metric else {}),
        **(_latency(evidence.latency) if evidence.latency else {}),
        **(_memory(evidence.memory) if evidence.memory else {}),
        **(_energy(evidence.energy) if evidence.energy else {}),
        **(_thermal(evidence.thermal) if evidence.thermal else {}),
        **(_placement(evidence.placement) if evidence.placement else {}),
        "conditions": evidence.conditions.model_dump(mode="json") if evidence.conditions else None,
        "body": evidence.model_dump(mode="json"),
    }


def artifact_columns(document: ArtifactDocument) -> Columns:
    """Return what an artifact's document says of proofs on the builder; None where it says nothing."""
    check, coverage = document.host_check, document.coverage
    return {
        "samples_level": document.samples_level,
        "host_check_level": check.level.value if check else None,
        "host_check_ran_as": check.ran_as if check else None,
        "host_check_verdict": check.verdict if check else None,
        "host_check_samples_n": check.n_samples if check else None,
        "host_check_agreement": check.agreement if check else None,
        "host_check_worst_sqnr_db": check.worst_sqnr_db if check else None,
        "host_check_reason": check.reason if check else None,
        "coverage_source": coverage.source.value if coverage else None,
        "coverage_accelerator_n": coverage.accelerator_n if coverage else None,
        "coverage_cpu_n": coverage.cpu_n if coverage else None,
        "coverage_unsupported_n": coverage.unsupported_n if coverage else None,
        "coverage_first_blocking": coverage.first_blocking if coverage else None,
    }


def _identity(evidence: Evidence) -> Columns:
    return {
        "model": evidence.model,
        "variant": evidence.variant,
        "artifact": evidence.artifact,
        "release": evidence.release,
        "generation": evidence.generation,
        "verdict": evidence.verdict.value,
        "gate": evidence.gate.value if evidence.gate else None,
        "reason": evidence.reason,
        "level": evidence.level.value,
        "started_at_ns": evidence.started_at_ns,
        "duration_s": evidence.duration_s,
    }


def _parity(parity: ParityResult) -> Columns:
    return {
        "parity_verdict": parity.verdict.value,
        "parity_failed_check": parity.failed_check.value if parity.failed_check else None,
        "parity_reason": parity.reason,
        "parity_agreement": parity.agreement,
        "parity_worst_sqnr_db": parity.worst_sqnr_db,
        "parity_samples_n": parity.n_samples,
    }


def _device_parity(parity: ParityResult) -> Columns:
    return {
        "device_parity_verdict": parity.verdict.value,
        "device_parity_failed_check": parity.failed_check.value if parity.failed_check else None,
        "device_parity_worst_sqnr_db": parity.worst_sqnr_db,
    }


def _metric(metric: MetricResult) -> Columns:
    return {
        "metric_kind": metric.kind.value,
        "metric_reference": metric.reference,
        "metric_measured": metric.measured,
        "metric_n": metric.n,
    }


def _latency(latency: LatencyResult) -> Columns:
    return {
        "latency_verdict": latency.verdict.value,
        "latency_reason": latency.reason,
        "latency_scenario": latency.scenario.value,
        "latency_n": latency.n,
        "latency_n_eff": latency.n_eff,
        "load_ms": latency.load_ms,
        "first_ms": latency.first_ms,
        "max_ms": latency.max_ms,
        "preempted_n": latency.preempted_n,
        "samples_per_query": latency.samples_per_query,
        "offered_hz": latency.rate_hz,
        **_with_interval("p50", "ms", latency.p50_ms, latency.ci95_p50_ms),
        **_with_interval("p95", "ms", latency.p95_ms, latency.ci95_p95_ms),
        **_with_interval("p99", "ms", latency.p99_ms, latency.ci95_p99_ms),
        **_with_interval("throughput", "hz", latency.throughput_hz, latency.ci95_throughput_hz),
        **_parts_of_latency(latency),
    }


def _with_interval(name: str, unit: str, value: float | None, ci95: Interval) -> Columns:
    low, high = ci95 or (None, None)
    return {f"{name}_{unit}": value, f"{name}_ci95_low_{unit}": low, f"{name}_ci95_high_{unit}": high}


def _parts_of_latency(latency: LatencyResult) -> Columns:
    columns: Columns = {}
    if (undisturbed := latency.undisturbed) is not None:
        columns |= {
            "undisturbed_n": undisturbed.n,
            "undisturbed_p50_ms": undisturbed.p50_ms,
            "undisturbed_p95_ms": undisturbed.p95_ms,
            "undisturbed_p99_ms": undisturbed.p99_ms,
        }
    if latency.service is not None:
        columns |= {"service_p50_ms": latency.service.p50_ms, "service_p99_ms": latency.service.p99_ms}
    if latency.profile is not None and latency.profile.operators:
        top = latency.profile.operators[0]
        columns |= {"top_operator": top.operator, "top_operator_share": top.share}
    return columns


def _memory(memory: MemoryResult) -> Columns:
    return {
        "peak_bytes": memory.peak_bytes,
        "baseline_bytes": memory.baseline_bytes,
        "pss_bytes": memory.pss_bytes,
    }


def _energy(energy: EnergyResult) -> Columns:
    gross_mj, gross_ci95_mj = energy.gross_per_inference_mj, energy.ci95_gross_per_inference_mj
    return {
        "energy_status": energy.status.value,
        "energy_reason": energy.reason,
        **_with_interval("per_inference", "mj", energy.per_inference_mj, energy.ci95_per_inference_mj),
        **_with_interval("gross_per_inference", "mj", gross_mj, gross_ci95_mj),
        "gross_j": energy.gross_j,
        "net_j": energy.net_j,
        "load_w": energy.load_w,
        "idle_before_w": energy.idle_before_w,
        "idle_after_w": energy.idle_after_w,
        "energy_n": energy.n,
        "energy_sensor": energy.sensor,
        "energy_scope": energy.scope,
        "energy_kind": energy.kind,
        "energy_proven_on": energy.proven_on,
    }


def _thermal(thermal: ThermalResult) -> Columns:
    return {
        "throttled": thermal.throttled,
        "thermal_reason": thermal.reason,
        "hottest_start_c": thermal.start_c,
        "hottest_end_c": thermal.end_c,
        "clock_start_mhz": thermal.clock_start_mhz,
        "clock_end_mhz": thermal.clock_end_mhz,
    }


def _placement(placement: PlacementResult) -> Columns:
    return {
        "accelerated_share": placement.accelerated,
        "accelerated_time_share": placement.time_accelerated,
        "accelerated_time_reason": placement.time_unmeasured_reason,
        "placement_source": placement.source,
    }
