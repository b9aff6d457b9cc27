"""Does a converted fp32 file compute what its source computes? Asked before anything is quantised. Pure but for runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefleet_controller.compile.npz import Array

RELATIVE = 2e-3
"""Largest difference of an element, relative to itself, that rounding may explain: another order of summation and other
polynomials of exp and log (ONNX's own node tests allow 1e-3 with narrower inputs)."""
OF_PEAK = 2e-5
"""The same relative to the tensor's largest finite magnitude: sums that cancel."""


def difference(reference: Sequence[Array], candidate: Sequence[Array]) -> str | None:
    """Return how an output differs from the source's (arrays of equal shape, one entry a sample), or None.

    Floats may differ by rounding; integers and booleans may not; NaN and infinities must stand at the same places.
    """
    for ours, theirs in zip(reference, candidate, strict=True):
        found = _float_difference(ours, theirs) if ours.dtype.kind == "f" else _exact_difference(ours, theirs)
        if found is not None:
            return found
    return None


def _exact_difference(ours: Array, theirs: Array) -> str | None:
    wrong_n = int(np.count_nonzero(ours != theirs))
    return f"{wrong_n} of {ours.size} {ours.dtype} elements differ" if wrong_n else None


def _float_difference(ours: Array, theirs: Array) -> str | None:
    left, right = ours.astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(left)
    if not np.array_equal(finite, np.isfinite(right)):
        return "NaN or infinite elements stand elsewhere"
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return "infinite elements have another sign, or NaN stands for them"
    left, right = left[finite], right[finite]
    if not left.size:
        return None
    peak = float(np.max(np.abs(left)))
    excess = np.abs(left - right) - RELATIVE * np.abs(left) - OF_PEAK * peak
    worst = int(np.argmax(excess))
    if excess[worst] <= 0:
        return None
    return f"{left[worst]:.6g} became {right[worst]:.6g} where values reach {peak:.3g}"
