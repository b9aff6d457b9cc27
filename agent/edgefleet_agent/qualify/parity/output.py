"""The verdict on one output: form, then structure, then size of the error, then decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from edgefleet_agent.qualify.parity.claim import Claim
from edgefleet_agent.qualify.parity.decision import check_decisions, check_identities, decide
from edgefleet_agent.qualify.parity.drift import check_drift, check_leak
from edgefleet_agent.qualify.parity.form import check_form, has_nan, is_number
from edgefleet_agent.qualify.parity.linear import check_gain, check_offset
from edgefleet_agent.qualify.parity.noise import (
    Figures,
    check_outlier,
    check_sqnr,
    check_stray,
    check_variation,
    figures,
    odds_moved,
)
from edgefleet_agent.qualify.parity.order import check_repeat, check_shift
from edgefleet_agent.qualify.parity.peak import check_band_peak, check_top_k
from edgefleet_agent.qualify.parity.range import check_constant, check_resolution, check_saturation, check_sums
from edgefleet_agent.qualify.parity.tensor import Array, Finding, Pair, largest_error, pair_of
from edgefleet_contract.base import clip_reason
from edgefleet_contract.evidence import OutputParity, Task

STRUCTURE_CHECKS: tuple[Callable[[Pair], Finding | None], ...] = (
    check_constant,
    check_saturation,
    check_resolution,
    check_repeat,
    check_shift,
    check_sums,
    check_leak,
    check_gain,
    check_offset,
    check_band_peak,
    check_drift,
)


@dataclass(frozen=True)
class Question:
    """What is asked of every output."""

    claim: Claim
    task: Task | None
    certain: bool
    """Whether the task was given, not guessed."""


@dataclass(frozen=True)
class OutputVerdict:
    """Figures of one output, the first finding, and why its evidence is weak."""

    parity: OutputParity
    finding: Finding | None = None
    weak: tuple[str, ...] = ()


def judge_output(
    name: str, reference: Array, candidate: Array, question: Question, tolerance_db: float
) -> OutputVerdict:
    """Judge one output; first axis = sample. Arrays of numbers are compared in float64, others for equality."""
    reference, candidate = np.atleast_1d(reference), np.atleast_1d(candidate)
    form = check_form(reference, candidate)
    if form is not None:
        return _verdict(name, len(reference), form)
    if reference.size == 0:
        return _verdict(name, len(reference), None, weak=(f"output {name!r} is empty",))
    if _names_things(reference):
        return _judge_identities(name, reference, candidate, question.claim)
    return _judge_numbers(name, reference, candidate, question, tolerance_db)


def _names_things(reference: Array) -> bool:
    """Tell whether values are identities (indices, flags, text); 8- and 16-bit integers are quantised numbers."""
    return (
        not is_number(reference)
        or (reference.dtype.kind in "iu" and reference.itemsize > 2)
        or reference.dtype.kind == "b"
    )


def _verdict(
    name: str, samples_n: int, finding: Finding | None, weak: tuple[str, ...] = (), **known: object
) -> OutputVerdict:
    parity = OutputParity.model_validate(
        {
            "name": name,
            "n_samples": samples_n,
            "bit_exact": False,
            "failed_check": finding.check if finding else None,
            "reason": clip_reason(finding.reason) if finding else None,
            **known,
        }
    )
    return OutputVerdict(parity, finding, weak)


def _judge_identities(name: str, reference: Array, candidate: Array, claim: Claim) -> OutputVerdict:
    agreement, finding = check_identities(reference, candidate, claim)
    exact = bool(np.array_equal(reference, candidate))
    return _verdict(name, len(reference), finding, bit_exact=exact, agreement=agreement)


def _judge_numbers(
    name: str, reference: Array, candidate: Array, question: Question, tolerance_db: float
) -> OutputVerdict:
    pair = pair_of(name, reference, candidate, question.claim, question.task)
    found = figures(reference, candidate, pair.quantum)
    decisions = decide(pair, question.task)
    finding = next(_findings(pair, found, question, tolerance_db), None)
    exact = bool(np.all(found.sqnr_db == np.inf))
    return _verdict(
        name,
        len(reference),
        finding,
        weak=_weaknesses(name, reference, pair),
        bit_exact=exact,
        worst_sqnr_db=_finite(float(found.sqnr_db.min())),
        median_sqnr_db=_finite(float(np.median(found.sqnr_db))),
        tolerance_sqnr_db=tolerance_db,
        max_abs_error=_finite(largest_error(reference, candidate)),
        cosine=_cosine(pair),
        agreement=None if decisions is None else decisions.agreement,
    )


def _findings(pair: Pair, found: Figures, question: Question, tolerance_db: float) -> Iterator[Finding]:
    """Yield findings in the order the checks are asked."""
    if np.array_equal(pair.reference, pair.candidate) and bool(np.all(found.sqnr_db == np.inf)):
        return
    claim = question.claim
    decisions, odds = decide(pair, question.task), odds_moved(pair)
    clips = claim.calibrated and pair.reference.size == pair.n
    yield from filter(None, (check(pair) for check in STRUCTURE_CHECKS))
    yield from filter(
        None,
        (
            check_sqnr(found, claim, tolerance_db, single=pair.reference.size == pair.n),
            check_variation(pair),
            # One clipped value is a whole sample: only check_stray knows what clipping does.
            None
            if clips
            else check_outlier(found, claim, odds if odds is not None and len(odds) == len(found.sqnr_db) else None),
            check_stray(pair, odds),
            check_top_k(pair),
        ),
    )
    if decisions is not None:
        finding = check_decisions(decisions, claim, certain=question.certain)
        yield from (finding,) if finding else ()


def _weaknesses(name: str, reference: Array, pair: Pair) -> tuple[str, ...]:
    weak = []
    if has_nan(reference):
        weak.append(f"output {name!r} holds NaN on both sides")
    if pair.reference.size > 1 and pair.span == 0.0:
        weak.append(f"output {name!r} of the reference never varies")
    return tuple(weak)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _cosine(pair: Pair) -> float | None:
    """Return the cosine of both sides as vectors, None without length."""
    if pair.peak == 0.0:
        return None
    left, right = pair.reference.ravel() / pair.peak, pair.candidate.ravel() / pair.peak
    lengths = float(np.sqrt(np.dot(left, left)) * np.sqrt(np.dot(right, right)))
    return None if lengths == 0.0 else _finite(float(np.dot(left, right)) / lengths)
