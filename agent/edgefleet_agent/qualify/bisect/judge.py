"""Which operator is at fault: errors of islands and of the whole, judged. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgefleet_agent.qualify.parity.claim import Claim
from edgefleet_agent.qualify.parity.tensor import MAD_TO_SIGMA, Array, Floats
from edgefleet_contract.evidence import BisectStatus

_EXACT_DB = 160.0
"""Errors below this are rounding, whatever the precision."""
_OUTSTANDING_DB = 8.0
_OUTSTANDING_SIGMAS = 2.5
_OUTSTANDING_WITHIN_DB = 18.0
"""An island must stand out from the others and lie within this of the claim: an honest pair of
QuantizeLinear and DequantizeLinear keeps 37 dB among operators that are exact."""


@dataclass
class TensorError:
    """The error of one tensor, gathered sample by sample."""

    signal: float = 0.0
    error: float = 0.0
    fault: str | None = None
    """What no number says: another shape, other places that are not finite, other integers."""

    @property
    def sqnr_db(self) -> float:
        """Return the SQNR in dB over all samples; +inf without error, -inf with a fault or with error alone."""
        if self.fault is not None:
            return -np.inf
        if self.error == 0.0:
            return np.inf
        return float(10.0 * np.log10(self.signal / self.error)) if self.signal > 0.0 else -np.inf

    def add(self, reference: Array, candidate: Array) -> None:
        """Add one sample's values."""
        if reference.shape != candidate.shape:
            self.fault = self.fault or f"shape {list(candidate.shape)}, the reference's {list(reference.shape)}"
            return
        if reference.dtype.kind not in "fiub" or candidate.dtype.kind not in "fiub":
            return
        left, right = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
        if not np.array_equal(_marks(left), _marks(right)):
            self.fault = self.fault or "NaN or infinity at other places"
            return
        usable = np.isfinite(left)
        self.signal += float(np.square(left[usable]).sum())
        self.error += float(np.square(right[usable] - left[usable]).sum())


def _marks(values: Floats) -> Array:
    """Return 0 where finite, 1 for NaN, 2 and 3 for the infinities."""
    return np.select([np.isnan(values), np.isposinf(values), np.isneginf(values)], [1, 2, 3], 0)


@dataclass(frozen=True)
class Judgement:
    """How the search ended, the tensor whose island is at fault, and the first tensor that drifted too far."""

    status: BisectStatus
    culprit: str | None
    first_drift: str | None
    words: str


def judge(
    order: Sequence[str], island: Mapping[str, TensorError], drift: Mapping[str, TensorError], claim: Claim
) -> Judgement:
    """Judge the islands first, then what added up.

    Args:
        order: the compared tensors in order of computation.
        island: error of each with the reference's inputs.
        drift: error of each in the whole candidate.
        claim: what the candidate's precision may cost.
    """
    first_drift = next((name for name in order if drift[name].sqnr_db < claim.median_db), None)
    culprit = _culprit(order, island, claim)
    if culprit is not None:
        words = f"{culprit!r} differs although it was computed from the reference's own values"
        return Judgement(BisectStatus.FOUND, culprit, first_drift, words)
    if first_drift is not None:
        words = f"no operator is at fault alone; errors add up and leave the claim's tolerance at {first_drift!r}"
        return Judgement(BisectStatus.DRIFT, None, first_drift, words)
    return Judgement(BisectStatus.CLEAN, None, None, "every operator keeps to the claim, alone and in the whole")


def _culprit(order: Sequence[str], island: Mapping[str, TensorError], claim: Claim) -> str | None:
    broken = next((name for name in order if island[name].fault is not None), None)
    if broken is not None:
        return broken
    levels = np.array([min(max(island[name].sqnr_db, -_EXACT_DB), _EXACT_DB) for name in order])
    if not levels.size:
        return None
    below = np.flatnonzero(levels < claim.median_db)
    if below.size:
        # The worst, not the first: an honest operator of a coarse precision may lie below the claim of a whole model.
        return order[int(below[np.argmin(levels[below])])]
    centre = float(np.median(levels))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(levels - centre)))
    worst = int(np.argmin(levels))
    stands_out = levels[worst] < centre - max(_OUTSTANDING_DB, _OUTSTANDING_SIGMAS * spread)
    near = levels[worst] < claim.median_db + _OUTSTANDING_WITHIN_DB
    return order[worst] if stands_out and near else None
