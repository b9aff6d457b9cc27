"""Right values at the wrong place: repeated, stale, shifted, reversed, transposed or swapped."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from edgefleet_agent.qualify.parity.tensor import Finding, Floats, Indices, Pair
from edgefleet_contract.evidence import ParityCheck

_CLEARLY_BETTER = 4.0
"""Energy ratio (6 dB) by which another place must explain the candidate better than its own."""
_STALE_BETTER = 16.0
"""The same for single samples (12 dB), where chance plays."""
_ALIKE = 4.0
_ALIKE_MIN_N = 3
_ALIKE_SHARE = 0.03
"""Both neighbours and one more, or 3 samples of 100, may explain a stale sample as well: 1 in 16 by chance."""
_SHIFTS = (1, -1, 2, -2)
_FAR_SHIFTS = (3, -3, 4, -4, 6, -6, 8, -8)
"""Looked at along the first two axes only: samples and time."""
_LONG_N = 32
"""Vectors this long never repeat by chance: less movement of the reference is enough."""
_PART_MIN_N = 8
_PART_SHARE = 0.005
_MOST = 0.5
_TELLING_N = 3.0
_MATCH_CHANNELS_N = 1024
_MATCH_COLUMNS_N = 4096
_FEW_COLUMNS_N = 16


def check_repeat(pair: Pair) -> Finding | None:
    """Find samples or frames that repeat their neighbour where the reference moves on."""
    rows = pair.reference.reshape(pair.n, 1, -1), pair.candidate.reshape(pair.n, 1, -1)
    repeated = _repeated(np.swapaxes(rows[0], 0, 1), np.swapaxes(rows[1], 0, 1), pair.quantum)
    if len(repeated) >= (1 if rows[0].shape[2] >= 3 else 3):
        return Finding(ParityCheck.REPEAT, f"{len(repeated)} samples repeat the one before, first {repeated[0]}")
    stale = _stale_samples(rows[0][:, 0], rows[1][:, 0], pair)
    if stale.size:
        return Finding(ParityCheck.REPEAT, f"{stale.size} samples carry a neighbour's output, first {int(stale[0])}")
    return _check_frames(pair)


def _check_frames(pair: Pair) -> Finding | None:
    if pair.reference.ndim < 3:
        return None
    shape = (pair.n, pair.reference.shape[1], -1)
    reference, candidate = pair.reference.reshape(shape), pair.candidate.reshape(shape)
    if reference.shape[2] < 3:
        return None
    repeated = _repeated(reference, candidate, pair.quantum)
    if len(repeated) < max(3, reference.shape[0] * reference.shape[1] // 100):
        return None
    return Finding(
        ParityCheck.REPEAT, f"{len(repeated)} frames along axis 1 repeat the one before, first {repeated[0]}"
    )


def _repeated(reference: Floats, candidate: Floats, quantum: float) -> list[int]:
    """Return places along axis 1 of [groups, places, elements] that equal the one before though the reference moved."""
    noise_rms = float(np.median(np.sqrt(np.square(candidate - reference).mean(axis=2))))
    same = ~np.any(candidate[:, 1:] != candidate[:, :-1], axis=2)
    moved_rms = np.sqrt(np.square(np.diff(reference, axis=1)).mean(axis=2))
    long = reference.shape[2] >= _LONG_N
    moved = moved_rms > max(2.0 * noise_rms, 2.0 * quantum) if long else moved_rms > max(6.0 * noise_rms, 8.0 * quantum)
    return [int(place) + 1 for place in np.nonzero(same & moved)[1]]


def _stale_samples(reference: Floats, candidate: Floats, pair: Pair) -> Indices:
    """Return samples of [samples, elements] that their neighbour's reference explains far better than their own."""
    if len(reference) < 2 or reference.shape[1] < 3:
        return np.empty(0, dtype=np.intp)
    own = np.square(candidate - reference).mean(axis=1)
    neighbour = np.full_like(own, np.inf)
    neighbour[1:] = np.square(candidate[1:] - reference[:-1]).mean(axis=1)
    neighbour[:-1] = np.minimum(neighbour[:-1], np.square(candidate[:-1] - reference[1:]).mean(axis=1))
    wrong = own > np.maximum(
        0.1 * np.square(reference).mean(axis=1), max(3.0 * pair.noise_rms, 4.0 * pair.quantum) ** 2
    )
    if pair.is_probability:
        wrong &= ~_is_surer(reference, candidate)
    stale = np.flatnonzero(wrong & (neighbour * _STALE_BETTER < own))
    return stale[[_is_rare(reference, candidate[place], neighbour[place]) for place in stale]] if stale.size else stale


def _is_surer(reference: Floats, candidate: Floats) -> NDArray[np.bool_]:
    """Tell which samples of probabilities kept their decision and only became surer of it.

    Noise of logits does that, and brings an unsure sample near every sure one of its class: a neighbour as well.
    """
    decision = reference.argmax(axis=1)
    kept = candidate.argmax(axis=1) == decision
    return np.asarray(kept & (candidate.max(axis=1) > reference[np.arange(len(reference)), decision]))


def _is_rare(reference: Floats, sample: Floats, distance: float) -> bool:
    """Tell whether few samples explain one as well as its neighbour does.

    Where classes are few, a decision that flips looks like every sample of the other class, its neighbour too.
    """
    alike_n = int((np.square(reference - sample).mean(axis=1) <= _ALIKE * distance).sum())
    return alike_n <= max(_ALIKE_MIN_N, _ALIKE_SHARE * len(reference))


def check_shift(pair: Pair) -> Finding | None:
    """Find a shift, reversal, other layout or swap that explains the candidate, a sample or a channel far better."""
    floor = (2.0 * pair.quantum) ** 2
    if float(np.square(pair.error).max(initial=0.0)) <= floor:
        return None
    for words, reference, moved, candidate in _moves(pair):
        own, other = np.square(candidate - reference), np.square(candidate - moved)
        if own.mean() > floor and other.mean() * _CLEARLY_BETTER < own.mean():
            return Finding(ParityCheck.SHIFT, f"the values are right but {words}")
        part = _moved_part(own, other, reference, floor) if reference.shape[1:] else None
        if part is not None:
            return Finding(ParityCheck.SHIFT, f"the values of {part} are right but {words}")
    for axis in pair.channel_axes():
        swapped = _swapped_channels(pair, axis) if pair.reference.shape[axis] <= _MATCH_CHANNELS_N else []
        if swapped:
            return Finding(ParityCheck.SHIFT, f"axis {axis}: channels are swapped: {', '.join(swapped[:8])}")
    return None


def _moved_part(own: Floats, other: Floats, reference: Floats, floor: float) -> str | None:
    """Return the sample or channel (index along any axis but the moved one, which lies first) that alone was moved."""
    for axis in range(1, own.ndim):
        if not 2 <= own.shape[axis] <= _MATCH_CHANNELS_N or own.size < _PART_MIN_N * own.shape[axis]:
            continue
        others = tuple(place for place in range(own.ndim) if place != axis)
        own_part, other_part = own.mean(axis=others), other.mean(axis=others)
        # Noise is told from the other parts: the fault's own would hide it.
        least = max(floor, 9.0 * float(np.median(own_part)))
        telling = own_part > np.maximum(least, _PART_SHARE * reference.var(axis=others))
        for place in np.flatnonzero(telling & (other_part * _STALE_BETTER < own_part)):
            part = np.take(own, place, axis=axis), np.take(other, place, axis=axis)
            if _spread_n(part[0]) >= _TELLING_N and _is_throughout(*part):
                return f"part {int(place)} of axis {axis} (the moved axis first)"
    return None


def _spread_n(own: Floats) -> float:
    """Return among how many elements the squared errors spread: (Σ e)² / Σ e².

    A decision that flips moves two elements, and any two peaks are each other's shift or mirror image.
    """
    return float(np.square(own.sum()) / max(float(np.square(own).sum()), np.finfo(np.float64).tiny))


def _is_throughout(own: Floats, other: Floats) -> bool:
    """Tell whether another place explains a part better along most of its first axis, and not in a few rows alone.

    What was moved was moved everywhere; where neighbours look alike, one noisy row can seem to be its neighbour.
    """
    rows = own.reshape(len(own), -1).mean(axis=1), other.reshape(len(other), -1).mean(axis=1)
    differs = rows[0] != rows[1]
    return bool(np.count_nonzero(rows[1] < rows[0]) >= _MOST * np.count_nonzero(differs))


def _moves(pair: Pair) -> Iterator[tuple[str, Floats, Floats, Floats]]:
    """Yield (words, reference in place, reference moved, candidate) for each move, cut to what overlaps."""
    reference, candidate = pair.reference, pair.candidate
    for axis in range(reference.ndim):
        front = np.moveaxis(reference, axis, 0), np.moveaxis(candidate, axis, 0)
        for shift in (*_SHIFTS, *_FAR_SHIFTS) if axis < 2 else _SHIFTS:
            if front[0].shape[0] > 2 * abs(shift):
                yield (f"shifted by {shift} along axis {axis}", *_cut(*front, shift))
        yield f"reversed along axis {axis}", front[0], front[0][::-1], front[1]
    inner = range(1, reference.ndim)
    for order in permutations(inner) if reference.ndim in {3, 4} else ():
        if list(order) != list(inner):
            moved = reference.transpose((0, *order)).reshape(reference.shape)
            yield f"laid out with axes {[0, *order]}", reference, moved, candidate


def _cut(reference: Floats, candidate: Floats, shift: int) -> tuple[Floats, Floats, Floats]:
    ahead, behind = (
        (slice(shift, None), slice(None, -shift)) if shift > 0 else (slice(None, shift), slice(-shift, None))
    )
    return reference[ahead], reference[behind], candidate[ahead]


def _swapped_channels(pair: Pair, axis: int) -> list[str]:
    """Return `a→b` for each channel that another channel's reference explains far better than its own."""
    reference, candidate = _columns(pair.reference, axis), _columns(pair.candidate, axis)
    columns_n = reference.shape[1]
    if columns_n < 4:
        return []
    distance = _distances(candidate, reference)
    own, best = np.diagonal(distance), distance.argmin(axis=1)
    nearest = distance[np.arange(len(best)), best]
    apart = np.square(reference - reference[best]).mean(axis=1)
    clear = own > max(3.0 * pair.noise_rms, 4.0 * pair.quantum) ** 2
    if columns_n >= 4 * _FEW_COLUMNS_N:
        clear |= nearest * _STALE_BETTER < own
    moved = clear & (own > (2.0 * pair.quantum) ** 2) & (nearest * _CLEARLY_BETTER < own) & (own > 0.25 * apart)
    if columns_n < _FEW_COLUMNS_N:
        moved &= moved[best] & (best[best] == np.arange(len(best)))
    for channel in np.flatnonzero(moved):
        ours, theirs = np.take(pair.reference, channel, axis=axis), np.take(pair.reference, best[channel], axis=axis)
        given = np.take(pair.candidate, channel, axis=axis)
        moved[channel] = _is_throughout(np.square(given - ours), np.square(given - theirs))
    return [f"{int(best[channel])}→{int(channel)}" for channel in np.flatnonzero(moved)]


def _columns(array: Floats, axis: int) -> Floats:
    """Return [channels, elements], thinned evenly to a bounded number of elements."""
    columns = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    return columns[:, :: max(1, -(-columns.shape[1] // _MATCH_COLUMNS_N))]


def _distances(candidate: Floats, reference: Floats) -> Floats:
    """Return the mean square distance of each candidate channel (row) to each reference channel."""
    cross = candidate @ reference.T
    square = np.square(candidate).sum(axis=1)[:, None] + np.square(reference).sum(axis=1)[None, :]
    result: Floats = np.maximum(square - 2.0 * cross, 0.0) / reference.shape[1]
    return result
