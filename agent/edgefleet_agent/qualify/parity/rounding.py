"""What rounding alone does to a model: the noise model of an fp32 claim, measured on the source itself.

No table tells how far two honest fp32 runs may lie apart: log and normalising front ends amplify rounding, others do
not. So the source is run again with every input moved by one part in 2^23, the last bit of fp32.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgefleet_agent.outputs import Feeder, make_feeder, run_samples
from edgefleet_agent.qualify.parity.claim import NoiseModel, noise_model
from edgefleet_agent.runtimes.base import Array, Session
from edgefleet_agent.samples import Samples
from edgefleet_contract.artifact import InputTransform

MAX_SAMPLES_N = 64
"""Enough for a median."""
ROUNDING_GAP_DB = 22.0
"""Another kernel or fusion rounds in every layer, not only at the input: with the 8 dB of every noise model, 30.
Measured between optimised and unoptimised runs of eight models: at most 15 dB below what moved inputs reach."""
_LAST_BIT = 2.0**-23
_SEED = 20
_LIMIT_S = 3600.0


class _Moved(Feeder):
    """Feeds whose floats are moved by their last bit, up or down."""

    def feeds(self, start: int) -> dict[str, Array]:
        random = np.random.default_rng((_SEED, start))
        return {name: _move(value, random) for name, value in super().feeds(start).items()}


def _move(value: Array, random: np.random.Generator) -> Array:
    if value.dtype != np.float32:
        return value
    signs = random.integers(0, 2, value.shape) * 2 - 1
    moved: Array = (value.astype(np.float64) * (1.0 + _LAST_BIT * signs)).astype(np.float32)
    return moved


def rounding_noise(
    session: Session,
    samples: Samples,
    transforms: Mapping[str, InputTransform],
    outputs: Mapping[str, Array],
    state: Mapping[str, str] | None = None,
) -> NoiseModel | None:
    """Return what SQNR the source keeps when its inputs move by their last bit; None where no input is fp32.

    Args:
        session: the source model.
        samples: the samples it was run on; the first 64 are used.
        transforms: preprocessing by input.
        outputs: what it gave, first axis = sample.
        state: output → input it was fed back into.

    Raises:
        InferenceFailedError: an inference failed.
    """
    feeder = make_feeder(samples, session.inputs, transforms, state)
    if not any(spec.dtype == "float32" for spec in feeder.specs):
        return None
    kept_n = samples.n if samples.n < MAX_SAMPLES_N else MAX_SAMPLES_N - MAX_SAMPLES_N % feeder.batch_n
    if kept_n == 0 or any(len(np.atleast_1d(array)) != samples.n for array in outputs.values()):
        return None
    few = replace(samples, inputs=samples.slice(0, kept_n), labels=None)
    moved = _Moved(few, feeder.specs, feeder.transforms, feeder.batch_n, feeder.whole, feeder.state)
    again = run_samples(session, moved, limit_s=_LIMIT_S, monotonic_s=time.monotonic)
    found = noise_model({name: array[:kept_n] for name, array in outputs.items()}, again)
    return NoiseModel({name: min(db, 120.0) - ROUNDING_GAP_DB for name, db in found.median_sqnr_db.items()})
