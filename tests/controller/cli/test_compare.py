from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from edgefleet_contract.accept import Scenario
from edgefleet_contract.artifact import ClaimedPrecision
from edgefleet_contract.child import ChildEnd, ChildOutcome
from edgefleet_contract.evidence import (
    Conditions,
    EarlyStopping,
    LatencyResult,
    OperatorProfile,
    OperatorShare,
    OutputParity,
    ParityCheck,
    ParityResult,
    ParityVerdict,
    Task,
)
from edgefleet_contract.job import BenchAnswer, CompareAnswer, ErrorAnswer
from edgefleet_controller.cli.bench import ScenarioChoice, cpu_list
from edgefleet_controller.cli.compare import PrecisionChoice, TaskChoice
from edgefleet_controller.cli.options import split_model
from edgefleet_hil.scripted import Cli, FakeBackend


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("a.onnx", "b.onnx", "s.npz"):
        (tmp_path / name).write_bytes(b"content")
    return tmp_path


@pytest.fixture
def comparison(parity: ParityResult) -> CompareAnswer:
    output = OutputParity(name="logits", n_samples=1000, bit_exact=False, worst_sqnr_db=31.2, tolerance_sqnr_db=25.0)
    return CompareAnswer(
        verdict=ParityVerdict.PASS,
        precision="int8",
        task=Task.CLASSIFICATION,
        parity=parity.model_copy(update={"outputs": (output,)}),
    )


def test_the_choices_written_out_for_a_quick_start_are_those_of_the_contract() -> None:
    assert get_args(PrecisionChoice) == get_args(ClaimedPrecision)
    assert get_args(TaskChoice) == tuple(task.value for task in Task)
    assert get_args(ScenarioChoice) == tuple(scenario.value for scenario in Scenario)


def test_a_pass_exits_0_with_figures_at_the_top_level(
    cli: Cli, models: Path, backend: FakeBackend, comparison: CompareAnswer
) -> None:
    backend.answer(comparison)
    result = cli("compare", "a.onnx", "b.onnx", "--samples", "s.npz", "-o", "json")
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert list(data) == [
        "api", "verdict", "failed_check", "reason", "precision", "task", "assumed",
        "n_samples", "agreement", "worst_sqnr_db", "metric", "outputs",
    ]  # fmt: skip
    assert (data["verdict"], data["failed_check"], data["precision"]) == ("pass", None, "int8")
    assert data["outputs"][0]["name"] == "logits"


def test_the_job_says_what_the_options_said(
    cli: Cli, backend: FakeBackend, models: Path, comparison: CompareAnswer
) -> None:
    backend.answer(comparison)
    cli(
        "compare", "a.onnx", "b.onnx", "--samples", "s.npz", "--precision", "fp16", "--task", "detection",
        "--same-artifact", "--labels-key", "y", "--metric", "my.metrics:f1", "--min-agreement", "0.9",
        "--bisect", "--out", "part",
    )  # fmt: skip
    (job,) = backend.jobs
    assert (job["kind"], job["precision"], job["task"], job["same_artifact"], job["labels_key"]) == (
        "compare", "fp16", "detection", True, "y",
    )  # fmt: skip
    assert (job["metric"]["kind"], job["metric"]["function"]) == ("function", "my.metrics:f1")
    assert (job["limits"]["min_agreement"], job["bisect"], Path(job["out"]).name) == (0.9, True, "part")
    assert job["samples"] == str(models / "s.npz")


def test_a_fail_exits_3_and_names_the_first_check_that_failed(
    cli: Cli, models: Path, backend: FakeBackend, comparison: CompareAnswer
) -> None:
    failed = {"verdict": ParityVerdict.FAIL, "failed_check": ParityCheck.FINITE, "reason": "NaN in 3 of 1000 samples"}
    backend.answer(comparison.model_copy(update=failed))
    result = cli("compare", "a.onnx", "b.onnx", "--samples", "s.npz")
    assert result.exit_code == 3
    assert "parity fails at finite: NaN in 3 of 1000 samples" in result.stderr
    assert result.stdout.startswith("parity fail\n")


def test_a_weak_pass_exits_0_and_is_said_loudly(
    cli: Cli, models: Path, backend: FakeBackend, comparison: CompareAnswer
) -> None:
    backend.answer(comparison.model_copy(update={"verdict": ParityVerdict.WEAK, "reason": "random samples"}))
    result = cli("compare", "a.onnx", "b.onnx", "--samples", "s.npz", "-o", "json")
    assert result.exit_code == 0
    assert "WEAK" in result.stderr
    assert json.loads(result.stdout)["verdict"] == "weak"


@pytest.mark.parametrize(("family", "code"), [("input", 2), ("device", 1), ("internal", 1)])
def test_the_family_of_the_workers_error_decides_the_exit_code(
    cli: Cli, models: Path, backend: FakeBackend, family: str, code: int
) -> None:
    backend.answer(ErrorAnswer(family=family, reason="input 'image' has another shape"))
    result = cli("compare", "a.onnx", "b.onnx")
    assert result.exit_code == code
    assert "input 'image' has another shape" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("end", [end for end in ChildEnd if end is not ChildEnd.ANSWERED])
def test_every_death_of_the_worker_is_told_with_how_it_died(
    cli: Cli, backend: FakeBackend, models: Path, end: ChildEnd
) -> None:
    backend.outcome = ChildOutcome(end, None, "killed by signal 11 (SIGSEGV)", "first\nlast words\n", 2.5)
    result = cli("compare", "a.onnx", "b.onnx")
    assert result.exit_code == 1
    for text in (end.value, "after 2.5 s", "SIGSEGV", "last words"):
        assert text in result.stderr


def test_an_answer_outside_the_contract_is_an_error_and_not_a_traceback(
    cli: Cli, backend: FakeBackend, models: Path
) -> None:
    backend.outcome = ChildOutcome(ChildEnd.ANSWERED, b'{"kind": "compare"}', "answered", "", 1.0)
    result = cli("compare", "a.onnx", "b.onnx")
    assert result.exit_code == 1
    assert "does not follow the contract" in result.stderr


def test_an_answer_to_another_question_is_a_bug_and_says_so(
    cli: Cli, models: Path, backend: FakeBackend, latency: LatencyResult, conditions: Conditions
) -> None:
    backend.answer(BenchAnswer(latency=latency, conditions=conditions))
    result = cli("compare", "a.onnx", "b.onnx")
    assert result.exit_code == 1
    assert "please report" in result.stderr


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["compare", "missing.onnx", "b.onnx"], "REFERENCE: no such file: missing.onnx"),
        (["compare", "a.onnx", "."], "CANDIDATE: not a file"),
        (["compare", "a.onnx", "b.onnx", "--samples", "no.npz"], "--samples: no such file"),
        (["bench", "a.onnx", "--samples", "s.npz", "--threads", "0"], "threads"),
        (["bench", "a.onnx", "--samples", "s.npz", "--duration", "5"], "--duration"),
        (["bench", "a.onnx", "--samples", "s.npz", "--duration", "2h"], "max_duration_s"),
        (["compare", "a.onnx", "b.onnx", "--precision", "int3"], "int3"),
    ],
)
def test_bad_input_is_refused_by_name_before_any_worker_starts(
    cli: Cli, backend: FakeBackend, models: Path, args: list[str], named: str
) -> None:
    result = cli(*args)
    assert result.exit_code == 2
    assert named in result.stderr
    assert backend.jobs == []


def test_bench_prints_the_latency_of_apply_and_the_conditions(
    cli: Cli, models: Path, backend: FakeBackend, latency: LatencyResult, conditions: Conditions
) -> None:
    backend.answer(BenchAnswer(latency=latency, conditions=conditions))
    result = cli("bench", "a.onnx", "--samples", "s.npz", "-o", "json")
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert {key: data[key] for key in latency.model_dump()} == latency.model_dump(mode="json")
    assert data["conditions"]["runtime"] == "onnxruntime"


def test_bench_draws_intervals_and_conditions(
    cli: Cli, models: Path, backend: FakeBackend, latency: LatencyResult, conditions: Conditions
) -> None:
    backend.answer(BenchAnswer(latency=latency, conditions=conditions))
    out = cli("bench", "a.onnx", "--samples", "s.npz", columns=80).stdout
    for text in ("a.onnx: latency valid", "50 µs", "49 µs … 52 µs", "n 5000", "a test CPU", "█"):
        assert text in out


def test_bench_measures_for_the_duration_with_the_threads(
    cli: Cli, backend: FakeBackend, models: Path, latency: LatencyResult, conditions: Conditions
) -> None:
    backend.answer(BenchAnswer(latency=latency, conditions=conditions))
    cli("bench", "a.onnx", "--samples", "s.npz", "--duration", "500ms", "--threads", "2")
    (job,) = backend.jobs
    assert (job["latency"]["max_duration_s"], job["latency"]["min_duration_s"]) == (0.5, 0.5)
    assert job["latency"]["threads"] == 2
    assert job["timeout_s"] > 4 * 0.5


def test_bench_asks_for_the_scenario_its_rate_and_its_percentile(
    cli: Cli, backend: FakeBackend, models: Path, latency: LatencyResult, conditions: Conditions
) -> None:
    backend.answer(BenchAnswer(latency=latency, conditions=conditions))
    cli(
        "bench", "a.onnx", "--samples", "s.npz", "--scenario", "server", "--rate", "20Hz", "--percentile", "99",
        "--cpus", "0-1,3",
    )  # fmt: skip
    asked = backend.jobs[0]["latency"]
    assert (asked["scenario"], asked["rate_hz"], asked["percentile"]) == ("server", 20.0, 0.99)
    assert asked["cpus"] == [0, 1, 3]


def test_bench_draws_what_a_scenario_adds(
    cli: Cli, backend: FakeBackend, models: Path, latency: LatencyResult, conditions: Conditions
) -> None:
    operators = (OperatorShare(operator="Conv", share=0.75, calls_n=5),)
    server = latency.model_copy(
        update={
            "scenario": Scenario.SERVER,
            "rate_hz": 20.0,
            "throughput_hz": 19.8,
            "service": latency,
            "warmed_up": False,
            "profile": OperatorProfile(operators=operators, inferences_n=20, source="a test"),
            "early_stopping": (
                EarlyStopping(percentile=0.9, confidence=0.99, needed_n=64, discarded_n=3, estimate_ms=0.06),
                EarlyStopping(percentile=0.99, confidence=0.99, needed_n=662),
            ),
        }
    )
    backend.answer(BenchAnswer(latency=server, conditions=conditions))
    out = cli("bench", "a.onnx", "--samples", "s.npz").stdout
    for text in (
        "server, 20 queries a second", "throughput 19.8 samples a second; in the model p50 46 µs", "Conv 75%",
        "p90 60 µs, p99 needs 662", "the level had not settled",
    ):  # fmt: skip
        assert text in out


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--rate", "20", "--rate '20'"),
        ("--load", "100%", "the queue grows without end"),
        ("--cpus", "0-x", "not a list of CPUs"),
        ("--cpus", "9999", "not a list of CPUs"),
        ("--percentile", "100", "percentile"),
    ],
)
def test_a_wrong_option_of_bench_is_refused_by_name(
    cli: Cli, backend: FakeBackend, models: Path, option: str, value: str, named: str
) -> None:
    result = cli("bench", "a.onnx", "--samples", "s.npz", option, value)
    assert result.exit_code == 2
    assert named in result.stderr
    assert backend.jobs == []


def test_cpus_are_named_one_by_one_or_as_ranges() -> None:
    assert cpu_list("3,0-1") == (0, 1, 3)


def test_preprocessing_is_taken_from_a_manifest(
    cli: Cli, backend: FakeBackend, models: Path, manifest: Path, comparison: CompareAnswer
) -> None:
    text = "samples: digits.npz, preprocess: {image: {sample_layout: nhw, layout: nchw, mean: 33.3285}}}"
    manifest.write_text(manifest.read_text().replace("samples: digits.npz}", text), encoding="utf-8")
    backend.answer(comparison)
    result = cli("compare", "a.onnx", "b.onnx", "--preprocess-from", "manifest.yaml:digits")
    assert result.exit_code == 0
    assert backend.jobs[0]["preprocess"]["image"]["mean"] == 33.3285
    cli("compare", "a.onnx", "b.onnx", "--preprocess-from", "manifest.yaml")
    assert backend.jobs[1]["preprocess"] == backend.jobs[0]["preprocess"]


def test_a_model_the_manifest_lacks_is_refused_with_those_it_has(cli: Cli, models: Path, manifest: Path) -> None:
    result = cli("compare", "a.onnx", "b.onnx", "--preprocess-from", "manifest.yaml:lite0")
    assert result.exit_code == 2
    assert "no model 'lite0'; there are: digits" in result.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [("m.yaml", ("m.yaml", None)), ("m.yaml:digits", ("m.yaml", "digits")), ("/a:b/m.yaml:x", ("/a:b/m.yaml", "x"))],
)
def test_the_model_stands_behind_the_last_colon(text: str, expected: object) -> None:
    assert split_model(text) == expected
