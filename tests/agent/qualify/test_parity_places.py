"""Places of a map that stand still although no channel and no sample does."""

from __future__ import annotations

import numpy as np
import pytest

from edgefleet_agent.qualify.parity.compare import compare_outputs
from edgefleet_agent.qualify.parity.tensor import Floats
from edgefleet_contract.evidence import ParityCheck, ParityVerdict


def maps() -> tuple[Floats, Floats]:
    """Return [24 images, 4 channels, 24 rows, 24 columns] of a ReLU and an int8 run of them."""
    rng = np.random.default_rng(6)
    reference = np.maximum(rng.normal(0.6, 1.0, (24, 4, 24, 24)), 0.0)
    reference[:, :, :3] = 0.0
    step = float(reference.max()) / 255.0
    return reference, np.round(np.maximum(reference + rng.normal(0, 2.0 * step, reference.shape), 0.0) / step) * step


@pytest.mark.parametrize("value", [0.0, 0.6])
def test_a_dead_block_of_every_map_is_found_under_int8(value: float) -> None:
    reference, candidate = maps()
    candidate[..., 8:12, 8:12] = value
    result = compare_outputs({"map": reference}, {"map": candidate}, precision="int8", task=None)
    assert result.failed_check is ParityCheck.CONSTANT
    assert result.reason is not None
    assert "64 of 2304 elements" in result.reason


def test_places_that_the_reference_leaves_at_nothing_may_stand_still() -> None:
    reference, candidate = maps()
    candidate[:, :, :3] = 0.0
    result = compare_outputs({"map": reference}, {"map": candidate}, precision="int8", task=None)
    assert result.verdict is ParityVerdict.PASS, result.reason
