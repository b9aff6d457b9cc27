"""Single samples that carry another's answer, and decisions that only look like it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgefleet_agent.qualify.parity.compare import compare_outputs
from edgefleet_agent.qualify.parity.tensor import Floats
from edgefleet_contract.evidence import ParityCheck


def frames(noise_db: float) -> tuple[Floats, Floats]:
    """Return 40 frames of one slowly changing picture and what an int8 artifact makes of them."""
    rng = np.random.default_rng(11)
    picture = rng.uniform(0.2, 0.8, (1, 3, 16, 16))
    own = np.cumsum(rng.normal(0, 0.03, (40, 3, 16, 16)), axis=0)
    reference = picture + own - own.mean(axis=0)
    noise = 10 ** (-noise_db / 20) * np.sqrt(np.square(reference).mean()) * rng.normal(0, 1, reference.shape)
    return reference, reference + noise


def swap(candidate: Floats) -> None:
    candidate[[12, 13]] = candidate[[13, 12]]


def average(candidate: Floats) -> None:
    candidate[12] = candidate.mean(axis=0)


def late(candidate: Floats) -> None:
    candidate[20] = candidate[16]


def int8(reference: Floats, candidate: Floats) -> ParityCheck | None:
    return compare_outputs({"y": reference}, {"y": candidate}, precision="int8", task=None).failed_check


@pytest.mark.parametrize("fault", [average, late])
def test_a_frame_that_says_nothing_of_its_own_is_told_although_it_shares_most_of_the_picture(
    fault: Callable[[Floats], None],
) -> None:
    reference, candidate = frames(38.0)
    assert int8(reference, candidate) is None
    fault(candidate)
    wrong_db = -10 * np.log10(np.square(candidate - reference).mean(axis=(1, 2, 3)).max() / np.square(reference).mean())
    assert wrong_db > 8
    assert int8(reference, candidate) is ParityCheck.OUTLIER


def test_frames_that_differ_by_less_than_the_noise_may_be_swapped_unseen() -> None:
    reference, candidate = frames(20.0)
    swap(candidate)
    assert int8(reference, candidate) is None


def sure_classes(flipped: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Return nearly sure probabilities of 200 samples, and the same with some close calls decided otherwise."""
    rng = np.random.default_rng(12)
    logits = 14.0 * np.eye(10)[rng.integers(0, 10, 200)] + rng.normal(0, 0.5, (200, 10))
    moved = logits + rng.normal(0, 0.05, logits.shape)
    for place in flipped:
        first = int(logits[place].argmax())
        other = int(logits[place - 1].argmax())
        other = (first + 1) % 10 if other == first else other
        logits[place, other] = logits[place, first] - 0.9
        moved[place, other] = logits[place, first] + 0.9
    reference, candidate = (np.exp(side - side.max(axis=1, keepdims=True)) for side in (logits, moved))
    return reference / reference.sum(axis=1, keepdims=True), candidate / candidate.sum(axis=1, keepdims=True)


def test_a_close_call_decided_as_its_neighbour_was_carries_no_neighbours_output() -> None:
    assert int8(*sure_classes(())) is None
    assert int8(*sure_classes((17, 60))) is None


def test_an_unsure_sample_that_becomes_surer_among_sure_ones_of_its_class_carries_no_neighbours_output() -> None:
    rng = np.random.default_rng(21)
    logits = 12.0 * np.eye(60)[np.repeat(np.arange(60), 4)] + rng.normal(0, 0.5, (240, 60))
    logits[117:120, 29] = logits[117, :29].max() + 5.5
    moved = logits + rng.normal(0, 0.05, logits.shape)
    logits[118, 29] -= 2.0
    reference, candidate = (np.exp(side - side.max(axis=1, keepdims=True)) for side in (logits, moved))
    reference, candidate = (side / side.sum(axis=1, keepdims=True) for side in (reference, candidate))
    assert int8(reference, candidate) is None
    candidate[121] = reference[120]
    candidate[120] = reference[119]
    assert int8(reference, candidate) is ParityCheck.REPEAT


def test_a_vector_that_is_its_neighbours_is_told_as_a_repeat() -> None:
    rng = np.random.default_rng(13)
    reference = rng.normal(0, 1, (100, 12))
    candidate = reference + rng.normal(0, 0.01, reference.shape)
    candidate[40] = reference[41]
    assert int8(reference, candidate) is ParityCheck.REPEAT


def test_six_bits_of_a_float_are_too_few_levels_and_of_an_int8_are_not() -> None:
    reference = np.random.default_rng(14).uniform(-1, 1, (64, 16))
    coarse = np.round(reference * 15) / 15
    checks = {
        claim: compare_outputs({"y": reference}, {"y": coarse}, precision=claim, task=None).failed_check
        for claim in ("fp16", "int8")
    }
    assert checks == {"fp16": ParityCheck.RESOLUTION, "int8": None}


def test_one_value_in_eighteen_clipped_at_a_limit_is_told() -> None:
    rng = np.random.default_rng(15)
    reference = rng.normal(0, 1, (160, 1))
    candidate = reference + rng.normal(0, 0.002, reference.shape)
    limit = float(np.sort(candidate[:, 0])[-9])
    assert int8(reference, np.minimum(candidate, limit)) is ParityCheck.SATURATION
    few = float(np.sort(candidate[:, 0])[-4])
    assert int8(reference, np.minimum(candidate, few)) is None


def test_coordinates_that_lost_what_samples_differ_in_are_told_by_size_alone() -> None:
    rng = np.random.default_rng(16)
    reference = 14.0 + rng.normal(0, 2.5, (80, 4))
    noise = rng.normal(0, 1, reference.shape)
    assert int8(reference, reference + 0.4 * noise) is None
    assert int8(reference, reference + 1.8 * noise) is ParityCheck.SQNR


def test_the_noise_of_an_int8_on_samples_that_hardly_differ_is_no_fault() -> None:
    rng = np.random.default_rng(17)
    reference = rng.normal(0, 1, (1, 300)) + 0.01 * rng.normal(0, 1, (40, 300))
    assert int8(reference, reference + 0.03 * rng.normal(0, 1, reference.shape)) is None
