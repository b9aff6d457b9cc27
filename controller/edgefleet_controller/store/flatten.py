"""Evidence as columns: what people filter and compare by. Pure."""

from __future__ import annotations

from typing import Any

from edgefleet_contract.evidence import (
    EnergyResult,
    Evidence,
    LatencyResult,
    MemoryResult,
    MetricResult,
    ParityResult,
)

Columns = dict[str, Any]


def evidence_columns(evidence: Evidence) -> Columns:
    """Return the columns of one evidence, `body` included; a part that was not measured leaves its columns None."""
    return {
        **_identity(evidence),
        **_parity(evidence.parity),
        **_device_parity(evidence.device_parity),
        **_metric(evidence.parity.metric if evidence.parity else None),
        **_latency(evidence.latency),
        **_memory(evidence.memory),
        **_energy(evidence.energy),
        "accelerated_share": evidence.placement.accelerated if evidence.placement else None,
        "conditions": evidence.conditions.model_dump(mode="json") if evidence.conditions else None,
        "body": evidence.model_dump(mode="json"),
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


def _parity(parity: ParityResult | None) -> Columns:
    return {
        "parity_verdict": parity.verdict.value if parity else None,
        "parity_failed_check": parity.failed_check.value if parity and parity.failed_check else None,
        "parity_reason": parity.reason if parity else None,
        "parity_agreement": parity.agreement if parity else None,
        "parity_worst_sqnr_db": parity.worst_sqnr_db if parity else None,
        "parity_samples_n": parity.n_samples if parity else None,
    }


def _device_parity(parity: ParityResult | None) -> Columns:
    return {
        "device_parity_verdict": parity.verdict.value if parity else None,
        "device_parity_failed_check": parity.failed_check.value if parity and parity.failed_check else None,
        "device_parity_worst_sqnr_db": parity.worst_sqnr_db if parity else None,
    }


def _metric(metric: MetricResult | None) -> Columns:
    return {
        "metric_kind": metric.kind.value if metric else None,
        "metric_reference": metric.reference if metric else None,
        "metric_measured": metric.measured if metric else None,
        "metric_n": metric.n if metric else None,
    }


def _latency(latency: LatencyResult | None) -> Columns:
    return {
        "latency_verdict": latency.verdict.value if latency else None,
        "latency_scenario": latency.scenario.value if latency else None,
        "latency_n": latency.n if latency else None,
        "latency_n_eff": latency.n_eff if latency else None,
        "load_ms": latency.load_ms if latency else None,
        "first_ms": latency.first_ms if latency else None,
        **_percentile("p50", latency.p50_ms if latency else None, latency.ci95_p50_ms if latency else None),
        **_percentile("p95", latency.p95_ms if latency else None, latency.ci95_p95_ms if latency else None),
        **_percentile("p99", latency.p99_ms if latency else None, latency.ci95_p99_ms if latency else None),
    }


def _percentile(name: str, value_ms: float | None, ci95_ms: tuple[float, float] | None) -> Columns:
    low_ms, high_ms = ci95_ms or (None, None)
    return {f"{name}_ms": value_ms, f"{name}_ci95_low_ms": low_ms, f"{name}_ci95_high_ms": high_ms}


def _memory(memory: MemoryResult | None) -> Columns:
    return {
        "peak_bytes": memory.peak_bytes if memory else None,
        "baseline_bytes": memory.baseline_bytes if memory else None,
        "pss_bytes": memory.pss_bytes if memory else None,
    }


def _energy(energy: EnergyResult | None) -> Columns:
    return {
        "energy_status": energy.status.value if energy else None,
        "energy_reason": energy.reason if energy else None,
        "per_inference_mj": energy.per_inference_mj if energy else None,
    }
