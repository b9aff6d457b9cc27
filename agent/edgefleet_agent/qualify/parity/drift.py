"""Parts of a batch that differ from the rest (halves, a lane of 2, 4 or 8), and samples that leak into others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgefleet_agent.qualify.parity.tensor import Finding, Flags, Floats, Pair, critical_sigmas, flat
from edgefleet_contract.evidence import ParityCheck

_MIN_N = 32
_MIN_GROUP_N = 4
_LANES_N = (2, 4, 8)
_LOUD_SHARE = 0.05
"""Samples with less than this share of the median sample's energy tell no gain; neighbours with less that is their
own, beside what they share with a sample, tell no leak."""
_SHARE = 0.5
"""What is found must be most of the error it is found in: samples sorted by kind lean differently, but by less."""
_MIN_OFFSET_QUANTA = 4.0
"""An offset below this many of the claim's steps is the rounding of an output, not a fault."""


def check_drift(pair: Pair) -> Finding | None:
    """Find a gain or (in vectors, place by place) an offset that differs between parts of the batch.

    Parts are the halves and every lane of 2, 4 and 8. A difference counts where no chance explains it (Welch's t above
    `critical_sigmas` of the smaller part), where it exceeds the gain that the claim never calls a fault (an offset: 4
    of its steps), and where it is at least half of the louder part's error energy. Of 113 recorded honest pairs none
    has a gain of 4.9 standard errors or more; a half times 1.05 has 48 to 20,000. Probabilities are not judged.
    """
    if pair.n < _MIN_N or pair.is_probability:
        return None
    reference, error = flat(pair.reference), flat(pair.error)
    energy = np.square(reference).sum(axis=1)
    kept = energy > _LOUD_SHARE * float(np.median(energy))
    gains = np.where(kept, (error * reference).sum(axis=1) / np.where(kept, energy, 1.0), 0.0)
    errors = np.square(error).sum(axis=1)
    for words, part in _parts(pair.n):
        inside, outside = part & kept, ~part & kept
        apart, surely = _apart(gains[:, None], inside, outside, pair.independence)
        loud_error = max(float(errors[part].mean()), float(errors[~part].mean()))
        most = float(apart[0]) ** 2 * float(energy.mean()) >= _SHARE * loud_error
        if surely[0] and most and abs(apart[0]) > pair.claim.gain:
            return Finding(ParityCheck.GAIN, f"{words} is scaled by {1.0 + apart[0]:.4f} against the others")
        if pair.reference.ndim == 2:
            apart, surely = _apart(error, part, ~part, pair.independence)
            loud = np.maximum(*(weight @ np.square(error) / weight.sum() for weight in (1.0 * part, 1.0 * ~part)))
            found = surely & (np.square(apart) >= _SHARE * loud) & (np.abs(apart) > _MIN_OFFSET_QUANTA * pair.quantum)
            if found.any():
                place = int(np.argmax(np.abs(apart) * found))
                return Finding(
                    ParityCheck.OFFSET, f"{words} is off by {apart[place]:.4g} at {place} against the others"
                )
    return None


def check_leak(pair: Pair) -> Finding | None:
    """Find answers with a share of the one before, or of the next, in them: a state or a buffer that was not cleared.

    The error is fitted by the neighbour's deviation from the mean sample, of which the sample's own is taken out first:
    frames of one recording are alike without any leak. A share counts under the conditions of `check_drift`; its
    standard error is of whole samples, whose elements are not independent.
    """
    if pair.n < _MIN_N or pair.is_probability:
        return None
    reference, error = flat(pair.reference), flat(pair.error)
    own, error = reference - reference.mean(axis=0), error - error.mean(axis=0)
    for words, ahead, behind in (
        ("the sample before", slice(1, None), slice(None, -1)),
        ("the next sample", slice(None, -1), slice(1, None)),
    ):
        here, there, left = own[ahead], own[behind], error[ahead]
        power = max(float(np.square(here).sum()), np.finfo(np.float64).tiny)
        there = there - float((there * here).sum()) / power * here
        left = left - float((left * here).sum()) / power * here
        weight, product = np.square(there).sum(axis=1), (left * there).sum(axis=1)
        total = float(weight.sum())
        if total <= _LOUD_SHARE * power:
            continue
        share = float(product.sum()) / total
        spread = float(np.sqrt(np.square(product - share * weight).sum() / pair.independence)) / total
        most = share**2 * total >= _SHARE * float(np.square(left).sum())
        if most and share > pair.claim.gain and share > float(critical_sigmas(float(pair.n))) * spread:
            return Finding(ParityCheck.REPEAT, f"{share:.1%} of {words}'s output is in each")
    return None


def _parts(samples_n: int) -> Iterator[tuple[str, Flags]]:
    places = np.arange(samples_n)
    yield "the second half of the batch", places >= samples_n // 2
    for lanes_n in _LANES_N:
        for lane in range(lanes_n):
            yield f"sample {lane} of every {lanes_n}", places % lanes_n == lane


def _apart(values: Floats, inside: Flags, outside: Flags, independence: float) -> tuple[Floats, Flags]:
    """Return by how much the means of [samples, places] differ, and where no chance explains it."""
    if min(inside.sum(), outside.sum()) < _MIN_GROUP_N:
        return np.zeros(values.shape[1]), np.zeros(values.shape[1], dtype=bool)
    means, variances = [], []
    for weight in (1.0 * inside, 1.0 * outside):
        mean = weight @ values / weight.sum()
        spread = np.maximum(weight @ np.square(values) / weight.sum() - np.square(mean), 0.0)
        means.append(mean)
        variances.append(spread / (independence * max(float(weight.sum()) - 1.0, 1.0)))
    apart = means[0] - means[1]
    limit = float(critical_sigmas(float(min(inside.sum(), outside.sum()))))
    return apart, np.abs(apart) > limit * np.sqrt(variances[0] + variances[1])
