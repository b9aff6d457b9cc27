"""A gain or an offset that only a part of the batch has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgefleet_agent.qualify.parity.compare import compare_outputs
from edgefleet_contract.evidence import ParityCheck, ParityResult

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(5)
REFERENCE = RNG.normal(0, 1, (200, 12))
HONEST = REFERENCE + 0.02 * RNG.normal(0, 1, (200, 12))


def judge(candidate: Array) -> ParityResult:
    return compare_outputs({"y": REFERENCE}, {"y": candidate}, precision="int8", task=None)


@pytest.mark.parametrize("part", [slice(100, None), slice(0, None, 2), slice(3, None, 8)])
@pytest.mark.parametrize("factor", [1.08, 1.25])
def test_a_part_of_the_batch_with_a_gain_of_its_own_fails(part: slice, factor: float) -> None:
    candidate = HONEST.copy()
    candidate[part] *= factor
    assert judge(candidate).failed_check is ParityCheck.GAIN


@pytest.mark.parametrize("part", [slice(100, None), slice(1, None, 4)])
def test_a_part_of_the_batch_with_an_offset_at_one_place_fails(part: slice) -> None:
    candidate = HONEST.copy()
    candidate[part, 5] += 0.3
    assert judge(candidate).failed_check is ParityCheck.OFFSET


def test_noise_that_grows_over_the_batch_passes() -> None:
    growing = np.linspace(0.005, 0.04, 200)[:, None] * RNG.normal(0, 1, (200, 12))
    assert judge(HONEST).failed_check is None
    assert judge(REFERENCE + growing).failed_check is None


@pytest.mark.parametrize(("share", "precision"), [(0.1, "int8"), (0.3, "int8"), (0.03, "fp16")])
@pytest.mark.parametrize("step", [1, -1])
def test_a_share_of_a_neighbours_answer_in_each_is_told(share: float, precision: str, step: int) -> None:
    rng = np.random.default_rng(31)
    reference = 5.0 + rng.normal(0, 1, (160, 6))
    noise = rng.normal(0, 0.02 if precision == "int8" else 0.0005, reference.shape)
    leaking = (1 - share) * reference + share * np.roll(reference, step, axis=0) + noise
    found = compare_outputs({"y": reference}, {"y": leaking}, precision=precision, task=None)
    assert found.failed_check is ParityCheck.REPEAT, found.reason
    assert "output is in each" in (found.reason or "")


def test_frames_of_a_recording_that_are_alike_do_not_leak() -> None:
    rng = np.random.default_rng(32)
    reference = 0.1 * rng.normal(0, 1, (400, 6)).cumsum(axis=0)
    rounded = np.round(reference * 40) / 40
    assert compare_outputs({"y": reference}, {"y": rounded}, precision="int8", task=None).failed_check is None


def test_one_wrong_answer_among_halves_stands_out_though_it_keeps_the_claims_worst_case() -> None:
    rng = np.random.default_rng(33)
    reference = np.array([14.0, 14.0, 100.0, 60.0]) + rng.normal(0, 1, (300, 4)) * [0.6, 0.6, 20.0, 9.0]
    candidate = reference.astype(np.float16).astype(np.float64)
    assert compare_outputs({"y": reference}, {"y": candidate}, precision="fp16", task=None).failed_check is None
    candidate[150] += [0.8, -1.2, 1.5, -1.0]
    found = compare_outputs({"y": reference}, {"y": candidate}, precision="fp16", task=None)
    assert found.failed_check is ParityCheck.OUTLIER, found
    assert found.worst_sqnr_db is not None
    assert found.worst_sqnr_db > 30


def test_a_quiet_and_a_loud_sample_among_halves_do_not_stand_out() -> None:
    rng = np.random.default_rng(34)
    reference = rng.normal(0, 1, (300, 16))
    reference[20] *= 1e-3
    reference[21] *= 50.0
    candidate = (reference + rng.normal(0, 2e-4, reference.shape)).astype(np.float16)
    assert compare_outputs({"y": reference}, {"y": candidate}, precision="fp16", task=None).failed_check is None
