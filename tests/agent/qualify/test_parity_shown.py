"""What outputs show of their precision where nobody says it, and the single samples that then stand out."""

from __future__ import annotations

import numpy as np
import pytest

from edgefleet_agent.qualify.parity.compare import compare_outputs
from edgefleet_agent.qualify.parity.shown import shown_precision
from edgefleet_agent.qualify.parity.tensor import Floats
from edgefleet_contract.evidence import ParityCheck, ParityVerdict, Task

NOISE = {"fp32": 1e-7, "fp16": 3e-4, "int8": 0.03}


def logits(samples_n: int = 64) -> Floats:
    rng = np.random.default_rng(5)
    return np.asarray(rng.normal(0, 3, (samples_n, 12)))


def rounded(reference: Floats, precision: str) -> Floats:
    noise = NOISE[precision] * np.random.default_rng(6).normal(0, 1, reference.shape)
    return np.asarray(reference + noise * reference.std())


def judged(reference: Floats, candidate: Floats) -> tuple[str, ParityVerdict, ParityCheck | None]:
    precision, _ = shown_precision({"out": reference}, {"out": candidate})
    result = compare_outputs({"out": reference}, {"out": candidate}, precision=precision, task=None)
    return precision, result.verdict, result.failed_check


@pytest.mark.parametrize("precision", NOISE)
def test_outputs_are_held_to_the_precision_that_most_samples_show(precision: str) -> None:
    reference = logits()
    candidate = rounded(reference, precision)
    assert judged(reference, candidate) == (precision, ParityVerdict.PASS, None)
    candidate[3:11] *= 1.5
    assert shown_precision({"out": reference}, {"out": candidate})[0] == precision


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_sample_at_20_db_among_exact_ones_stands_out_though_no_precision_was_given(precision: str) -> None:
    reference = logits()
    candidate = rounded(reference, precision)
    candidate[20] += 0.1 * reference.std() * np.random.default_rng(7).normal(0, 1, 12)
    assert judged(reference, candidate) == (precision, ParityVerdict.FAIL, ParityCheck.OUTLIER)


def test_decided_probabilities_tell_no_precision() -> None:
    sure = np.tile(np.array([[0.99999, 0.00001]]), (40, 1))
    assert shown_precision({"out": sure}, {"out": sure.copy()}) == ("int8", None)
    assert shown_precision({"out": np.arange(9)}, {"out": np.arange(9)}) == ("int8", None)
    assert shown_precision({"out": logits()}, {"out": logits(32)}) == ("int8", None)


def scalar() -> tuple[Floats, Floats]:
    """Return a regression of 150 ± 50 and what an int8 artifact makes of it: steps, and extremes clipped inside."""
    rng = np.random.default_rng(8)
    reference = rng.normal(150, 50, (120, 1))
    candidate = reference + rng.normal(0, 0.5, reference.shape)
    extreme = reference > 240
    candidate[extreme] -= 0.25 * (reference[extreme] - 150)
    return reference, candidate


def int8(reference: Floats, candidate: Floats) -> ParityCheck | None:
    return compare_outputs({"out": reference}, {"out": candidate}, precision="int8", task=None).failed_check


def test_clipped_extremes_of_a_single_value_are_honest_and_a_wrong_value_is_not() -> None:
    reference, candidate = scalar()
    assert int8(reference, candidate) is None
    for factor in (-1.0, 0.0, 0.5, 1.6):
        broken = candidate.copy()
        broken[33] *= factor
        assert int8(reference, broken) is ParityCheck.OUTLIER


def test_noise_is_held_against_what_a_single_value_varies_not_against_its_size() -> None:
    reference, candidate = scalar()
    noisy = candidate + np.random.default_rng(9).normal(0, 25, candidate.shape)
    assert int8(reference, noisy) is ParityCheck.SQNR


def test_an_offset_is_found_although_clipped_values_make_the_noise_look_large() -> None:
    reference, candidate = scalar()
    assert int8(reference, candidate + 15) is ParityCheck.OFFSET


def test_a_bad_sample_among_sixteen_is_found_though_few_samples_tell_little() -> None:
    reference = logits(16)
    candidate = rounded(reference, "int8")
    assert int8(reference, candidate) is None
    candidate[5] = -candidate[5]
    assert int8(reference, candidate) is ParityCheck.OUTLIER


def test_a_value_that_meets_the_limit_of_a_small_calibration_set_is_honest() -> None:
    reference = np.random.default_rng(10).normal(0, 1, (300, 1))
    limit = float(np.sort(reference[:, 0])[-9])
    assert int8(reference, np.minimum(reference, limit)) is None
    assert int8(reference, np.minimum(reference, float(np.quantile(reference, 0.8)))) is not None


@pytest.mark.parametrize("task", [None, Task.REGRESSION])
@pytest.mark.parametrize("wrong", [(), (50,), (50, 170, 300)])
def test_a_frame_entirely_wrong_among_honest_int8_probabilities_is_told(
    task: Task | None, wrong: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    logits = 8.0 * np.sin(np.arange(400) / 18.0) + rng.normal(0.0, 1.0, 400)
    reference, candidate = (1.0 / (1.0 + np.exp(-z)) for z in (logits, logits + rng.normal(0.0, 0.25, 400)))
    candidate[list(wrong)] = 1.0 - candidate[list(wrong)]
    sides = ({"output": side[:, None].astype(np.float32)} for side in (reference, candidate))
    found = compare_outputs(*sides, precision="int8", task=task)
    assert found.failed_check is (ParityCheck.OUTLIER if wrong else None)


def test_a_gain_that_all_samples_share_is_no_noise_and_hides_no_precision() -> None:
    reference = logits()
    candidate = 1.02 * rounded(reference, "fp16")
    assert judged(reference, candidate) == ("fp16", ParityVerdict.FAIL, ParityCheck.GAIN)


def test_half_precision_probabilities_near_0_and_1_are_not_held_to_what_sure_ones_show() -> None:
    rng = np.random.default_rng(20)
    side = 9.0 * np.eye(10)[rng.integers(0, 10, 120)] + rng.normal(0, 2.5, (120, 10))
    moved = side + rng.normal(0, 0.06, side.shape)
    reference, candidate = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in (side, moved))
    level = np.square(reference).mean(axis=1) / np.square(candidate - reference).mean(axis=1)
    assert 10 * np.log10(np.median(level)) > 60
    assert judged(reference, candidate) == ("int8", ParityVerdict.PASS, None)
