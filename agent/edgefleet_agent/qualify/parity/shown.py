"""What two files of outputs show of the precision behind them, where nobody says what the candidate claims.

Nearly all samples of an honest artifact carry the error of its precision, and a fault of a few samples does not move
what the others show. So the claim follows from the error that 17 samples of 20 stay below: what is as close as
another fp32 run is held to an fp32 run's tolerance, and a handful of samples at 25 dB stands out.

The noise tells a precision, not a fault: a gain and an offset that all samples share are taken out before.
Probabilities near 0 and 1 hide the noise of what they were made of, so where some lie between, their log odds tell too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgefleet_agent.qualify.parity.claim import CLAIMS
from edgefleet_agent.qualify.parity.tensor import Array, Flags, Floats, energy_ratio_db, sample_energies
from edgefleet_contract.artifact import ClaimedPrecision
from edgefleet_contract.evidence import ParityCheck

_LEVELS_DB: Mapping[ClaimedPrecision, float] = {"fp32": 85.0, "fp16": 60.0}
"""fp32 runs of other kernels keep 100 dB and more (half precision at most 77, by its 11 bits); fp16 keeps 60 or more
in nine models of ten, and no 8-bit tensor does: 8 bits leave 59 dB of full scale."""
LOOSEST: ClaimedPrecision = "int8"
"""What closeness does not tell is held to the loosest usual claim; structure in the error fails under any."""
_FOUR_BITS_DB = 26.0
"""6.02 dB a bit and 1.76: what four bits leave of full scale."""
_LEVELS_N = 256
_LEVELS_MIN_N = 512
_FIT_MIN_N = 32
_BETWEEN = 0.02
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
        for level in _levels_db(np.atleast_1d(reference[name]), np.atleast_1d(candidate[name]))
    ]
    if not levels:
        return LOOSEST, None
    shown_db = min(levels)
    return next((name for name, least_db in _LEVELS_DB.items() if shown_db >= least_db), LOOSEST), shown_db


def may_be_int4(
    shown_db: float | None, failed: ParityCheck | None, reference: Mapping[str, Array], candidate: Mapping[str, Array]
) -> bool:
    """Tell whether what failed as int8 may be an honest int4: noise above what four bits leave, which leans more.

    A close call's probability also moves further; other outputs that stand out do so under any claim. Weights alone
    are of four bits, so values on the levels of a quantised output are an int8's.
    """
    if shown_db is None or shown_db >= _FOUR_BITS_DB or any(_has_levels(side) for side in candidate.values()):
        return False
    leans = failed in {ParityCheck.GAIN, ParityCheck.OFFSET}
    return leans or (failed is ParityCheck.OUTLIER and all(_is_probability(_rows(side)) for side in reference.values()))


def _has_levels(array: Array) -> bool:
    return array.size >= _LEVELS_MIN_N and len(np.unique(array)) <= _LEVELS_N


def _levels_db(reference: Array, candidate: Array) -> Iterator[float]:
    """Yield the SQNR in dB that 17 samples of 20 keep, by value and by log odds; nothing where nothing tells."""
    if (
        reference.shape != candidate.shape
        or not reference.size
        or {reference.dtype.kind, candidate.dtype.kind} != {"f"}
    ):
        return
    samples = _telling(reference)
    if samples.sum() < _MIN_SAMPLES_N:
        return
    left, right = _straightened(*(_rows(side)[samples] for side in (reference, candidate)))
    signal, error = sample_energies(left, right)
    if reference.size == len(reference):
        signal = np.full_like(signal, signal.mean())
    yield _kept_db(energy_ratio_db(signal, error))
    if _is_probability(left):
        yield from _odds_levels_db(left, right)


def _rows(array: Array) -> Floats:
    return array.reshape(len(array), -1).astype(np.float64)


def _kept_db(levels_db: Floats) -> float:
    return float(np.sort(levels_db)[int(np.ceil(_SHARE * len(levels_db)))])


def straightened(reference: Mapping[str, Array], candidate: Mapping[str, Array]) -> dict[str, Array]:
    """Return the candidate's outputs without the gain and offset of the whole, where they are as small as an int4's."""
    straight: dict[str, Array] = {}
    for name, given in candidate.items():
        left, right = _rows(np.atleast_1d(reference[name])), _rows(np.atleast_1d(given))
        gain, _ = _lean(left, right)
        small = abs(gain - 1.0) <= CLAIMS["int4"].gain
        straight[name] = _straightened(left, right)[1].reshape(given.shape).astype(given.dtype) if small else given
    return straight


def _straightened(reference: Floats, candidate: Floats) -> tuple[Floats, Floats]:
    """Return both sides, the candidate without the gain and offset that its better half of samples share."""
    gain, offset = _lean(reference, candidate)
    straight = (candidate - offset) / gain
    # Rounding of the fit itself must not tell: what was exact stays so.
    nearer = np.square(straight - reference).sum() < np.square(candidate - reference).sum()
    return reference, straight if nearer else candidate


def _lean(reference: Floats, candidate: Floats) -> tuple[float, float]:
    """Return (gain, offset) with candidate = gain · reference + offset, by least squares over the better half."""
    error = np.square(candidate - reference).mean(axis=1)
    better = error <= np.median(error)
    left, right = reference[better].ravel(), candidate[better].ravel()
    if left.size < _FIT_MIN_N or not np.isfinite(right).all() or not np.isfinite(left).all() or np.ptp(left) == 0.0:
        return 1.0, 0.0
    gain = float(np.dot(left - left.mean(), right - right.mean()) / np.square(left - left.mean()).sum())
    return (gain, float(right.mean() - gain * left.mean())) if gain != 0.0 else (1.0, 0.0)


def _odds_levels_db(reference: Floats, candidate: Floats) -> Iterator[float]:
    """Yield the same of log odds, among probabilities that are neither near 0 nor near 1."""
    between = (reference > _BETWEEN) & (reference < 1.0 - _BETWEEN)
    samples = between.any(axis=1)
    if samples.sum() < _MIN_SAMPLES_N:
        return
    left, right = _log_odds(reference[samples]), _log_odds(candidate[samples])
    weights = between[samples]
    error = (np.square(right - left) * weights).sum(axis=1) / weights.sum(axis=1)
    yield _kept_db(energy_ratio_db(np.full_like(error, np.square(_log_odds(reference)).mean()), error))


def _log_odds(probabilities: Floats) -> Floats:
    held = np.clip(probabilities, _BETWEEN / 2.0, 1.0 - _BETWEEN / 2.0)
    odds: Floats = np.log(held / (1.0 - held))
    return odds


def _is_probability(rows: Floats) -> bool:
    low, high = float(np.nanmin(rows, initial=0.0)), float(np.nanmax(rows, initial=0.0))
    return low >= 0.0 and _NEAR_ONE <= high <= 1.0 + 1e-6


def _telling(reference: Array) -> Flags:
    """Tell which samples show their precision: all, but probabilities that are not already decided."""
    rows = _rows(reference)
    if not _is_probability(rows):
        return np.ones(len(rows), dtype=np.bool_)
    return np.asarray(((rows > _DECIDED) & (rows < 1.0 - _DECIDED)).any(axis=1))
