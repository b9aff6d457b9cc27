"""Jobs through a real worker process: every kind on the digit model, and every way a worker can die."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgefleet_agent import host, probe
from edgefleet_agent.jobs import JobDeath, run_job
from edgefleet_agent.samples import load_arrays
from edgefleet_agent.trial import trial_limits
from edgefleet_contract.artifact import InputTransform
from edgefleet_contract.child import ChildEnd, ChildLimits, ChildOutcome
from edgefleet_contract.evidence import ParityVerdict, Verdict
from edgefleet_contract.job import (
    BenchAnswer,
    BenchJob,
    CompareAnswer,
    CompareJob,
    ErrorAnswer,
    InspectAnswer,
    InspectJob,
    LatencyBudget,
    OutputsAnswer,
    OutputsJob,
    ProbeAnswer,
    ProbeJob,
    QualifyAnswer,
    QualifyJob,
)
from edgefleet_contract.profile import ProbeStatus

LIMITS = ChildLimits(timeout_s=60.0, memory_bytes=1024**3)
Transforms = dict[str, InputTransform]

MakeArtifact = Callable[..., Path]


def test_outputs_are_written_for_every_sample(
    digit_model: Path, digit_samples: Path, digit_preprocess: Transforms, tmp_path: Path
) -> None:
    out = tmp_path / "outputs.npz"
    job = OutputsJob(
        model=str(digit_model),
        variant="ort/cpu/fp32",
        samples=str(digit_samples),
        preprocess=digit_preprocess,
        out=str(out),
    )
    answer = run_job(job, LIMITS)
    assert isinstance(answer, OutputsAnswer)
    logits, labels = load_arrays(out)["logits"], load_arrays(digit_samples)["labels"]
    assert (answer.n_samples, logits.shape) == (len(labels), (len(labels), 10))
    assert np.mean(logits.argmax(axis=1) == labels) > 0.9


def test_an_artifact_is_qualified(golden_artifact: Path, small_budget: LatencyBudget) -> None:
    answer = run_job(QualifyJob(artifact_dir=str(golden_artifact), latency=small_budget), LIMITS)
    assert isinstance(answer, QualifyAnswer)
    assert answer.trial.verdict is Verdict.QUALIFIED


def test_a_model_is_inspected(digit_model: Path) -> None:
    answer = run_job(InspectJob(model=str(digit_model), variant="ort/cpu/fp32"), LIMITS)
    assert isinstance(answer, InspectAnswer)
    assert [(spec.name, spec.shape) for spec in answer.inputs] == [("image", ("batch", 1, 28, 28))]
    assert [spec.name for spec in answer.outputs] == ["logits"]


def test_a_model_is_benched(
    digit_model: Path, digit_samples: Path, digit_preprocess: Transforms, small_budget: LatencyBudget
) -> None:
    job = BenchJob(
        model=str(digit_model), samples=str(digit_samples), preprocess=digit_preprocess, latency=small_budget
    )
    answer = run_job(job, LIMITS)
    assert isinstance(answer, BenchAnswer)
    assert small_budget.min_n <= answer.latency.n <= small_budget.max_n
    assert answer.conditions.threads == 1


def test_a_file_that_names_its_input_otherwise_is_benched_by_the_map(
    digit_model: Path, small_budget: LatencyBudget, tmp_path: Path
) -> None:
    samples = tmp_path / "samples.npz"
    np.savez(samples, pixels=np.zeros((4, 28, 28, 1), np.float32))
    given = {"model": str(digit_model), "samples": str(samples), "latency": small_budget}
    assert isinstance(run_job(BenchJob.model_validate(given), LIMITS), ErrorAnswer)
    axes = {"pixels": {"name": "image", "axes": (0, 3, 1, 2)}}
    answer = run_job(BenchJob.model_validate({**given, "input_map": axes}), LIMITS)
    assert isinstance(answer, BenchAnswer)


def test_a_model_is_like_itself(digit_model: Path, digit_samples: Path, digit_preprocess: Transforms) -> None:
    job = CompareJob(
        reference=str(digit_model),
        candidate=str(digit_model),
        samples=str(digit_samples),
        preprocess=digit_preprocess,
    )
    answer = run_job(job, LIMITS)
    assert isinstance(answer, CompareAnswer)
    assert (answer.verdict, answer.precision) == (ParityVerdict.PASS, "fp32")


def test_engines_are_probed_and_all_that_is_missing_says_why() -> None:
    answer = run_job(ProbeJob(), LIMITS)
    assert isinstance(answer, ProbeAnswer)
    engines = {engine.target: engine for engine in answer.engines}
    assert engines["ort/cpu"].status is ProbeStatus.AVAILABLE
    assert engines["ort/cpu"].version
    assert engines["tflite/cpu"].status is engines["tflite/xnnpack"].status is ProbeStatus.AVAILABLE
    assert not [name for name in engines if name.startswith("misbehave/")]
    on_any_cpu = {"ort/cpu", "tflite/cpu", "tflite/xnnpack"}
    missing = [engine for name, engine in engines.items() if name not in on_any_cpu]
    assert len(missing) > 10
    assert all(engine.status is ProbeStatus.MISSING and engine.reason for engine in missing)


def test_the_misbehaving_runtime_is_offered_only_when_asked_for() -> None:
    found = probe.probe_engines_in_child(True)
    offered = {engine.target for engine in found if engine.status is ProbeStatus.AVAILABLE}
    assert {"ort/cpu", "misbehave/segv", "misbehave/wrong"} <= offered


def test_a_probe_that_dies_makes_its_engines_broken_with_the_reason() -> None:
    found = probe.probe_engines_in_child(False, limits=ChildLimits(timeout_s=0.001))
    assert {engine.status for engine in found} == {ProbeStatus.BROKEN}
    assert found[0].target == "ort/cpu"
    assert found[0].reason is not None
    assert "gave no answer" in found[0].reason


@pytest.mark.parametrize(
    ("fault", "end", "verdict"),
    [
        ("segv", ChildEnd.CRASHED, Verdict.CRASHED),
        ("exit", ChildEnd.EXITED, Verdict.CRASHED),
        ("garbage", ChildEnd.GARBAGE, Verdict.CRASHED),
        ("oom", ChildEnd.OUT_OF_MEMORY, Verdict.OUT_OF_MEMORY),
        ("hang", ChildEnd.TIMEOUT, Verdict.TIMEOUT),
    ],
)
def test_a_model_that_takes_its_worker_down_is_a_death_with_a_verdict(
    make_artifact: MakeArtifact, fault: str, end: ChildEnd, verdict: Verdict
) -> None:
    folder = make_artifact(variant=f"misbehave/{fault}/fp32")
    limits = ChildLimits(timeout_s=2.0 if fault == "hang" else 60.0, memory_bytes=200 * 1024**2)
    death = run_job(QualifyJob(artifact_dir=str(folder), test_runtimes=True), limits)
    assert isinstance(death, JobDeath)
    assert (death.outcome.end, death.verdict) == (end, verdict)
    assert death.reason.startswith("the worker ")


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (b'{"kind": "bench", "of_a_later_version": 1}', "answered garbage"),
        (b'{"kind": "error", "family": "internal", "reason": "latency.cpus: extra"}', "did not do its job"),
        (None, "exited with code 1"),
    ],
)
def test_an_upgrade_under_a_running_agent_is_no_fault_of_the_artifact(
    monkeypatch: pytest.MonkeyPatch, digit_model: Path, answer: bytes | None, word: str
) -> None:
    end = ChildEnd.EXITED if answer is None else ChildEnd.ANSWERED
    outcome = ChildOutcome(end, answer, "exited with code 1", "", 0.1)
    monkeypatch.setattr("edgefleet_agent.jobs.run_child", lambda *_, **__: outcome)
    job = InspectJob(model=str(digit_model), variant="ort/cpu/fp32")
    alike = run_job(job, LIMITS)
    assert not (isinstance(alike, JobDeath) and alike.verdict is Verdict.UNSUPPORTED)
    monkeypatch.setattr("edgefleet_agent.host.installed_version", lambda: "9.0")
    found = run_job(job, LIMITS)
    assert isinstance(found, JobDeath)
    assert found.verdict is Verdict.UNSUPPORTED
    assert found.reason.startswith("edgefleet 9.0 was installed while ")
    assert "restart the agent" in found.reason
    assert word in found.reason


def test_a_crash_after_an_upgrade_is_still_a_crash(
    monkeypatch: pytest.MonkeyPatch, make_artifact: MakeArtifact
) -> None:
    host.agent_version()  # kept from then on
    monkeypatch.setattr("edgefleet_agent.host.installed_version", lambda: "9.0")
    folder = make_artifact(variant="misbehave/segv/fp32")
    death = run_job(QualifyJob(artifact_dir=str(folder), test_runtimes=True), LIMITS)
    assert isinstance(death, JobDeath)
    assert death.verdict is Verdict.CRASHED


@pytest.mark.parametrize(
    ("content", "word"), [(b"", "model.onnx"), (b"not a model at all", "model.onnx"), (None, "no such model file")]
)
def test_a_file_that_is_no_model_is_the_users_input(tmp_path: Path, content: bytes | None, word: str) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    answer = run_job(InspectJob(model=str(path), variant="ort/cpu/fp32"), LIMITS)
    assert isinstance(answer, ErrorAnswer)
    assert (answer.family, word in answer.reason) == ("input", True)


def test_a_variant_this_version_cannot_run_is_the_devices_limit(digit_model: Path) -> None:
    answer = run_job(InspectJob(model=str(digit_model), variant="tensorrt/gpu/fp16"), LIMITS)
    assert isinstance(answer, ErrorAnswer)
    assert answer.family == "device"


def test_what_the_resident_process_imports_loads_no_numerical_library() -> None:
    code = (
        "import sys, edgefleet_agent.jobs, edgefleet_agent.probe as p; p.probe_profile('s', 'd', {}, ());"
        "print([name for name in ('numpy', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("group", "expected_bytes"),
    [("max", 800 * 2**20), ("524288000", 400 * 2**20), ("1048576", 256 * 2**20), (None, 800 * 2**20)],
)
def test_a_trial_may_take_a_share_of_what_is_free_and_of_what_its_container_may_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str | None, expected_bytes: int
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000 * 2**20, total=2**40))
    if group is not None:
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{group}\n", encoding="ascii")
    assert trial_limits(1.0, root=tmp_path).memory_bytes == expected_bytes
    assert trial_limits(1.0, 5, root=tmp_path).memory_bytes == 5
