"""The form of outputs: names, shapes, kinds of dtype, where they are not finite. Exact checks, no statistics."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgefleet_agent.qualify.parity.tensor import Array, Finding
from edgefleet_contract.evidence import ParityCheck

_NUMBER_KINDS = "biuf"


def check_names(reference: Mapping[str, Array], candidate: Mapping[str, Array]) -> Finding | None:
    """Find outputs that only one side has."""
    missing, extra = sorted(reference.keys() - candidate.keys()), sorted(candidate.keys() - reference.keys())
    if not missing and not extra:
        return None
    return Finding(ParityCheck.NAMES, f"outputs differ: missing {missing[:8]}, not in the reference {extra[:8]}")


def check_form(reference: Array, candidate: Array) -> Finding | None:
    """Find the first fault of form: shape, then kind of dtype, then the places of NaN and infinities."""
    if reference.shape != candidate.shape:
        return Finding(ParityCheck.SHAPE, f"shape is {list(candidate.shape)}, the reference's {list(reference.shape)}")
    left, right = reference.dtype, candidate.dtype
    if not _same_kind(left, right):
        return Finding(ParityCheck.DTYPE, f"dtype is {right}, the reference's {left}: another kind of number")
    return _check_finite(reference, candidate) if left.kind == "f" else None


def _same_kind(left: np.dtype[np.generic], right: np.dtype[np.generic]) -> bool:
    """Tell whether two dtypes hold the same kind; the width of a float is the precision's business."""
    if left.kind == right.kind and left.kind in "fiu":
        return True
    return left == right or {left.kind, right.kind} == {"i", "u"}


def _check_finite(reference: Array, candidate: Array) -> Finding | None:
    for label, mask in (("NaN", np.isnan), ("+Inf", np.isposinf), ("-Inf", np.isneginf)):
        left, right = mask(reference.astype(np.float64)), mask(candidate.astype(np.float64))
        if not np.array_equal(left, right):
            samples_n = int(np.any((left != right).reshape(len(left), -1), axis=1).sum())
            counts = f"{int(right.sum())} {label} against {int(left.sum())} in the reference"
            return Finding(ParityCheck.FINITE, f"{counts}, at other places in {samples_n} samples")
    return None


def is_number(array: Array) -> bool:
    """Tell whether the array holds booleans, integers or real floats."""
    return array.dtype.kind in _NUMBER_KINDS


def has_nan(array: Array) -> bool:
    """Tell whether any element is NaN."""
    return array.dtype.kind == "f" and bool(np.isnan(array.astype(np.float64)).any())
