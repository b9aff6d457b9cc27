"""Peaks of a detector: each check alone, since gain and size of error often speak first."""

from __future__ import annotations

import numpy as np
import pytest

from edgefleet_agent.qualify.parity.claim import CLAIMS
from edgefleet_agent.qualify.parity.peak import check_band_peak, check_top_k
from edgefleet_agent.qualify.parity.tensor import Floats, Pair, pair_of
from edgefleet_contract.evidence import ParityCheck, Task


def heads() -> Floats:
    """Return [16 images, 200 anchors, 4 box values in pixels and 16 scores]."""
    rng = np.random.default_rng(3)
    return np.concatenate([rng.uniform(0, 640, (16, 200, 4)), rng.beta(0.3, 6, (16, 200, 16))], axis=2)


def pair(candidate: Floats, task: Task | None) -> Pair:
    return pair_of("out", heads(), candidate, CLAIMS["int8"], task)


@pytest.mark.parametrize("task", [Task.DETECTION, None])
def test_bands_of_scores_without_a_peak_are_found_beside_boxes_of_hundreds_of_pixels(task: Task | None) -> None:
    candidate = heads()
    candidate[..., 8:] *= 0.01
    found = check_band_peak(pair(candidate, task))
    assert found is not None
    assert found.check is ParityCheck.BAND_PEAK
    assert "channel 8" in found.reason


def test_a_single_dead_class_among_a_detectors_bands_is_found_when_the_task_is_known() -> None:
    candidate = heads()
    candidate[..., 9] *= 0.01
    assert check_band_peak(pair(candidate, Task.DETECTION)) is not None
    assert check_band_peak(pair(candidate, None)) is None


def test_kept_peaks_pass_both_checks() -> None:
    candidate = heads() * 0.9
    assert check_band_peak(pair(candidate, Task.DETECTION)) is None
    assert check_top_k(pair(candidate, Task.DETECTION)) is None


def test_a_channel_that_lost_its_highest_values_is_found() -> None:
    reference = heads()[..., 4:]
    candidate = reference.copy()
    column = candidate[..., 2]
    column[column > np.sort(column.ravel())[-20]] = 0.0
    found = check_top_k(pair_of("out", reference, candidate, CLAIMS["int8"], Task.DETECTION))
    assert found is not None
    assert found.check is ParityCheck.TOP_K
    assert "channel 2" in found.reason


def test_tops_that_fall_by_the_noise_of_high_values_are_kept_and_dead_ones_beside_them_are_found() -> None:
    rng = np.random.default_rng(4)
    reference = rng.normal(0, 0.5, (30, 40, 32))
    reference[:, :4] += 4.0
    noise = rng.normal(0, 0.2, reference.shape)
    noise[:, :4] += rng.normal(0, 1.0, (30, 4, 32))
    tops = np.argsort(reference[:, :, 5].ravel())[-5:]
    candidate = reference + noise
    column = candidate[:, :, 5].ravel()
    column[tops] = reference[:, :, 5].ravel()[tops] - 3.3
    candidate[:, :, 5] = column.reshape(30, 40)
    assert check_top_k(pair_of("out", reference, candidate, CLAIMS["int8"], None)) is None
    column[tops] = 0.0
    candidate[:, :, 5] = column.reshape(30, 40)
    found = check_top_k(pair_of("out", reference, candidate, CLAIMS["int8"], None))
    assert found is not None
    assert "axis 2: channel 5" in found.reason
