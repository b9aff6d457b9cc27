"""One output tensor of reference and candidate, ready for arithmetic: float64, finite, bounded in size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgefleet_agent.qualify.parity.claim import Claim
from edgefleet_contract.evidence import ParityCheck, Task

Array = NDArray[np.generic]
Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]

STRUCTURE_ELEMENTS_N = 4_000_000
"""Tests for structure look at most at this many elements (whole samples, evenly spread): 32 MB an array in float64.
Figures per sample look at all."""
_CHUNK_ELEMENTS_N = 1_000_000
_NEAR_ONE = 0.3
_CORRELATED_MIN_N = 4
_CORRELATION_MIN = 0.5
"""Samples in the order of their topics correlate a little (sentences of one page: 0.2), and still count."""
_CORRELATION_MAX = 0.95
_VARIANCE_MIN_N = 8
_LEVELS_N = 256
"""Distinct values of eight bits."""
MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal variable over its median absolute deviation."""


@dataclass(frozen=True)
class Finding:
    """A check that failed, and why."""

    check: ParityCheck
    reason: str


@dataclass(frozen=True)
class Pair:
    """One output of both sides: float64, same shape [samples, …], no NaN or infinity; `n` counts samples."""

    name: str
    reference: Floats
    candidate: Floats
    claim: Claim
    task: Task | None = None

    @property
    def n(self) -> int:
        """Return the number of samples."""
        return len(self.reference)

    @cached_property
    def error(self) -> Floats:
        """Return candidate minus reference."""
        return self.candidate - self.reference

    @cached_property
    def span(self) -> float:
        """Return the reference's largest value minus its smallest."""
        return float(np.ptp(self.reference))

    @cached_property
    def peak(self) -> float:
        """Return the reference's largest magnitude."""
        return float(np.abs(self.reference).max(initial=0.0))

    @cached_property
    def quantum(self) -> float:
        """Return the smallest step the claim can tell apart, in the output's own unit."""
        return self.claim.quantum * max(self.span, self.peak)

    @cached_property
    def step(self) -> float:
        """Return the quantum where the candidate's values lie on few levels, else a quarter of it.

        An output that was not quantised itself has no step: what it shows in the mean may be finer than the claim's.
        """
        return self.quantum if self.has_levels else self.quantum / 4.0

    @cached_property
    def has_levels(self) -> bool:
        """Tell whether the candidate's values lie on at most 256 levels, as those of a quantised output do."""
        return len(np.unique(self.candidate)) <= _LEVELS_N

    @cached_property
    def noise_rms(self) -> float:
        """Return the error's rms in the median sample: a few bad samples do not move it."""
        return float(np.median(np.sqrt(np.square(flat(self.error)).mean(axis=1))))

    @cached_property
    def independence(self) -> float:
        """Return which share of the samples counts as independent: (1 - r) / (1 + r), r the correlation of neighbours.

        Frames of one recording repeat each other's errors; samples in any order have 1.
        """
        rows = flat(self.reference) - flat(self.reference).mean(axis=0)
        energy = float(np.square(rows).sum())
        if energy == 0.0 or len(rows) < _CORRELATED_MIN_N:
            return 1.0
        correlation = min(float((rows[1:] * rows[:-1]).sum()) / energy, _CORRELATION_MAX)
        return 1.0 if correlation < _CORRELATION_MIN else (1.0 - correlation) / (1.0 + correlation)

    @cached_property
    def is_probability(self) -> bool:
        """Tell whether the reference lies within [0, 1] and comes near 1: scores or probabilities."""
        low, high = float(self.reference.min(initial=0.0)), float(self.reference.max(initial=0.0))
        return low >= 0.0 and _NEAR_ONE <= high <= 1.0 + 1e-6

    def channels(self, axis: int) -> tuple[Floats, Floats]:
        """Return reference and error as [samples, channels, others], channels along `axis`."""
        shape = (self.n, self.reference.shape[axis], -1)
        return (
            np.moveaxis(self.reference, axis, 1).reshape(shape),
            np.moveaxis(self.error, axis, 1).reshape(shape),
        )

    def channel_axes(self) -> list[int]:
        """Return the axes along which channels may lie: every axis but the first, 2 to 4,096 long."""
        return [axis for axis in range(1, self.reference.ndim) if 2 <= self.reference.shape[axis] <= 4096]


def critical_sigmas(samples_n: Floats | float) -> Floats:
    """Return how many standard errors are no chance: 5, and more where few samples leave the error itself uncertain.

    About Student's t at a level of 1e-6, many channels being tried at once.
    """
    return np.asarray(5.0 * (1.0 + 9.0 / np.maximum(np.asarray(samples_n, dtype=np.float64) - 1.0, 1.0)))


def flat(array: Floats) -> Floats:
    """Return the array as [samples, elements]."""
    return array.reshape(len(array), -1)


def pair_of(name: str, reference: Array, candidate: Array, claim: Claim, task: Task | None) -> Pair:
    """Return two outputs of equal shape as a pair; elements that are not finite become 0 in both."""
    rows = _spread_rows(reference)
    left, right = _as_floats(reference[rows]), _as_floats(candidate[rows])
    usable = np.isfinite(left) & np.isfinite(right)
    return Pair(name, np.where(usable, left, 0.0), np.where(usable, right, 0.0), claim, task)


def _as_floats(array: Array) -> Floats:
    return np.atleast_1d(array.astype(np.float64))


def _spread_rows(array: Array) -> slice:
    """Return the samples to look at: all, or as many first ones as the bound allows (neighbours must stay together)."""
    per_sample_n = max(1, array.size // max(1, len(array)))
    return slice(0, max(1, STRUCTURE_ELEMENTS_N // per_sample_n))


def sample_energies(reference: Array, candidate: Array) -> tuple[Floats, Floats]:
    """Return (signal, error) mean squares of each sample; elements that are not finite are left out of both."""
    signal, error = np.zeros(len(reference)), np.zeros(len(reference))
    for rows in _chunks(reference):
        left, right = flat(_as_floats(reference[rows])), flat(_as_floats(candidate[rows]))
        usable = np.isfinite(left) & np.isfinite(right)
        left, right = np.where(usable, left, 0.0), np.where(usable, right, 0.0)
        signal[rows] = np.square(left).mean(axis=1) if left.shape[1] else 0.0
        error[rows] = np.square(right - left).mean(axis=1) if left.shape[1] else 0.0
    return signal, error


def _chunks(array: Array) -> Iterator[slice]:
    step = max(1, _CHUNK_ELEMENTS_N // max(1, array.size // max(1, len(array))))
    return (slice(start, start + step) for start in range(0, len(array), step))


def sample_sqnr_db(reference: Array, candidate: Array) -> Floats:
    """Return the signal-to-quantisation-noise ratio of each sample in dB: +inf without error, -inf without signal.

    With one element a sample, the signal is `single_signal` in all samples.
    """
    signal, error = sample_energies(reference, candidate)
    if reference.size == len(reference):
        signal = single_signal(reference)
    return energy_ratio_db(signal, error)


def single_signal(reference: Array) -> Floats:
    """Return the signal energy of outputs with one element a sample: the variance, the same for each.

    A value near 0 says nothing by itself, and what all samples share is no signal (a price of 150 ± 50). With fewer
    than 8 samples there is no variance to speak of: the mean square then.
    """
    values = _as_floats(reference).ravel()
    values = np.where(np.isfinite(values), values, 0.0)
    varies = len(values) >= _VARIANCE_MIN_N and float(np.ptp(values)) > 0.0
    return np.full(len(values), values.var() if varies else np.square(values).mean())


def energy_ratio_db(signal: Floats, error: Floats) -> Floats:
    """Return 10·log10(signal / error), +inf where there is no error, -inf where there is only error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_db = 10.0 * (np.log10(signal) - np.log10(error))
    result: Floats = np.where(error == 0.0, np.inf, np.nan_to_num(ratio_db, nan=-np.inf, posinf=np.inf, neginf=-np.inf))
    return result


def largest_error(reference: Array, candidate: Array) -> float:
    """Return the largest absolute difference; elements that are not finite are left out."""
    largest = 0.0
    for rows in _chunks(reference):
        left, right = _as_floats(reference[rows]), _as_floats(candidate[rows])
        usable = np.isfinite(left) & np.isfinite(right)
        largest = max(largest, float(np.abs(right[usable] - left[usable]).max(initial=0.0)))
    return largest
