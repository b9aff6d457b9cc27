"""Values that do not move: dead channels, saturation plateaus, too few levels."""

from __future__ import annotations

import numpy as np

from edgefleet_agent.qualify.parity.tensor import MAD_TO_SIGMA, Finding, Flags, Floats, Indices, Pair
from edgefleet_contract.evidence import ParityCheck

DEAD_SHARE = 0.05
"""A candidate's channel that keeps less than this share of the reference's spread is dead."""
_LIVE_QUANTA = 4.0
"""A channel's spread must exceed this many quantisation steps of its tensor before int8 owes it anything."""
_PLATEAU_SHARE = 0.008
"""Calibrators leave fewer elements than this at the limit (digit logits on 64 calibration samples: 0.0045)."""
_PLATEAU_SAMPLES_SHARE = 0.05
"""Calibrated ranges also leave fewer samples than this with an element at the limit: of new samples, 1 of n + 1 exceeds
the largest of n calibration samples in the mean, and as many as 0.05 of them by chance where n is 48."""
_PLATEAU_MIN_N = 3
"""Precisions without calibration have no limit: three different values that became one are enough."""
_CHANNEL_PLATEAU_SHARE = 0.02
"""The same as the share of elements, for one channel of a quantised tensor: all clipping may be of the channel with
the longest tail (digit logits, 128 calibration samples: 0.011 of one channel)."""
_PLATEAU_EXCESS = 0.02
"""A plateau below the reference by this share of its range: a score of 0.996 for 1.0 is one int8 step, 0.4 %."""
_SINGLE_QUANTUM = 1e-5
_GRID_MIN_N = 32
_ON_GRID = 0.999
_OFF_GRID = 0.5
_SUM_TOLERANCE = 2e-3
_SUM_QUANTA = 12.0
"""Rounding moves a sum by half a step an element; a clipped range by some steps more."""
_SUM_MOVED = 0.12
"""Where the output itself was not quantised, softmax came last and sums are 1; this leaves room."""
_FEW_LEVELS_N = 24
_FEW_LEVELS_FLOAT_N = 64
"""The same where outputs are floats that no artifact of the claim rounds to levels: six bits."""
_LEVEL_RATIO_FLOAT = 3.0
_PLACES_MIN_N = 16
_PLACES_SIGMAS = 6.0
_LEVEL_RATIO = 6.0
_LEVELS_MIN_N = 64


def check_constant(pair: Pair) -> Finding | None:
    """Find outputs or channels that vary in the reference and stand still in the candidate."""
    spread, kept = float(pair.reference.std()), float(pair.candidate.std())
    if pair.reference.size > 1 and spread > 0.0 and kept < DEAD_SHARE * spread and pair.span > pair.quantum:
        return Finding(ParityCheck.CONSTANT, "the whole output is constant or nearly so; the reference's varies")
    for axis in pair.channel_axes():
        dead = _dead_channels(pair, axis)
        if dead.size:
            channels_n = pair.reference.shape[axis]
            return Finding(
                ParityCheck.CONSTANT,
                f"axis {axis}: {dead.size} of {channels_n} channels stand still where the reference's vary: "
                f"{_some(dead)} (counted from 0)",
            )
    return _check_constant_rows(pair) or _check_constant_places(pair)


def _check_constant_places(pair: Pair) -> Finding | None:
    """Find elements that hold one value in every sample where the reference's clearly vary: a dead block of a map.

    Half of the samples must lie further apart than noise: the median error, which dead places do not move.
    """
    reference, candidate = pair.reference.reshape(pair.n, -1), pair.candidate.reshape(pair.n, -1)
    if pair.n < _PLACES_MIN_N or reference.shape[1] < 4:
        return None
    still = np.flatnonzero(np.ptp(candidate, axis=0) == 0.0)
    needed = max(_LIVE_QUANTA * pair.quantum, _PLACES_SIGMAS * MAD_TO_SIGMA * float(np.median(np.abs(pair.error))))
    values = reference[:, still]
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    dead = still[high - low > needed]
    if not dead.size:
        return None
    return Finding(
        ParityCheck.CONSTANT,
        f"{dead.size} of {reference.shape[1]} elements hold one value in every sample where the reference's vary: "
        f"{_some(dead)} (counted from 0)",
    )


def _dead_channels(pair: Pair, axis: int) -> Indices:
    reference, error = pair.channels(axis)
    if reference.shape[0] * reference.shape[2] < 4:
        return np.empty(0, dtype=np.intp)
    spread, kept = reference.std(axis=(0, 2)), (reference + error).std(axis=(0, 2))
    return np.flatnonzero((spread > _LIVE_QUANTA * pair.quantum) & (kept < DEAD_SHARE * spread))


def _check_constant_rows(pair: Pair) -> Finding | None:
    """Find samples whose every element is one value where the reference's are clearly not."""
    reference, candidate = pair.reference.reshape(pair.n, -1), pair.candidate.reshape(pair.n, -1)
    if reference.shape[1] < 4:
        return None
    needed = max(16.0 * pair.quantum, 8.0 * pair.noise_rms)
    dead = np.flatnonzero((np.ptp(candidate, axis=1) == 0.0) & (np.ptp(reference, axis=1) > needed))
    return Finding(ParityCheck.CONSTANT, f"samples {_some(dead)} are constant") if dead.size else None


def check_saturation(pair: Pair) -> Finding | None:
    """Find a plateau at the candidate's limit that the reference clearly exceeds, in the tensor or one channel."""
    if pair.span == 0.0:
        return None
    everything = pair.reference.reshape(-1, 1), pair.candidate.reshape(-1, 1)
    views = [everything] + [_columns(pair, axis) for axis in pair.channel_axes() if pair.reference.shape[axis] <= 256]
    for reference, candidate in views:
        for sign, word in ((1.0, "above"), (-1.0, "below")):
            column = _plateau(sign * reference, sign * candidate, pair)
            if column is not None:
                where = "" if reference.shape[1] == 1 else f" of channel {column}"
                reason = f"values{where} stick at a limit; the reference goes on {word} it"
                return Finding(ParityCheck.SATURATION, reason)
    return None


def _columns(pair: Pair, axis: int) -> tuple[Floats, Floats]:
    size = pair.reference.shape[axis]
    return (
        np.moveaxis(pair.reference, axis, -1).reshape(-1, size),
        np.moveaxis(pair.candidate, axis, -1).reshape(-1, size),
    )


def _plateau(reference: Floats, candidate: Floats, pair: Pair) -> int | None:
    """Return the first column whose maximum is a plateau, None without."""
    limit = candidate.max(axis=0)
    stuck = candidate == limit
    count = stuck.sum(axis=0)
    excess = np.where(stuck, reference - limit, 0.0)
    share = _PLATEAU_EXCESS if pair.claim.calibrated else min(8.0 * pair.claim.quantum, _PLATEAU_EXCESS)
    needed = max(share * pair.span, 3.0 * pair.noise_rms)
    beyond = excess > needed
    clear = beyond.sum(axis=0)
    share = _CHANNEL_PLATEAU_SHARE if reference.shape[1] > 1 else _PLATEAU_SHARE
    enough = max(4, share * len(reference)) if pair.claim.calibrated else _PLATEAU_MIN_N
    enough_samples = _PLATEAU_SAMPLES_SHARE * pair.n if pair.claim.calibrated else 0.0
    # Of one value a sample, those a little beyond the limit were clipped too, once some are clearly beyond it.
    clipped = excess > max(pair.quantum, 3.0 * pair.noise_rms) if pair.reference.size == pair.n else beyond
    samples_n = clipped.reshape(pair.n, -1, beyond.shape[1]).any(axis=1).sum(axis=0)
    found = np.flatnonzero((clear >= enough) & (2 * clear >= count) & (samples_n >= enough_samples))
    return int(found[0]) if found.size else None


def check_resolution(pair: Pair) -> Finding | None:
    """Find values coarser than the claim: half precision under fp32, far fewer levels than 8 bits would leave."""
    return _check_half_grid(pair) or _check_levels(pair)


def _check_half_grid(pair: Pair) -> Finding | None:
    """Find an fp32 claim whose every value is one of half precision (fp16 or bfloat16) while the reference's are not.

    A model computed in fp16 with a cast at its end keeps 60 to 110 dB; its last bits give it away.
    """
    if pair.claim.quantum > _SINGLE_QUANTUM:
        return None
    for name, on_grid in (("float16", _is_float16), ("bfloat16", _is_bfloat16)):
        own, coarse = on_grid(pair.reference), on_grid(pair.candidate)
        telling = (pair.reference != 0.0) & (np.abs(pair.reference) != 1.0)
        if telling.sum() >= _GRID_MIN_N and coarse[telling].mean() > _ON_GRID and own[telling].mean() < _OFF_GRID:
            return Finding(ParityCheck.RESOLUTION, f"every value is a {name}; the claim is fp32")
    return None


def _is_float16(values: Floats) -> Flags:
    with np.errstate(over="ignore"):
        return np.asarray(values == values.astype(np.float16))


def _is_bfloat16(values: Floats) -> Flags:
    single = values.astype(np.float32)
    return np.asarray((single == values) & (single.view(np.uint32) & 0xFFFF == 0))


def _check_levels(pair: Pair) -> Finding | None:
    if pair.reference.size < _LEVELS_MIN_N or pair.span == 0.0 or pair.claim.quantum > 2**-8:
        return None
    levels_n = len(np.unique(pair.candidate))
    few_n, ratio = (_FEW_LEVELS_N, _LEVEL_RATIO) if pair.claim.calibrated else (_FEW_LEVELS_FLOAT_N, _LEVEL_RATIO_FLOAT)
    if levels_n > few_n:
        return None
    steps = np.round((pair.reference - pair.reference.min()) * (255.0 / pair.span))
    expected_n = min(len(np.unique(steps)), len(np.unique(pair.reference)))
    if expected_n < ratio * levels_n:
        return None
    return Finding(ParityCheck.RESOLUTION, f"{levels_n} distinct values where 8 bits would leave {expected_n}")


def check_sums(pair: Pair) -> Finding | None:
    """Find distributions (probabilities that sum to 1 along an axis) that no longer do."""
    if not pair.is_probability:
        return None
    for axis in range(pair.reference.ndim - 1, 0, -1):
        sums = pair.reference.sum(axis=axis)
        if pair.reference.shape[axis] < 2 or np.abs(sums - 1.0).max() > _SUM_TOLERANCE:
            continue
        moved = np.abs(pair.candidate.sum(axis=axis) - sums)
        rounding = (_SUM_QUANTA + 0.5 * pair.reference.shape[axis]) * pair.claim.quantum
        allowed = max(rounding if pair.has_levels else min(rounding, _SUM_MOVED), pair.claim.gain)
        if (bad := int((moved > allowed).sum())) > 0:
            reason = f"{bad} distributions along axis {axis} do not sum to 1 (off by up to {float(moved.max()):.3g})"
            return Finding(ParityCheck.GAIN, reason)
        return None
    return None


def _some(indices: Indices) -> str:
    return ", ".join(str(int(index)) for index in indices[:8]) + (" …" if indices.size > 8 else "")
