"""Which samples every artifact carries and which ones calibrate: seeded, balanced over labels, apart if possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_GOLDEN_N = 1024
MAX_GOLDEN_BYTES = 16 * 1024**2
"""Raw bytes of golden samples: they travel to every device with the first artifact of a model."""
MAX_GOLDEN_OUTPUT_BYTES = 64 * 1024**2
MAX_CALIBRATION_N = 128
MAX_GIVEN_CALIBRATION_N = 512
MAX_CALIBRATION_BYTES = 64 * 1024**2
MIN_APART_N = 64
"""With fewer samples than this, parity and calibration share all of them, and the artifact says so."""
_SEED = 20_240_229

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Split:
    """Indices of the samples, each sorted."""

    golden: Indices
    calibration: Indices
    overlaps: bool


def balanced_order(n: int, labels: Indices | None) -> Indices:
    """Return all indices in a seeded order whose every prefix holds the classes as evenly as they come."""
    shuffled = np.random.default_rng(_SEED).permutation(n)
    if labels is None:
        return shuffled
    _, classes = np.unique(labels[shuffled], return_inverse=True)
    turn = np.zeros(n, dtype=np.int64)
    seen: dict[int, int] = {}
    for place, each in enumerate(classes.tolist()):
        turn[place] = seen[each] = seen.get(each, -1) + 1
    return shuffled[np.argsort(turn, kind="stable")]


def spread(n: int, limit_n: int) -> Indices:
    """Return up to `limit_n` of `n` indices, evenly spread: files are often sorted by class."""
    return np.unique(np.linspace(0, n - 1, min(n, limit_n)).astype(np.int64))


def golden_limit_n(sample_bytes: int, output_bytes: int) -> int:
    """Return how many samples an artifact may carry, by their raw bytes and those of the model's outputs for one."""
    by_input = MAX_GOLDEN_BYTES // max(sample_bytes, 1)
    by_output = MAX_GOLDEN_OUTPUT_BYTES // max(output_bytes, 1)
    return max(1, min(MAX_GOLDEN_N, by_input, by_output))


def choose_sequences(
    bounds: Sequence[tuple[int, int]], *, golden_limit: int, calibration_limit: int, calibration_given: bool
) -> Split:
    """Divide samples that are steps of sequences: golden are whole sequences in a seeded order, the last cut short.

    Calibration takes single steps from what is left, evenly spread: the states that belong to them are known.

    Args:
        bounds: first sample and the one after the last of each sequence.
        golden_limit: the most samples an artifact may carry.
        calibration_limit: the most that may calibrate.
        calibration_given: whether calibration samples come from elsewhere, so none are set apart here.
    """
    n = bounds[-1][1]
    apart = not calibration_given and n >= MIN_APART_N
    calibration_n = min(MAX_CALIBRATION_N, calibration_limit, n // 2) if apart else 0
    left_n, golden = min(golden_limit, n - calibration_n), np.zeros(n, dtype=bool)
    for place in np.random.default_rng(_SEED).permutation(len(bounds)).tolist():
        start, stop = bounds[place]
        golden[start : min(stop, start + left_n)] = True
        left_n = max(0, left_n - (stop - start))
    chosen = np.flatnonzero(golden)
    if calibration_given:
        return Split(chosen, chosen[:0], overlaps=False)
    rest = np.flatnonzero(~golden) if apart else np.arange(n)
    return Split(chosen, rest[spread(len(rest), calibration_n or calibration_limit)], overlaps=not apart)


def choose(
    n: int, labels: Indices | None, *, golden_limit: int, calibration_limit: int, calibration_given: bool
) -> Split:
    """Divide `n` samples.

    Args:
        n: how many there are.
        labels: class of each, where known.
        golden_limit: the most an artifact may carry.
        calibration_limit: the most that may calibrate.
        calibration_given: whether calibration samples come from elsewhere, so none are set apart here.
    """
    order = balanced_order(n, labels)
    if calibration_given:
        return Split(np.sort(order[:golden_limit]), order[:0], overlaps=False)
    if n < MIN_APART_N:
        return Split(np.sort(order[:golden_limit]), np.sort(order[:calibration_limit]), overlaps=True)
    calibration_n = min(MAX_CALIBRATION_N, calibration_limit, n // 2)
    apart, rest = order[n - calibration_n :], order[: n - calibration_n]
    return Split(np.sort(rest[:golden_limit]), np.sort(apart), overlaps=False)
