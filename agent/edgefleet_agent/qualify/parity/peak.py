"""Peaks: what a detector lives on, and what cosine and SNR do not see.

On a head whose scores are all dead beside healthy boxes, cosine is 0.999999994; the peak of each band of channels and
the values at the reference's highest places tell.
"""

from __future__ import annotations

import numpy as np

from edgefleet_agent.qualify.parity.linear import live_channels
from edgefleet_agent.qualify.parity.tensor import MAD_TO_SIGMA, Finding, Flags, Floats, Indices, Pair
from edgefleet_contract.evidence import ParityCheck, Task

_BAND_CHANNELS_N = 8
_LIVE_SHARE = 0.05
_DEAD_RATIO = 0.05
_TOP_SHARE = 0.001
_TOP_MIN_N = 5
_KEPT_SHARE = 0.5
_CONTRAST_SIGMAS = 6.0
_HIGH_SHARE = 0.1
_CHANCE_SIGMAS = 2.0
"""Errors of one channel's tops move together, so their mean is as uncertain as one of them: no square root."""


def check_band_peak(pair: Pair) -> Finding | None:
    """Find bands of channels whose peak fell below 5 % of the reference's."""
    for axis in pair.channel_axes():
        reference, error = pair.channels(axis)
        for width in (1, _BAND_CHANNELS_N) if pair.task is Task.DETECTION else (_BAND_CHANNELS_N,):
            scores = (reference.min(axis=(0, 2)) >= 0.0) & (reference.max(axis=(0, 2)) <= 1.0)
            peaks = np.abs(reference).max(axis=(0, 2)), np.abs(reference + error).max(axis=(0, 2))
            dead = _dead_bands(*peaks, scores, width, pair)
            if dead.size:
                first = int(dead[0]) * width
                reason = f"axis {axis}: {dead.size} bands of {width} channels lost their peak, first at channel {first}"
                return Finding(ParityCheck.BAND_PEAK, reason)
    return None


def _dead_bands(reference: Floats, candidate: Floats, scores: Flags, width: int, pair: Pair) -> Indices:
    starts = np.arange(0, len(reference), width)
    peak, kept = np.maximum.reduceat(reference, starts), np.maximum.reduceat(candidate, starts)
    live = peak >= _LIVE_SHARE * peak.max()
    if pair.task is Task.DETECTION or (pair.task is None and pair.reference.ndim == 3):
        # Boxes in pixels dwarf scores up to 1: hold scores against each other.
        among = np.median(peak[np.logical_and.reduceat(scores, starts)]) if scores.any() else np.median(peak)
        live |= peak >= max(_LIVE_SHARE * float(np.nan_to_num(among)), _LIVE_SHARE)
    return np.flatnonzero(live & (peak > 0.0) & (kept < _DEAD_RATIO * peak))


def check_top_k(pair: Pair) -> Finding | None:
    """Find channels whose highest values fell below half of their height, further than noise at such values does."""
    for axis in pair.channel_axes():
        reference, error = pair.channels(axis)
        if reference.shape[0] * reference.shape[2] < 4 * _TOP_MIN_N or reference.shape[1] > 512:
            continue
        lost = _lost_tops(reference, error, pair.quantum)
        if lost.size:
            reason = (
                f"axis {axis}: channel {int(lost[0])} keeps less than half of its highest values ({lost.size} such)"
            )
            return Finding(ParityCheck.TOP_K, reason)
    return None


def _lost_tops(reference: Floats, error: Floats, quantum: float) -> Indices:
    rows = np.swapaxes(reference, 0, 1).reshape(reference.shape[1], -1)
    errors = np.swapaxes(error, 0, 1).reshape(rows.shape)
    count = max(_TOP_MIN_N, int(rows.shape[1] * _TOP_SHARE))
    places = np.argpartition(rows, -count, axis=1)[:, -count:]
    height = np.take_along_axis(rows, places, axis=1).mean(axis=1) - np.median(rows, axis=1)
    change = np.take_along_axis(errors, places, axis=1).mean(axis=1)
    noise = MAD_TO_SIGMA * np.median(np.abs(errors), axis=1)
    live = live_channels(np.abs(rows).max(axis=1), reference)
    clear = height > np.maximum(_CONTRAST_SIGMAS * noise, 4.0 * quantum)
    chance = _CHANCE_SIGMAS * _noise_of_high_values(rows, errors, count)
    return np.flatnonzero(live & clear & (change < -(_KEPT_SHARE * height + chance)))


def _noise_of_high_values(rows: Floats, errors: Floats, tops_n: int) -> Floats:
    """Return the deviation of the errors of each channel's highest tenth: noise may grow with the value.

    A median, so that dead tops, which are fewer, do not pass for noise.
    """
    high_n = min(rows.shape[1], max(4 * tops_n, int(rows.shape[1] * _HIGH_SHARE)))
    places = np.argpartition(rows, -high_n, axis=1)[:, -high_n:]
    noise: Floats = MAD_TO_SIGMA * np.median(np.abs(np.take_along_axis(errors, places, axis=1)), axis=1)
    return noise
