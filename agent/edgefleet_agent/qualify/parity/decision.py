"""What is decided from the outputs, by task, and how much of it stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgefleet_agent.qualify.parity.claim import Claim
from edgefleet_agent.qualify.parity.tensor import MAD_TO_SIGMA, Array, Finding, Floats, Pair, critical_sigmas
from edgefleet_contract.evidence import ParityCheck, Task

_MARGIN_SIGMAS = 6.0
"""A changed decision counts where the reference's margin exceeds this many deviations of the margins' own noise; the
largest seen in a healthy int8 classifier of 1,000 digits was 4.5."""
_SURPRISES_SHARE = 0.005
_CLEAR_SHARE = 0.1
"""A decision is clear where its margin is at least this share of the sample's range."""
_CHANCE_SIGMAS = 3.0
_MAX_CLASSES_N = 100_000
_MAX_NEIGHBOURS_N = 2048
_EXACT_QUANTUM = 1e-5
_TELLING_MIN_N = 8


@dataclass(frozen=True)
class Odds:
    """Margins of probabilities in log odds."""

    lost_margin: Floats
    noise: float
    """Deviation of one margin where it is not already decided."""


@dataclass(frozen=True)
class Decisions:
    """Decisions of both sides; every array has one element a decision."""

    reference: NDArray[np.intp]
    candidate: NDArray[np.intp]
    lost_margin: Floats
    """How far the reference preferred its choice over the candidate's; 0 where they agree."""
    margin_noise: float
    clear: NDArray[np.bool_]
    quantum: float
    """The claim's step in the unit of the margins."""
    odds: Odds | None = None
    """The same for probabilities as log odds, in which their noise is alike: near 0.5 it is far larger than near 1."""

    @property
    def agreement(self) -> float:
        """Return the share of equal decisions."""
        return float((self.reference == self.candidate).mean())


def infer_task(outputs: Mapping[str, Array]) -> Task | None:
    """Return classification where the only output is [samples, 2 … 100,000] floats; anything else is not guessed."""
    if len(outputs) != 1:
        return None
    (only,) = outputs.values()
    looks_classified = only.ndim == 2 and only.dtype.kind == "f" and 2 <= only.shape[1] <= _MAX_CLASSES_N
    return Task.CLASSIFICATION if looks_classified else None


def decide(pair: Pair, task: Task | None) -> Decisions | None:
    """Return the decisions of a task on one output, None where the task or the shape has none."""
    if task is Task.EMBEDDING:
        return _neighbours(pair)
    if task is Task.DETECTION:
        return _detections(pair)
    rows = _decision_rows(pair, task)
    return None if rows is None or rows[0].size == 0 else _choices(*rows, pair)


def _decision_rows(pair: Pair, task: Task | None) -> tuple[Floats, Floats] | None:
    """Return both sides as [decisions, classes], or None."""
    shape = pair.reference.shape
    if task is Task.CLASSIFICATION:
        axis = 1 if len(shape) == 2 or (len(shape) > 2 and pair.reference.size == shape[0] * shape[1]) else None
    elif task is Task.SEGMENTATION:
        axis = None if len(shape) < 3 else (1 if shape[1] < shape[-1] else len(shape) - 1)
    elif task is Task.SEQUENCE:
        axis = len(shape) - 1 if len(shape) > 1 else None
    else:
        axis = None
    if axis is None:
        return None
    reference, candidate = (
        np.moveaxis(side, axis, -1).reshape(-1, shape[axis]) for side in (pair.reference, pair.candidate)
    )
    return (reference, candidate) if shape[axis] > 1 else _binary(reference, candidate)


def _binary(reference: Floats, candidate: Floats) -> tuple[Floats, Floats]:
    """Return one score as two classes: above or not above 0.5 for probabilities, 0 for others."""
    threshold = 0.5 if reference.min(initial=0.0) >= 0.0 and reference.max(initial=1.0) <= 1.0 else 0.0
    # Beside a probability stands the other one's: the margin is the same, and both have odds.
    whole = 2.0 * threshold
    return np.hstack([whole - reference, reference]), np.hstack([whole - candidate, candidate])


def _choices(reference: Floats, candidate: Floats, pair: Pair) -> Decisions:
    index = np.arange(len(reference))
    first, chosen = reference.argmax(axis=1), candidate.argmax(axis=1)
    second = np.argpartition(reference, -2, axis=1)[:, -2:]
    second = np.where(second[:, 0] == first, second[:, 1], second[:, 0])
    margin = reference[index, first] - reference[index, second]
    margin_error = candidate[index, first] - candidate[index, second] - margin
    clear = margin > _CLEAR_SHARE * np.ptp(reference, axis=1)
    quantum = pair.claim.quantum * max(float(np.ptp(reference)), float(np.abs(reference).max()))
    if pair.claim.quantum > _EXACT_QUANTUM:
        clear &= margin > 2.0 * quantum
    lost = reference[index, first] - reference[index, chosen]
    odds = _odds(reference, candidate, (first, second, chosen), pair) if pair.is_probability else None
    return Decisions(first, chosen, lost, _robust_sigma(margin_error), clear, quantum, odds)


def _odds(
    reference: Floats,
    candidate: Floats,
    places: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]],
    pair: Pair,
) -> Odds | None:
    """Return margins as log odds; None for scores beyond [0, 1] such as similarities.

    Args:
        reference: scores as [decisions, classes].
        candidate: the same of the candidate.
        places: (best, second, the candidate's choice) of every decision.
        pair: the output they are of.
    """
    if reference.min() < 0.0 or reference.max() > 1.0 + _EXACT_QUANTUM:
        return None
    first, second, chosen = places
    index, step = np.arange(len(reference)), max(pair.claim.quantum, 2.0**-10)
    left, right = _log_odds(reference, step), _log_odds(candidate, step)
    margin = left[index, first] - left[index, second]
    telling = np.minimum(reference[index, second], 1.0 - reference[index, first]) > 2.0 * step
    error = (right[index, first] - right[index, second] - margin)[telling]
    few = pair.claim.odds_moved / _MARGIN_SIGMAS if pair.claim.calibrated else 0.0
    noise = _robust_sigma(error) if len(error) >= _TELLING_MIN_N else few
    return Odds(left[index, first] - left[index, chosen], noise)


def _log_odds(scores: Floats, step: float) -> Floats:
    """Return log odds of scores, which are held a step away from 0 and 1, where rounding would decide."""
    held = np.clip(scores, 0.0, 1.0)
    odds: Floats = np.log((held + step) / (1.0 - held + step))
    return odds


def _detections(pair: Pair) -> Decisions | None:
    """Return what is detected where, among the places where either side detects something.

    Scores are the channels within [0, 1] (above 0.5: detected), or the only channel (a logit: above 0). The decision
    of a place is its best class, or none. None where the tensor holds no scores or nothing is detected.
    """
    scores = _scores(pair)
    if scores is None:
        return None
    reference, candidate, threshold = scores
    nothing = np.full((len(reference), 1), threshold)
    left, right = np.hstack([nothing, reference]), np.hstack([nothing, candidate])
    seen = (left.argmax(axis=1) > 0) | (right.argmax(axis=1) > 0)
    return _choices(left[seen], right[seen], pair) if seen.any() else None


def _scores(pair: Pair) -> tuple[Floats, Floats, float] | None:
    """Return both sides' scores as [places, classes] and the threshold, or None."""
    shape = pair.reference.shape
    if len(shape) < 2:
        return None
    axis = 1 if len(shape) == 3 and shape[1] < shape[2] else len(shape) - 1
    reference, candidate = (
        np.moveaxis(side, axis, -1).reshape(-1, shape[axis]) for side in (pair.reference, pair.candidate)
    )
    within = (reference.min(axis=0) >= 0.0) & (reference.max(axis=0) <= 1.0)
    if within.any():
        return reference[:, within], candidate[:, within], 0.5
    return (reference, candidate, 0.0) if shape[axis] == 1 else None


def _robust_sigma(error: Floats) -> float:
    return MAD_TO_SIGMA * float(np.median(np.abs(error)))


def _neighbours(pair: Pair) -> Decisions | None:
    """Return each sample's nearest neighbour by cosine among the others."""
    if pair.reference.ndim != 2 or not 3 <= pair.n <= _MAX_NEIGHBOURS_N:
        return None
    return _choices(_similarity(pair.reference), _similarity(pair.candidate), pair)


def _similarity(vectors: Floats) -> Floats:
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norm > 0.0, norm, 1.0)
    similarity: Floats = unit @ unit.T
    np.fill_diagonal(similarity, -1.0)
    return similarity


def check_decisions(decisions: Decisions, claim: Claim, *, certain: bool) -> Finding | None:
    """Find changed decisions that noise does not explain; with a certain task, also too many changed clear ones."""
    changed = decisions.reference != decisions.candidate
    sigmas = _MARGIN_SIGMAS * float(critical_sigmas(len(changed))) / 5.0
    needed = max(sigmas * decisions.margin_noise, 4.0 * decisions.quantum)
    surprises = changed & (decisions.lost_margin > needed)
    if decisions.odds is not None:
        surprises &= decisions.odds.lost_margin > sigmas * decisions.odds.noise
    surprises_n = int(surprises.sum())
    if surprises_n > max(1, _SURPRISES_SHARE * len(changed)):
        reason = f"{surprises_n} of {len(changed)} decisions changed although their margin exceeds the noise"
        return Finding(ParityCheck.DECISIONS, reason)
    clear_n, lost_n = int(decisions.clear.sum()), int((changed & decisions.clear).sum())
    if certain and lost_n > _allowed_n(clear_n, claim.agreement):
        return Finding(ParityCheck.DECISIONS, f"{lost_n} of {clear_n} clear decisions changed")
    return None


def _allowed_n(count: int, agreement: float) -> float:
    """Return how many of `count` decisions may change before chance no longer explains it."""
    return float(max(1.0, count * (1.0 - agreement) + _CHANCE_SIGMAS * np.sqrt(count * agreement * (1.0 - agreement))))


def check_identities(reference: Array, candidate: Array, claim: Claim) -> tuple[float, Finding | None]:
    """Return (agreement, finding) for outputs that name things: integers, booleans, text. No arithmetic is assumed."""
    equal = reference == candidate
    if reference.dtype.kind in "iu" and reference.size:
        left, right = reference.astype(np.float64), candidate.astype(np.float64)
        equal = np.abs(left - right) <= 2.0 * claim.quantum * float(np.ptp(left))
    agreement = float(np.mean(equal)) if reference.size else 1.0
    lost_n = int(equal.size - np.count_nonzero(equal))
    if lost_n <= _allowed_n(equal.size, claim.agreement):
        return agreement, None
    return agreement, Finding(ParityCheck.DECISIONS, f"{lost_n} of {equal.size} values differ")
