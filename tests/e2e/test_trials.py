"""`fleet compare` and `fleet bench` through the command line, with the agent's real worker as a child process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner, Result

from edgefleet_contract.artifact import InputTransform
from edgefleet_contract.evidence import LatencyResult, LatencyVerdict
from edgefleet_controller.cli.app import app
from edgefleet_controller.compile.ort import target as ort
from edgefleet_controller.compile.protocol import BuildRequest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

Change = Callable[[dict[str, Any]], None]

NORMALISE = InputTransform.model_validate(
    {"sample_layout": "nhw", "layout": "nchw", "mean": 33.3285, "std": 78.5655}
)  # fmt: skip
"""As `manifests/examples/quickstart.yaml` declares it for the digits."""


@pytest.fixture(scope="session")
def digits(examples: Path) -> Path:
    return examples / "models" / "mnist_cnn_fp32.onnx"


@pytest.fixture(scope="session")
def samples(examples: Path) -> Path:
    return examples / "data" / "digits.npz"


def run(*words: str) -> Result:
    """Run a command line; nothing it started may run when it ends."""
    result = CliRunner().invoke(app, list(words), env={"NO_COLOR": "1", "COLUMNS": "200"})
    assert [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE] == []
    return result


@pytest.fixture
def compare(digits: Path, samples: Path, examples: Path) -> Callable[..., Result]:
    """Compare the digit model with a candidate on real digits."""

    def compare_with(candidate: Path, *words: str) -> Result:
        prepared = ("--samples", str(samples), "--preprocess-from", f"{examples / 'quickstart.yaml'}:digits")
        return run("compare", str(digits), str(candidate), *prepared, *words)

    return compare_with


def altered(digits: Path, folder: Path, change: Change) -> Path:
    """Write a copy of the digit model with weights changed."""
    model = onnx.load(digits)
    weights = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    change(weights)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    path = folder / "altered.onnx"
    onnx.save(model, path)
    return path


def nan_bias(weights: dict[str, Any]) -> None:
    weights["c.bias"][4] = np.nan


def swapped_classes(weights: dict[str, Any]) -> None:
    for name in ("c.weight", "c.bias"):
        weights[name][[3, 7]] = weights[name][[7, 3]]


def dead_class(weights: dict[str, Any]) -> None:
    weights["c.weight"][5] = 0
    weights["c.bias"][5] = 0


def scaled_channel(weights: dict[str, Any]) -> None:
    weights["c.weight"][2] *= 1.5
    weights["c.bias"][2] *= 1.5


@pytest.mark.parametrize("precision", [None, "int8"])
@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        (nan_bias, "finite", "1000 NaN against 0"),
        (swapped_classes, "shift", "7→3, 3→7"),
        (dead_class, "constant", "5"),
        (scaled_channel, "gain", "channel 2 is scaled by 1.5000"),
    ],
)
def test_a_broken_copy_fails_with_the_first_check_that_failed_under_any_claim(
    compare: Callable[..., Result],
    digits: Path,
    tmp_path: Path,
    change: Change,
    check: str,
    words: str,
    precision: str | None,
) -> None:
    claim = [] if precision is None else ["--precision", precision]
    result = compare(altered(digits, tmp_path, change), "-o", "json", *claim)
    assert result.exit_code == 3, result.output
    said = json.loads(result.stdout)
    assert (said["verdict"], said["failed_check"]) == ("fail", check)
    assert said["outputs"][0]["failed_check"] == check
    assert words in said["reason"]
    assert f"parity fails at {check}: " in result.stderr


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
def test_forms_our_own_builder_makes_pass_on_real_digits(
    compare: Callable[..., Result], digits: Path, samples: Path, examples: Path, tmp_path: Path, precision: str
) -> None:
    candidate = tmp_path / f"{precision}.onnx"
    ort.build(
        BuildRequest(
            model="digits",
            variant=f"ort/cpu/{precision}",
            source=str(digits),
            samples=str(samples),
            calibration=str(examples / "data" / "digits_calibration.npz"),
            preprocess={"image": NORMALISE},
            work_dir=str(tmp_path),
            out=str(candidate),
        )
    )
    result = compare(candidate, "-o", "json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["verdict"], said["failed_check"], said["precision"]) == ("pass", None, precision)
    assert said["agreement"] >= 0.98
    assert abs(said["metric"]["reference"] - said["metric"]["measured"]) <= 0.02
    assert said["n_samples"] == said["metric"]["n"] == 1000


def saved(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def logits() -> Any:
    return np.random.default_rng(0).normal(0, 5, (200, 10)).astype(np.float32)


def test_all_nan_against_all_zero_fails(tmp_path: Path) -> None:
    zero = saved(tmp_path / "zero.npz", y=np.zeros((50, 10), np.float32))
    nan = saved(tmp_path / "nan.npz", y=np.full((50, 10), np.nan, np.float32))
    for pair in ((zero, nan), (nan, zero)):
        result = run("compare", *pair, "-o", "json")
        assert result.exit_code == 3, result.output
        assert json.loads(result.stdout)["failed_check"] == "finite"


def test_two_files_of_outputs_are_judged_output_by_output(tmp_path: Path) -> None:
    first, second = logits(), logits()[:, ::-1]
    reference = saved(tmp_path / "reference.npz", first=first, second=second)
    noise = np.random.default_rng(1).normal(0, 1e-4, first.shape).astype(np.float32)
    near = saved(tmp_path / "near.npz", first=first + noise, second=second)
    said = json.loads(run("compare", reference, near, "-o", "json").stdout)
    assert said["verdict"] == "pass"
    assert {output["name"]: output["bit_exact"] for output in said["outputs"]} == {"first": False, "second": True}
    broken = saved(tmp_path / "broken.npz", first=first, second=np.roll(second, 1, axis=1))
    result = run("compare", reference, broken, "-o", "json")
    assert result.exit_code == 3
    failed = {output["name"]: output["failed_check"] for output in json.loads(result.stdout)["outputs"]}
    assert failed["first"] is None
    assert failed["second"] is not None


KEYS = {
    "api", "verdict", "failed_check", "reason", "precision", "task", "assumed", "n_samples", "agreement",
    "worst_sqnr_db", "metric", "outputs",
}  # fmt: skip


def test_the_object_has_the_documented_keys_whatever_the_verdict(tmp_path: Path) -> None:
    reference = saved(tmp_path / "a.npz", y=logits())
    candidate = saved(tmp_path / "b.npz", y=-logits())
    for pair in ((reference, reference), (reference, candidate)):
        said = json.loads(run("compare", *pair, "-o", "json").stdout)
        assert set(said) >= KEYS
        (output,) = said["outputs"]
        assert {"name", "n_samples", "worst_sqnr_db", "tolerance_sqnr_db", "max_abs_error", "failed_check"} <= set(
            output
        )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "model"),
        (b"hello, this is text", "model"),
        (b"\x08\x08truncated", "model"),
        (b"PK\x03\x04 no zip", "two kinds"),
    ],
)
def test_a_candidate_that_is_no_model_is_bad_input_and_not_a_failed_comparison(
    compare: Callable[..., Result], tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    result = compare(tmp_path / "bad.onnx", "-o", "json")
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert "bad.onnx" in result.stderr
    assert result.stdout == ""


def test_bench_prints_the_latency_part_of_apply_and_the_conditions(digits: Path, samples: Path, examples: Path) -> None:
    prepared = ("--preprocess-from", f"{examples / 'quickstart.yaml'}:digits")
    result = run("bench", str(digits), "--samples", str(samples), *prepared, "--duration", "1s", "-o", "json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    latency = LatencyResult.model_validate({name: said[name] for name in LatencyResult.model_fields})
    assert latency.verdict in set(LatencyVerdict)
    assert latency.n >= 500
    assert latency.p50_ms <= latency.p95_ms <= latency.p99_ms
    if latency.ci95_p95_ms is None:  # a busy machine: nothing is believed then
        assert latency.verdict is not LatencyVerdict.VALID
    else:
        assert latency.ci95_p95_ms[0] <= latency.p95_ms <= latency.ci95_p95_ms[1]
    assert 0.5 <= latency.duration_s <= 4.0
    assert set(said) - set(LatencyResult.model_fields) == {"api", "model", "conditions"}
    assert said["conditions"]["threads"] == 1
