"""What two files of outputs show of the precision behind them, where nobody says what the candidate claims.

Nearly all samples of an honest artifact carry the error of its precision, and a fault of a few samples does not move
what the others show. So the claim follows from the error that 17 samples of 20 stay below: what is as close as
another fp32 run is held to an fp32 run's tolerance, and a handful of samples at 25 dB stands out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgefleet_agent.qualify.parity_tensor import Array, Flags, energy_ratio_db, sample_energies
from edgefleet_contract.job import ClaimedPrecision

_LEVELS_DB: Mapping[ClaimedPrecision, float] = {"fp32": 85.0, "fp16": 62.0}
"""fp32 runs of other kernels keep 100 dB and more (half precision at most 77, by its 11 bits); fp16 keeps 62 or more
in nine models of ten, and no 8-bit tensor does: 8 bits leave 59 dB of full scale."""
LOOSEST: ClaimedPrecision = "int8"
"""What closeness does not tell is held to the loosest usual claim; structure in the error fails under any."""
_SHARE = 0.15
_MIN_SAMPLES_N = 4
_DECIDED = 1e-3
"""Probabilities nearer than this to 0 or 1 are alike at any precision and tell nothing."""
_NEAR_ONE = 0.3


def shown_precision(
    reference: Mapping[str, Array], candidate: Mapping[str, Array]
) -> tuple[ClaimedPrecision, float | None]:
    """Return (precision, dB that 17 samples of 20 keep in the worst output); None where nothing tells.

    Precision is fp32, fp16, or int8, the loosest usual claim, for everything else. First axis = sample.
    """
    levels = [
        level
        for name in reference.keys() & candidate.keys()
        if (level := _level_db(np.atleast_1d(reference[name]), np.atleast_1d(candidate[name]))) is not None
    ]
    if not levels:
        return LOOSEST, None
    shown_db = min(levels)
    return next((name for name, least_db in _LEVELS_DB.items() if shown_db >= least_db), LOOSEST), shown_db


def _level_db(reference: Array, candidate: Array) -> float | None:
    """Return the SQNR in dB that 17 samples of 20 keep; None where the output tells nothing."""
    if (
        reference.shape != candidate.shape
        or not reference.size
        or {reference.dtype.kind, candidate.dtype.kind} != {"f"}
    ):
        return None
    samples = _telling(reference)
    if samples.sum() < _MIN_SAMPLES_N:
        return None
    signal, error = sample_energies(reference[samples], candidate[samples])
    if reference.size == len(reference):
        signal = np.full_like(signal, signal.mean())
    levels = np.sort(energy_ratio_db(signal, error))
    return float(levels[int(np.ceil(_SHARE * len(levels)))])


def _telling(reference: Array) -> Flags:
    """Tell which samples show their precision: all, but probabilities that are not already decided."""
    rows = reference.reshape(len(reference), -1).astype(np.float64)
    low, high = float(np.nanmin(rows, initial=0.0)), float(np.nanmax(rows, initial=0.0))
    if low < 0.0 or not _NEAR_ONE <= high <= 1.0 + 1e-6:
        return np.ones(len(rows), dtype=np.bool_)
    return np.asarray(((rows > _DECIDED) & (rows < 1.0 - _DECIDED)).any(axis=1))
