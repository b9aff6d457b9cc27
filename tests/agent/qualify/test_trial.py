"""Whole trials of the digit model, sound and spoilt in every way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_agent.qualify.latency.run import measure_latency
from edgefleet_agent.qualify.trial import release_of, run_trial
from edgefleet_agent.samples import load_arrays, save_arrays
from edgefleet_contract.accept import (
    Accept,
    EnergyAccept,
    IfUnmeasured,
    LatencyAccept,
    MemoryAccept,
    MetricAccept,
    ParityAccept,
    PlacementAccept,
    Scenario,
)
from edgefleet_contract.artifact import ArtifactDocument, EvidenceLevel
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import (
    EnergyStatus,
    Gate,
    LatencyResult,
    LatencyVerdict,
    ParityVerdict,
    Task,
    Trial,
    Verdict,
)
from edgefleet_contract.job import LatencyBudget, QualifyJob

MakeArtifact = Callable[..., Path]


def tried(folder: Path, budget: LatencyBudget, accept: Accept | None = None, **said: object) -> Trial:
    asked = accept or Accept(metric=MetricAccept())
    job = QualifyJob(artifact_dir=str(folder), accept=asked, task=Task.CLASSIFICATION, latency=budget)
    return run_trial(job.model_copy(update=said))


def test_a_sound_artifact_qualifies_with_every_figure(golden_artifact: Path, small_budget: LatencyBudget) -> None:
    trial = tried(golden_artifact, small_budget)
    assert (trial.verdict, trial.gate, trial.reason) == (Verdict.QUALIFIED, None, None)
    assert trial.level is EvidenceLevel.EXECUTED_ON_DEVICE
    assert trial.parity is not None
    assert trial.parity.verdict is ParityVerdict.PASS
    assert trial.parity.metric is not None
    assert trial.parity.metric.measured > 0.9
    assert trial.device_parity is not None
    assert trial.device_parity.outputs[0].bit_exact
    assert trial.latency is not None
    assert trial.latency.n >= small_budget.min_n
    assert trial.memory is not None
    assert trial.memory.peak_bytes >= trial.memory.baseline_bytes > 0
    assert trial.energy is not None
    assert (trial.energy.status, trial.energy.reason) == (EnergyStatus.UNMEASURED, "no power sensor on this device")
    assert trial.placement is not None
    assert trial.placement.accelerated == 1.0
    assert trial.conditions is not None
    assert trial.conditions.runtime == "ort"


@pytest.mark.parametrize(
    ("verdicts", "kept"),
    [
        ("valid", ("valid", 1)),
        ("contended", ("contended", 1)),
        ("inconclusive", ("inconclusive", 1)),
        ("unsteady valid", ("valid", 2)),
        ("unsteady unsteady unsteady valid", ("unsteady", 3)),
    ],
)
def test_latency_is_measured_again_while_no_level_lasts_and_says_how_often(
    golden_artifact: Path,
    small_budget: LatencyBudget,
    monkeypatch: pytest.MonkeyPatch,
    verdicts: str,
    kept: tuple[str, int],
) -> None:
    scripted = iter(verdicts.split())

    def measured(*arguments: Any, **named: Any) -> LatencyResult:
        result = measure_latency(*arguments, **named)
        return result.model_copy(update={"verdict": LatencyVerdict(next(scripted)), "reason": "as scripted"})

    monkeypatch.setattr("edgefleet_agent.qualify.trial.measure_latency", measured)
    latency = tried(golden_artifact, small_budget).latency
    assert latency is not None
    assert (latency.verdict.value, latency.runs_n) == kept


@pytest.mark.parametrize(
    "name", ["model.onnx", "samples.npz", "source_outputs.npz", "artifact_outputs.npz", "artifact.json"]
)
def test_a_file_with_one_bit_flipped_is_corrupt(
    make_artifact: MakeArtifact, small_budget: LatencyBudget, name: str
) -> None:
    folder = make_artifact()
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 0x80
    (folder / name).write_bytes(data)
    trial = tried(folder, small_budget)
    assert (trial.verdict, trial.gate) == (Verdict.CORRUPT, Gate.FETCH)
    assert trial.reason is not None
    assert name in trial.reason


@pytest.mark.parametrize("name", ["model.onnx", "artifact.json"])
def test_a_missing_or_shortened_file_is_corrupt(
    make_artifact: MakeArtifact, small_budget: LatencyBudget, name: str
) -> None:
    folder = make_artifact()
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    assert tried(folder, small_budget).verdict is Verdict.CORRUPT
    (folder / name).unlink()
    assert tried(folder, small_budget).verdict is Verdict.CORRUPT


def test_a_folder_that_does_not_exist_is_the_callers_error(tmp_path: Path, small_budget: LatencyBudget) -> None:
    with pytest.raises(UserInputError, match="no such folder"):
        tried(tmp_path / "nowhere", small_budget)


def test_a_file_that_is_no_model_fails_to_load(make_artifact: MakeArtifact, small_budget: LatencyBudget) -> None:
    folder = make_artifact()
    damaged = (folder / "model.onnx").read_bytes()[:4000]
    (folder / "model.onnx").write_bytes(damaged)
    document = (folder / "artifact.json").read_text()
    _redeclare(folder, document, damaged)
    trial = tried(folder, small_budget)
    assert (trial.verdict, trial.gate) == (Verdict.FAILED, Gate.LOAD)
    assert trial.reason is not None
    assert "model.onnx" in trial.reason
    assert str(folder) not in trial.reason


def _redeclare(folder: Path, document: str, model: bytes) -> None:
    from edgefleet_contract.artifact import ArtifactDocument
    from edgefleet_contract.base import digest_bytes

    record = ArtifactDocument.model_validate_json(document)
    changed = {"size_bytes": len(model), "digest": digest_bytes(model)}
    files = tuple(f.model_copy(update=changed) if f.name == "model.onnx" else f for f in record.files)
    (folder / "artifact.json").write_bytes(record.model_copy(update={"files": files}).canonical_json())


def test_an_engine_this_device_lacks_is_unsupported_and_named(
    make_artifact: MakeArtifact, small_budget: LatencyBudget
) -> None:
    trial = tried(make_artifact(variant="tflite/coreml/int8"), small_budget)
    assert (trial.verdict, trial.gate) == (Verdict.UNSUPPORTED, Gate.LOAD)
    assert trial.reason is not None
    assert trial.reason.startswith("no delegate library is customary for coreml")


def test_a_runtime_older_than_the_artifact_needs_is_unsupported(
    make_artifact: MakeArtifact, small_budget: LatencyBudget
) -> None:
    trial = tried(make_artifact(min_runtime={"ort": "99.1"}), small_budget)
    assert trial.verdict is Verdict.UNSUPPORTED
    assert trial.reason is not None
    assert "99.1 or newer" in trial.reason


def test_an_artifact_that_names_a_library_is_unsupported_and_never_loaded(
    make_artifact: MakeArtifact, small_budget: LatencyBudget
) -> None:
    trial = tried(make_artifact(provider_options={"backend_path": "libEvil.so"}), small_budget)
    assert (trial.verdict, trial.gate) == (Verdict.UNSUPPORTED, Gate.LOAD)
    assert "provider options are refused" in str(trial.reason)
    assert trial.latency is None


def test_the_options_an_engine_was_given_stand_in_the_evidence(
    golden_artifact: Path, small_budget: LatencyBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEFLEET_ORT_OPTIONS_CPU", "arena_extend_strategy=kSameAsRequested")
    trial = tried(golden_artifact, small_budget)
    assert trial.conditions is not None
    assert trial.conditions.extra["engine_options"] == "arena_extend_strategy=kSameAsRequested"


@pytest.mark.parametrize("scenario", Scenario)
def test_every_scenario_is_measured_and_judged(
    golden_artifact: Path, small_budget: LatencyBudget, scenario: Scenario
) -> None:
    trial = tried(golden_artifact, small_budget, Accept(latency=LatencyAccept(scenario=scenario, p50_ms=1e-6)))
    assert trial.gate is Gate.LATENCY
    assert trial.latency is not None
    assert (trial.latency.scenario, trial.latency.asked) == (scenario, 0.5)
    samples_n = {Scenario.MULTI_STREAM: 8, Scenario.OFFLINE: 32}.get(scenario, 1)
    assert trial.latency.samples_per_query == samples_n
    assert (trial.latency.rate_hz is not None) is (scenario in {Scenario.SERVER, Scenario.FIXED_RATE})
    assert trial.latency.throughput_hz is not None


def test_the_operator_profile_is_a_pass_of_its_own_and_can_be_left_out(
    golden_artifact: Path, small_budget: LatencyBudget
) -> None:
    profile = tried(golden_artifact, small_budget).latency.profile  # type: ignore[union-attr]
    assert profile is not None
    shares = [operator.share for operator in profile.operators]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1.0, abs=0.01)
    assert [operator.calls_n for operator in profile.operators if operator.operator == "Conv"] == [5]
    without = small_budget.model_copy(update={"profile_max_s": 0.0})
    assert tried(golden_artifact, without).latency.profile is None  # type: ignore[union-attr]


def test_the_misbehaving_runtime_is_unsupported_unless_asked_for(
    make_artifact: MakeArtifact, small_budget: LatencyBudget
) -> None:
    trial = tried(make_artifact(variant="misbehave/segv/fp32"), small_budget)
    assert trial.verdict is Verdict.UNSUPPORTED


@pytest.mark.parametrize("missing", ["samples.npz", "source_outputs.npz"])
def test_an_artifact_without_golden_data_cannot_be_proven(
    make_artifact: MakeArtifact, small_budget: LatencyBudget, missing: str
) -> None:
    trial = tried(make_artifact(leave_out=(missing,)), small_budget)
    assert (trial.verdict, trial.gate) == (Verdict.FAILED, Gate.PARITY)


def test_an_artifact_without_outputs_of_its_own_qualifies_with_a_warning(
    make_artifact: MakeArtifact, small_budget: LatencyBudget
) -> None:
    trial = tried(make_artifact(leave_out=("artifact_outputs.npz",)), small_budget)
    assert (trial.verdict, trial.device_parity) == (Verdict.QUALIFIED, None)
    assert any("unproven" in warning for warning in trial.warnings)


def test_a_dead_class_fails_parity_and_keeps_what_was_found(
    make_artifact: MakeArtifact, small_budget: LatencyBudget
) -> None:
    trial = tried(make_artifact(variant="misbehave/wrong/fp32"), small_budget, test_runtimes=True)
    assert (trial.verdict, trial.gate) == (Verdict.FAILED, Gate.PARITY)
    assert trial.parity is not None
    assert trial.device_parity is not None
    assert trial.latency is None


def _outputs_of_another_device(folder: Path) -> None:
    outputs = load_arrays(folder / "artifact_outputs.npz")
    save_arrays(folder / "artifact_outputs.npz", {name: value * 1.05 for name, value in outputs.items()})


def test_a_device_that_computes_the_artifact_otherwise_fails_device_parity(
    make_artifact: MakeArtifact, small_budget: LatencyBudget
) -> None:
    trial = tried(make_artifact(prepare=_outputs_of_another_device), small_budget)
    assert (trial.verdict, trial.gate) == (Verdict.FAILED, Gate.DEVICE_PARITY)


def _outputs_with_noise(folder: Path) -> None:
    """65 dB of noise: within what fp32 may differ from its source, too much for the same file on another device."""
    logits = load_arrays(folder / "artifact_outputs.npz")["logits"]
    noise = np.random.default_rng(1).normal(size=logits.shape)
    noise *= np.linalg.norm(logits, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    save_arrays(folder / "artifact_outputs.npz", {"logits": logits + (noise * 10 ** (-65 / 20)).astype(np.float32)})


def test_the_same_file_is_held_to_more_than_its_source(
    make_artifact: MakeArtifact, small_budget: LatencyBudget
) -> None:
    trial = tried(make_artifact(prepare=_outputs_with_noise), small_budget)
    assert (trial.verdict, trial.gate) == (Verdict.FAILED, Gate.DEVICE_PARITY)


def _samples_of_another_model(folder: Path) -> None:
    save_arrays(folder / "samples.npz", {"picture": np.zeros((4, 28, 28), np.uint8)})


def test_samples_that_do_not_fit_the_artifacts_model_make_it_corrupt(
    make_artifact: MakeArtifact, small_budget: LatencyBudget
) -> None:
    trial = tried(make_artifact(prepare=_samples_of_another_model), small_budget)
    assert trial.verdict is Verdict.CORRUPT
    assert trial.reason is not None
    assert "image float32[batch,1,28,28]" in trial.reason


@pytest.mark.parametrize(
    ("accept", "gate"),
    [
        (Accept(latency=LatencyAccept(p50_ms=1e-6)), Gate.LATENCY),
        (Accept(memory=MemoryAccept(peak_bytes=1024)), Gate.MEMORY),
        (Accept(energy=EnergyAccept(per_inference_mj=1.0, if_unmeasured=IfUnmeasured.FAIL)), Gate.ENERGY),
        (Accept(parity=ParityAccept(min_sqnr_db=1000.0)), None),
        (Accept(placement=PlacementAccept(min_accelerated=1.0)), None),
    ],
)
def test_each_limit_has_its_gate(
    golden_artifact: Path, small_budget: LatencyBudget, accept: Accept, gate: Gate | None
) -> None:
    trial = tried(golden_artifact, small_budget, accept)
    assert trial.gate is gate
    assert trial.latency is not None


def test_unmeasured_energy_under_a_limit_is_a_warning_by_default(
    golden_artifact: Path, small_budget: LatencyBudget
) -> None:
    trial = tried(golden_artifact, small_budget, Accept(energy=EnergyAccept(per_inference_mj=1.0)))
    assert trial.verdict is Verdict.QUALIFIED
    assert any("was not measured" in warning for warning in trial.warnings)


def test_golden_samples_that_take_too_long_are_a_timeout(golden_artifact: Path, small_budget: LatencyBudget) -> None:
    seconds = itertools.count(step=50)
    job = QualifyJob(artifact_dir=str(golden_artifact), latency=small_budget)
    trial = run_trial(job, monotonic_s=lambda: float(next(seconds)))
    assert (trial.verdict, trial.gate) == (Verdict.TIMEOUT, Gate.PARITY)


@pytest.mark.parametrize(("text", "numbers"), [("1.24.0", (1, 24, 0)), ("1.24.rc1", (1, 24)), ("dev", ())])
def test_versions_compare_by_their_leading_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert release_of(text) == numbers


@pytest.mark.parametrize(("claim", "verdict"), [(None, Verdict.FAILED), ("int8", Verdict.QUALIFIED)])
def test_outputs_are_held_to_what_the_artifact_claims(
    make_artifact: MakeArtifact, small_budget: LatencyBudget, claim: Any, verdict: Verdict
) -> None:
    def round_reference(folder: Path) -> None:
        outputs = load_arrays(folder / "source_outputs.npz")
        generator = np.random.default_rng(0)
        noisy = {name: (each + generator.normal(scale=0.02 * each.std(), size=each.shape)).astype(each.dtype)
                 for name, each in outputs.items()}  # fmt: skip
        save_arrays(folder / "source_outputs.npz", noisy)

    folder = make_artifact(prepare=round_reference)
    path = folder / "artifact.json"
    document = ArtifactDocument.model_validate_json(path.read_bytes())
    path.write_bytes(document.model_copy(update={"claim": claim}).canonical_json())
    assert tried(folder, small_budget).verdict is verdict
