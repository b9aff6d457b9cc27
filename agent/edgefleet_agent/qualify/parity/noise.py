"""The size of the error: figures per sample, the claim's tolerance, samples that stand out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefleet_agent.qualify.parity.claim import Claim
from edgefleet_agent.qualify.parity.tensor import (
    MAD_TO_SIGMA,
    Array,
    Finding,
    Flags,
    Floats,
    Pair,
    critical_sigmas,
    energy_ratio_db,
    flat,
    sample_energies,
    single_signal,
)
from edgefleet_contract.evidence import ParityCheck

_OUTLIER_MIN_SIGMA_DB = 2.0
_OUTLIER_MAX_SIGMAS = 8.0
_FLOOR_QUANTA = 2.0
_MIN_OUTLIER_N = 4
_STRAY_EXCESS = 100.0
_STRAY_SHRUNK = 0.2
"""Error energy over the sample's own; a clipped sample that keeps 65 % of its deviation has 0.12."""
_STRAY_GROWN = 0.05
_STRAY_TYPICAL = 0.05
_STRAY_LOST = 0.5
_STRAY_EXCESS_LOST = 40.0
"""Error energies of honest samples spread by 5 dB at most (238 int8, int4 and bf16 artifacts of 26 models), and none
that lost more than a seventh of what it says lay further than 10 dB above the median."""
_MIN_VARIATION_N = 16
_MIN_VARIATION_CLAIM_DB = 12.0
"""Four bits of weights leave honest artifacts at 6 dB of what varies; eight leave 14 dB or more (24 models)."""
_VARIATION_SHARE = 0.25
_VARIATION_LOST = 0.25
_SINGLE_MEDIAN_DB = 3.4
"""Mean over median of a squared normal variable, 1 / 0.455, in dB."""
_MIN_MEDIAN_N = 5
_CHANCE_SIGMAS = 3.0
_MEDIAN_ERROR = 1.2533
_FAR_BELOW_DB = 6.0


_ALONE = 16.0
"""Energy ratio (12 dB) to the largest error among the others."""
_ALONE_SHARE = 0.05
"""More samples than this are a kind of their own, not strays."""


@dataclass(frozen=True)
class Figures:
    """SQNR of every sample in dB, and which errors are below what the claim's step can show."""

    sqnr_db: Floats
    below_floor: Flags
    floored_db: Floats
    """SQNR with every error raised to one quantisation step: how widely samples differ beyond what the claim shows."""
    total_db: float
    """SQNR of all samples together, less the worst one: a single sample is an outlier, not the noise."""
    error: Floats
    """Mean square error of every sample."""

    @property
    def judged_db(self) -> Floats:
        """Return SQNR with errors below the floor counted as none: quiet samples owe nothing."""
        result: Floats = np.where(self.below_floor, np.inf, self.sqnr_db)
        return result


def figures(reference: Array, candidate: Array, quantum: float) -> Figures:
    """Return figures of every sample; `quantum` is the claim's step in the output's unit."""
    signal, error = sample_energies(reference, candidate)
    if reference.size == len(reference):
        signal = single_signal(reference)
    return Figures(
        sqnr_db=energy_ratio_db(signal, error),
        below_floor=error <= (_FLOOR_QUANTA * quantum) ** 2,
        floored_db=energy_ratio_db(signal, np.maximum(error, quantum**2)),
        total_db=_total_db(signal, error, quantum),
        error=error,
    )


def _total_db(signal: Floats, error: Floats, quantum: float) -> float:
    kept = np.sort(error)[: max(1, len(error) - 1)]
    mean = float(kept.mean()) if kept.size else 0.0
    if mean <= (_FLOOR_QUANTA * quantum) ** 2:
        return float("inf")
    return float(energy_ratio_db(np.asarray(signal.mean()), np.asarray(mean)))


def check_sqnr(found: Figures, claim: Claim, tolerance_db: float, *, single: bool) -> Finding | None:
    """Find a median sample below the tolerance, or (where the claim's noise has no long tail) any bad sample.

    A tolerance narrowed by an honest run or by the user also counts errors below what the claim promises to show.
    One that the user stated is compared with the recorded median as it stands; the claim's own has a margin for chance.
    With a `single` element a sample, its square is less than the mean square in most samples, and is corrected for.
    A tail wider than the claim's is judged here; one sample alone is an outlier.
    """
    narrowed = claim.tightened or tolerance_db > claim.median_db
    judged = found.sqnr_db if narrowed else found.judged_db
    judged = judged - (_SINGLE_MEDIAN_DB if single and not claim.asked else 0.0)
    median_db, bad_n = float(np.median(judged)), int((found.judged_db < claim.worst_db).sum())
    if median_db < tolerance_db if claim.asked else _surely_below(judged, tolerance_db):
        return Finding(
            ParityCheck.SQNR, f"the median sample has {median_db:.1f} dB; the tolerance is {tolerance_db:.1f} dB"
        )
    if len(judged) >= _MIN_MEDIAN_N and found.total_db < claim.total_db:
        words = f"all samples together have {found.total_db:.1f} dB; the claim allows {claim.total_db:.1f} dB"
        return Finding(ParityCheck.SQNR, words)
    if not claim.calibrated and bad_n > max(1, len(judged) // 100):
        return Finding(ParityCheck.SQNR, f"{bad_n} samples are below {claim.worst_db:.1f} dB")
    return None


def check_variation(pair: Pair) -> Finding | None:
    """Find an error half as large as what samples differ from one another: the output says little of its sample.

    What all samples share is no signal: coordinates of 14 ± 3 pixels that are 3 pixels off keep 13 dB of their size.
    Where samples hardly differ, and in maps (frames of one scene), the shared part is asked for too: not judged.
    """
    if pair.reference.ndim != 2 or pair.n < _MIN_VARIATION_N or pair.claim.median_db < _MIN_VARIATION_CLAIM_DB:
        return None
    own = float(np.square(flat(pair.reference) - flat(pair.reference).mean(axis=0)).mean())
    if own < _VARIATION_SHARE * float(pair.reference.var()):
        return None
    error = float(np.median(np.square(flat(pair.error)).mean(axis=1)))
    if error <= max(_VARIATION_LOST * own, pair.quantum**2):
        return None
    lost = 100.0 * float(np.sqrt(error / own))
    return Finding(
        ParityCheck.SQNR, f"the median sample is off by {lost:.0f} % of what samples differ from one another"
    )


def _surely_below(judged: Floats, tolerance_db: float) -> bool:
    """Tell whether the median lies below the tolerance by more than chance, or by 6 dB.

    Chance is 3 standard errors of a median, 1.2533 / sqrt(n) of the deviation, which the MAD tells.
    """
    levels = np.clip(judged, -60.0, 200.0)
    median_db = float(np.median(levels))
    sigma_db = MAD_TO_SIGMA * float(np.median(np.abs(levels - median_db)))
    chance_db = _CHANCE_SIGMAS * _MEDIAN_ERROR * sigma_db / np.sqrt(len(levels))
    margin_db = min(chance_db, _FAR_BELOW_DB) if len(levels) >= _MIN_MEDIAN_N else _FAR_BELOW_DB
    return median_db < tolerance_db - margin_db


def check_stray(pair: Pair, odds_moved: Floats | None = None) -> Finding | None:
    """Find samples whose error is 20 dB above the others' and no clipping: most of what the sample says is wrong.

    What a sample says is how it deviates from the mean sample, place by place: neighbouring frames share most of their
    picture, so a late one keeps 19 dB of the whole and nothing of its own. Calibrated ranges clip the largest values,
    and honest artifacts then lose up to 35 % of what a rare sample deviates (error energy 25 dB above the median
    sample's). They never add to it. Where more than half is lost, 16 dB are enough.

    Args:
        pair: both sides.
        odds_moved: for probabilities, how far the log odds of each sample moved at most.
    """
    if pair.n < _MIN_OUTLIER_N:
        return None
    mean = flat(pair.reference).mean(axis=0)
    own, given = flat(pair.reference) - mean, flat(pair.candidate) - mean
    signal, error = np.square(own).mean(axis=1), np.square(flat(pair.error)).mean(axis=1)
    few = float(critical_sigmas(pair.n) / critical_sigmas(np.inf)) ** 2
    excess = error / (few * max(float(np.median(error)), pair.quantum**2, np.finfo(np.float64).tiny))
    grown = (own * given).sum(axis=1) > np.square(own).sum(axis=1)
    wrong = (error > np.where(grown, _STRAY_GROWN, _STRAY_SHRUNK) * signal) & (excess > _STRAY_EXCESS)
    wrong |= (error > _STRAY_LOST * signal) & (excess > _STRAY_EXCESS_LOST)
    wrong &= error > _STRAY_TYPICAL * float(np.median(signal))
    places = np.flatnonzero(wrong & (True if odds_moved is None else odds_moved > pair.claim.odds_moved))
    if not places.size:
        return None
    worst = int(places[np.argmax(error[places])])
    lost = 100.0 * float(np.sqrt(error[worst] / np.median(signal)))
    reason = f"{places.size} samples stand out, the worst is {worst}: off by {lost:.0f} % of what a sample varies"
    return Finding(ParityCheck.OUTLIER, reason)


def check_outlier(found: Figures, claim: Claim, odds_moved: Floats | None = None) -> Finding | None:
    """Find samples far worse than the others.

    Args:
        found: SQNR of every sample.
        claim: what the precision may cost.
        odds_moved: for probabilities, how far the log odds of each sample moved at most: where most samples have no
            error at all, that tells a close call from a wrong answer.
    """
    judged = found.judged_db
    low = judged < claim.worst_db
    if not claim.calibrated:
        low |= _alone(found) & (True if odds_moved is None else odds_moved > claim.odds_moved)
    if not low.any() or (claim.calibrated and len(judged) < _MIN_OUTLIER_N):
        return None
    if claim.calibrated:
        low &= judged < _expected_low_db(found.floored_db)
        low &= True if odds_moved is None else odds_moved > claim.odds_moved
    places = np.flatnonzero(low)
    if not places.size:
        return None
    worst = int(places[np.argmin(judged[places])])
    reason = f"{places.size} samples stand out, the worst is {worst} with {_words(float(judged[worst]))}"
    return Finding(ParityCheck.OUTLIER, f"{reason}; the median sample has {_words(float(np.median(found.sqnr_db)))}")


def _alone(found: Figures) -> Flags:
    """Tell the few samples that are far below the others' spread and whose error exceeds every other's by 12 dB.

    Both together: a quiet sample has a low SQNR and a small error, a loud one a large error and the others' SQNR.
    """
    low: Flags = found.judged_db < _expected_low_db(found.floored_db)
    if not 0 < np.count_nonzero(low) <= _ALONE_SHARE * len(low) or len(low) < _MIN_OUTLIER_N:
        return np.zeros_like(low)
    return low & (found.error > _ALONE * float(found.error[~low].max(initial=0.0)))


def _expected_low_db(sqnr_db: Floats) -> float:
    """Return how low the worst healthy sample may be, from the spread of the others in dB."""
    finite = np.clip(sqnr_db, -60.0, 200.0)
    median_db = float(np.median(finite))
    below = median_db - finite[finite < median_db]
    sigma_db = MAD_TO_SIGMA * float(np.median(below)) if below.size else 0.0
    sigmas = min(float(critical_sigmas(len(sqnr_db))), _OUTLIER_MAX_SIGMAS)
    return median_db - sigmas * max(sigma_db, _OUTLIER_MIN_SIGMA_DB)


def odds_moved(pair: Pair) -> Floats | None:
    """Return how far each sample's log odds moved at most; None where the reference holds no probabilities.

    Probabilities are held a quantisation step away from 0 and 1, where rounding would decide.
    """
    if not pair.is_probability:
        return None
    step = max(pair.claim.quantum, 2.0**-10)
    reference, candidate = (np.clip(flat(side), 0.0, 1.0) for side in (pair.reference, pair.candidate))
    moved: Floats = np.abs(
        np.log((candidate + step) / (1.0 - candidate + step)) - np.log((reference + step) / (1.0 - reference + step))
    ).max(axis=1)
    return moved


def _words(sqnr_db: float) -> str:
    return f"{sqnr_db:.1f} dB" if np.isfinite(sqnr_db) else ("no error beyond rounding" if sqnr_db > 0 else "no signal")
