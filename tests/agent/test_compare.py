"""Comparing two models, or two files of outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgefleet_agent.compare import compare
from edgefleet_agent.samples import SamplesError, load_arrays, save_arrays
from edgefleet_contract.artifact import InputTransform
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import ParityCheck, ParityVerdict, Task
from edgefleet_contract.job import CompareJob


def outputs_job(
    tmp_path: Path, left: dict[str, np.ndarray], right: dict[str, np.ndarray], **said: object
) -> CompareJob:
    save_arrays(tmp_path / "left.npz", left)
    save_arrays(tmp_path / "right.npz", right)
    job = CompareJob(reference=str(tmp_path / "left.npz"), candidate=str(tmp_path / "right.npz"))
    return job.model_copy(update=said)


@pytest.fixture
def logits(golden_artifact: Path) -> np.ndarray:
    return load_arrays(golden_artifact / "source_outputs.npz")["logits"]


def test_equal_outputs_pass_and_the_answer_says_what_they_were_held_to(tmp_path: Path, logits: np.ndarray) -> None:
    answer = compare(outputs_job(tmp_path, {"logits": logits}, {"logits": logits}))
    assert (answer.verdict, answer.precision, answer.task) == (ParityVerdict.PASS, "fp32", Task.CLASSIFICATION)
    assert "--precision" in answer.assumed[0]


@pytest.mark.parametrize("precision", [None, "fp32", "int8"])
def test_all_nan_against_all_zero_fails(tmp_path: Path, precision: str | None) -> None:
    nan, zero = np.full((32, 10), np.nan, np.float32), np.zeros((32, 10), np.float32)
    answer = compare(outputs_job(tmp_path, {"y": zero}, {"y": nan}, precision=precision))
    assert (answer.verdict, answer.failed_check) == (ParityVerdict.FAIL, ParityCheck.FINITE)


def test_swapped_classes_fail(tmp_path: Path, logits: np.ndarray) -> None:
    swapped = logits.copy()
    swapped[:, [3, 7]] = swapped[:, [7, 3]]
    assert compare(outputs_job(tmp_path, {"y": logits}, {"y": swapped})).verdict is ParityVerdict.FAIL


def test_labels_in_either_file_give_the_metric(tmp_path: Path, logits: np.ndarray, digit_samples: Path) -> None:
    labels = load_arrays(digit_samples)["labels"]
    job = outputs_job(tmp_path, {"y": logits, "truth": labels}, {"y": logits}, labels_key="truth")
    metric = compare(job).parity.metric
    assert metric is not None
    assert metric.n == len(labels)


@pytest.mark.parametrize("labels", [np.zeros(3, np.int64), np.int64(1)])
def test_labels_of_another_length_are_refused(tmp_path: Path, logits: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(SamplesError, match="need"):
        compare(outputs_job(tmp_path, {"y": logits, "labels": np.asarray(labels)}, {"y": logits}))


def test_a_file_with_nothing_but_labels_is_refused(tmp_path: Path, logits: np.ndarray) -> None:
    with pytest.raises(SamplesError, match="no outputs"):
        compare(outputs_job(tmp_path, {"y": logits}, {"labels": np.zeros(64, np.int64)}))


def test_a_model_and_a_file_of_outputs_cannot_be_compared(tmp_path: Path, digit_model: Path) -> None:
    save_arrays(tmp_path / "y.npz", {"y": np.zeros(3)})
    with pytest.raises(UserInputError, match="two kinds"):
        compare(CompareJob(reference=str(digit_model), candidate=str(tmp_path / "y.npz")))


def test_models_without_samples_are_refused_with_the_next_step(digit_model: Path) -> None:
    with pytest.raises(UserInputError, match="--samples"):
        compare(CompareJob(reference=str(digit_model), candidate=str(digit_model)))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="cannot be read"):
        compare(CompareJob(reference=str(tmp_path / "none"), candidate=str(tmp_path / "none")))


def test_samples_that_do_not_fit_say_what_the_model_takes(
    digit_model: Path, digit_samples: Path, digit_preprocess: dict[str, InputTransform]
) -> None:
    job = CompareJob(reference=str(digit_model), candidate=str(digit_model), samples=str(digit_samples))
    with pytest.raises(UserInputError, match=r"image float32\[batch,1,28,28\]"):
        compare(job)


def leaning(gain: float, noise: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return maps, and the same scaled and with noise, as four bits of weights leave them."""
    rng = np.random.default_rng(21)
    reference = rng.normal(1.0, 1.0, (32, 3, 12, 12))
    candidate = gain * reference + noise * rng.normal(0, 1, reference.shape)
    return {"y": reference.astype(np.float32)}, {"y": candidate.astype(np.float32)}


def test_outputs_that_only_lean_as_four_bits_do_are_held_to_int4_and_the_answer_says_so(tmp_path: Path) -> None:
    answer = compare(outputs_job(tmp_path, *leaning(1.055, 0.15)))
    assert (answer.verdict, answer.precision) == (ParityVerdict.PASS, "int4")
    assert "held to int4" in answer.assumed[0]
    assert compare(outputs_job(tmp_path, *leaning(1.055, 0.15), precision="int8")).failed_check is ParityCheck.GAIN


@pytest.mark.parametrize(("gain", "noise"), [(1.055, 0.02), (1.25, 0.15)])
def test_a_gain_beside_less_noise_or_beyond_what_four_bits_lean_still_fails(
    tmp_path: Path, gain: float, noise: float
) -> None:
    assert compare(outputs_job(tmp_path, *leaning(gain, noise))).failed_check is ParityCheck.GAIN


def test_what_leans_as_four_bits_do_is_excused_nothing_else(tmp_path: Path) -> None:
    reference, candidate = leaning(1.055, 0.15)
    candidate["y"][:, 1] *= 1.15
    assert compare(outputs_job(tmp_path, reference, candidate)).verdict is ParityVerdict.FAIL
