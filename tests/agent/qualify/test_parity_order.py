"""Right values at the wrong place, and what only looks like it."""

from __future__ import annotations

import numpy as np

from edgefleet_agent.qualify.parity.compare import compare_outputs
from edgefleet_contract.evidence import ParityCheck, Task


def look_alikes() -> np.ndarray:
    """Samples of [frames, channels] whose channels nearly agree, as harmonics of a note do, but in the first sample."""
    generator = np.random.default_rng(4)
    base = generator.normal(size=(12, 60, 1))
    own = generator.normal(scale=0.02, size=(12, 60, 24))
    own[0] *= 20
    return (base + own).astype(np.float32)


def failed_check(reference: np.ndarray, candidate: np.ndarray) -> ParityCheck | None:
    result = compare_outputs({"y": reference}, {"y": candidate}, precision="fp16", task=Task.REGRESSION)
    return result.failed_check


def noisy(reference: np.ndarray) -> np.ndarray:
    return reference + np.random.default_rng(5).normal(scale=1e-3, size=reference.shape).astype(np.float32)


def test_one_noisy_sample_does_not_make_a_look_alike_channel_a_swap() -> None:
    reference = look_alikes()
    candidate = noisy(reference)
    candidate[0, :, 8] = reference[0, :, 9]
    assert failed_check(reference, candidate) is not ParityCheck.SHIFT


def test_look_alike_channels_that_are_swapped_in_every_sample_are_named() -> None:
    reference = look_alikes()
    candidate = noisy(reference)
    candidate[..., [8, 9]] = candidate[..., [9, 8]]
    assert failed_check(reference, candidate) is ParityCheck.SHIFT
