"""Decisions between probabilities: noise is alike in log odds, and far larger near 0.5 than near 1."""

from __future__ import annotations

import numpy as np
import pytest

from edgefleet_agent.qualify.parity.compare import compare_outputs
from edgefleet_agent.qualify.parity.tensor import Floats
from edgefleet_contract.evidence import ParityCheck, ParityVerdict, Task


def frames(seed: int, noise: float) -> tuple[Floats, Floats]:
    """Return 400 frames of speech or none, sure but for steep transitions, and the same with noise on the logits."""
    rng = np.random.default_rng(seed)
    states = np.resize(np.repeat(rng.integers(0, 2, 60) * 2.0 - 1.0, rng.integers(4, 14, 60)), 400)
    logits = np.convolve(states * 7.0, [0.5, 0.5], "same") + rng.normal(0, 0.8, 400)
    noisy = logits + rng.normal(0, noise, 400)
    return 1.0 / (1.0 + np.exp(-logits)), 1.0 / (1.0 + np.exp(-noisy))


def both(scores: Floats, *, classes_n: int) -> dict[str, Floats]:
    columns = [1.0 - scores, scores] if classes_n == 2 else [scores]
    return {"p": np.stack(columns, axis=1).astype(np.float32)}


@pytest.mark.parametrize("classes_n", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_decisions_that_flip_at_transitions_by_the_noise_of_the_logits_are_no_fault(seed: int, classes_n: int) -> None:
    reference, candidate = (both(side, classes_n=classes_n) for side in frames(seed, 0.5))
    result = compare_outputs(reference, candidate, precision="int8", task=Task.CLASSIFICATION)
    assert result.verdict is ParityVerdict.PASS, result.reason


@pytest.mark.parametrize("classes_n", [1, 2])
def test_sure_frames_that_flip_are_told_beside_the_noise_of_transitions(classes_n: int) -> None:
    reference, candidate = frames(0, 0.25)
    sure = np.flatnonzero(reference > 0.99)[::20][:6]
    candidate[sure] = 0.4
    result = compare_outputs(
        both(reference, classes_n=classes_n),
        both(candidate, classes_n=classes_n),
        precision="int8",
        task=Task.CLASSIFICATION,
    )
    assert result.failed_check in {ParityCheck.DECISIONS, ParityCheck.OUTLIER}
