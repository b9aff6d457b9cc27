"""Each gate's ruling, figure by figure."""

from __future__ import annotations

from typing import Any

import pytest

from edgefleet_agent.qualify.verdict import (
    PASSED,
    judge_energy,
    judge_latency,
    judge_memory,
    judge_parity,
    judge_placement,
)
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
    ParityCheck,
    ParityResult,
    ParityVerdict,
    Percentiles,
    PlacementResult,
)

FIGURES: dict[str, Any] = {
    "n": 1000,
    "n_eff": 1000.0,
    "p50_ms": 10.0,
    "p95_ms": 20.0,
    "p99_ms": 30.0,
    "ci95_p50_ms": (9.0, 11.0),
    "ci95_p95_ms": (18.0, 22.0),
    "ci95_p99_ms": (27.0, 33.0),
}


def latency(**changed: Any) -> LatencyResult:
    said: dict[str, Any] = {
        **FIGURES,
        "verdict": LatencyVerdict.VALID,
        "min_ms": 8.0,
        "max_ms": 40.0,
        "mean_ms": 11.0,
        "load_ms": 5.0,
        "first_ms": 12.0,
        "warmup_n": 60,
        "duration_s": 10.0,
        "threads": 1,
        "spinning": False,
        "preempted_n": 0,
        "harness_floor_ms": 0.0,
    }
    return LatencyResult(**{**said, **changed})


def placement(accelerated: float) -> PlacementResult:
    return PlacementResult(accelerated=accelerated, nodes={"GPU": 9, "CPU": 1}, source="test")


@pytest.mark.parametrize("name", ["p50", "p95", "p99"])
def test_a_percentile_above_its_limit_misses_the_gate(name: str) -> None:
    ruling = judge_latency(latency(), LatencyAccept(**{f"{name}_ms": FIGURES[f"{name}_ms"] - 0.1}))
    assert ruling.missed is not None
    assert ruling.missed.startswith(f"{name} ")
    assert "limit" in ruling.missed


def test_a_percentile_at_its_limit_passes_with_a_warning_as_its_interval_reaches_above() -> None:
    ruling = judge_latency(latency(), LatencyAccept(p95_ms=20.0))
    assert ruling.missed is None
    assert ruling.warnings == ("p95 20 ms, limit 20 ms: its 95 % interval reaches 22 ms",)


def test_an_interval_wholly_below_the_limit_needs_no_word() -> None:
    assert judge_latency(latency(), LatencyAccept(p50_ms=11.0, p95_ms=22.0, p99_ms=33.0)) == PASSED


def test_an_interval_that_does_not_exist_is_warned_of() -> None:
    ruling = judge_latency(latency(ci95_p99_ms=None), LatencyAccept(p99_ms=100.0))
    assert ruling.missed is None
    assert "too few" in ruling.warnings[0]


def test_a_miss_on_a_contended_run_tells_what_undisturbed_samples_say() -> None:
    calm = Percentiles(**{**FIGURES, "p95_ms": 12.0})
    run = latency(verdict=LatencyVerdict.CONTENDED, reason="noisy", undisturbed=calm)
    missed = judge_latency(run, LatencyAccept(p95_ms=15.0)).missed
    assert missed == "p95 20 ms, limit 15 ms (run was contended: noisy); without preempted samples 12 ms"


def test_memory_is_judged_by_its_peak() -> None:
    used = MemoryResult(peak_bytes=2048, baseline_bytes=1024)
    assert judge_memory(used, MemoryAccept(peak_bytes=2048)) == PASSED
    assert judge_memory(used, MemoryAccept(peak_bytes=1024)).missed == "peak 2.0 KiB, limit 1.0 KiB"


def test_memory_that_is_not_told_misses_a_limit_and_else_warns() -> None:
    assert judge_memory(None, MemoryAccept(peak_bytes=1)).missed
    assert judge_memory(None, MemoryAccept()).warnings


UNMEASURED = EnergyResult(status=EnergyStatus.UNMEASURED, reason="no sensor")


@pytest.mark.parametrize(
    ("policy", "missed", "warns"),
    [(IfUnmeasured.FAIL, True, False), (IfUnmeasured.WARN, False, True), (IfUnmeasured.IGNORE, False, False)],
)
def test_a_limit_on_unmeasured_energy_follows_the_manifest(policy: IfUnmeasured, missed: bool, warns: bool) -> None:
    ruling = judge_energy(UNMEASURED, EnergyAccept(per_inference_mj=50.0, if_unmeasured=policy))
    assert (ruling.missed is not None, bool(ruling.warnings)) == (missed, warns)


def test_unmeasured_energy_without_a_limit_is_nobodys_concern() -> None:
    assert judge_energy(UNMEASURED, EnergyAccept(if_unmeasured=IfUnmeasured.FAIL)) == PASSED


def test_measured_energy_whose_interval_reaches_above_the_limit_passes_with_a_warning() -> None:
    measured = EnergyResult(status=EnergyStatus.MEASURED, per_inference_mj=49.0, ci95_per_inference_mj=(47.0, 51.0))
    ruling = judge_energy(measured, EnergyAccept(per_inference_mj=50.0))
    assert ruling.missed is None
    assert "reaches 51 mJ" in ruling.warnings[0]


def test_modelled_energy_meets_no_limit() -> None:
    modelled = EnergyResult(status=EnergyStatus.MODELLED, per_inference_mj=1.0, reason="a part of the board")
    ruling = judge_energy(modelled, EnergyAccept(per_inference_mj=50.0, if_unmeasured=IfUnmeasured.FAIL))
    assert ruling.missed == "energy is limited to 50 mJ and was only modelled, as 1 mJ: a part of the board"


@pytest.mark.parametrize(("energy_mj", "missed"), [(49.0, False), (51.0, True)])
def test_measured_energy_is_judged_by_its_limit(energy_mj: float, missed: bool) -> None:
    measured = EnergyResult(status=EnergyStatus.MEASURED, per_inference_mj=energy_mj)
    assert (judge_energy(measured, EnergyAccept(per_inference_mj=50.0)).missed is not None) is missed


def test_operators_that_fell_back_are_warned_of_limited_or_forbidden() -> None:
    assert judge_placement(placement(0.9), PlacementAccept(fallback=FallbackPolicy.ALLOW), engine="gpu").warnings
    assert judge_placement(placement(0.9), PlacementAccept(min_accelerated=0.9), engine="gpu").missed is None
    assert judge_placement(placement(0.8), PlacementAccept(min_accelerated=0.9), engine="gpu").missed
    for engine in ("gpu", "xnnpack"):
        forbidden = judge_placement(placement(0.9), PlacementAccept(fallback=FallbackPolicy.FORBID), engine=engine)
        assert forbidden.missed is not None
        assert "CPU: 1, GPU: 9" in forbidden.missed
    assert judge_placement(placement(1.0), PlacementAccept(fallback=FallbackPolicy.FORBID), engine="gpu") == PASSED


def test_fallback_nobody_asked_for_misses_the_gate_unless_both_are_the_same_cpu() -> None:
    missed = judge_placement(placement(0.9), PlacementAccept(), engine="gpu").missed
    assert missed is not None
    assert "fallback: allow" in missed
    assert judge_placement(placement(0.0), PlacementAccept(), engine="edgetpu").missed
    on_cpu = judge_placement(placement(0.9), PlacementAccept(), engine="xnnpack")
    assert (on_cpu.missed, len(on_cpu.warnings)) == (None, 1)
    assert judge_placement(placement(1.0), PlacementAccept(), engine="gpu") == PASSED


def test_a_fallback_names_the_most_frequent_operators_that_fell_back() -> None:
    ops = {"SOFTMAX": 1, "ADD": 9, "MUL": 3, "PAD": 2, "CAST": 1, "TANH": 1}
    told = placement(0.5).model_copy(update={"elsewhere": ops})
    warning = judge_placement(told, PlacementAccept(), engine="xnnpack").warnings[0]
    assert "not: ADD, MUL, PAD, CAST, SOFTMAX …" in warning


def test_placement_that_is_not_told_misses_a_limit_and_else_warns() -> None:
    assert judge_placement(None, PlacementAccept(), engine="gpu").missed is None
    assert judge_placement(None, PlacementAccept(min_accelerated=0.1), engine="gpu").missed
    assert judge_placement(None, PlacementAccept(fallback=FallbackPolicy.FORBID), engine="gpu").missed


def test_parity_names_the_check_that_failed_and_lets_weak_pass_with_a_warning() -> None:
    failed = ParityResult(verdict=ParityVerdict.FAIL, failed_check=ParityCheck.SQNR, reason="12 dB", n_samples=5)
    assert judge_parity(failed).missed == "sqnr: 12 dB"
    weak = judge_parity(ParityResult(verdict=ParityVerdict.WEAK, reason="few samples", n_samples=5))
    assert (weak.missed, weak.warnings) == (None, ("parity is weak: few samples",))
    assert judge_parity(ParityResult(verdict=ParityVerdict.PASS, n_samples=5)) == PASSED
