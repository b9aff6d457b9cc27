"""Gain and offset: a systematic part of the error, judged against the error's own noise.

The error of each channel is regressed on the reference: error = gain · (reference - mean) + offset + noise. Healthy
noise of a precision also leans a little, in proportion to itself (clipping and saturating kernels shrink), so a
fault must exceed three things: what the claim may lean, the noise, and chance (errors clustered by sample).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from edgefleet_agent.qualify.parity.tensor import (
    MAD_TO_SIGMA,
    Finding,
    Flags,
    Floats,
    Indices,
    Pair,
    critical_sigmas,
)
from edgefleet_contract.evidence import ParityCheck

_GAIN_PER_NOISE = 0.7
"""Healthy gain error of a tensor over its noise-to-signal amplitude: at most 0.48, where kernels saturate."""
_UNIFORM_GAIN_PER_NOISE = 0.25
"""The same of a gain that small and large values share: at most 0.21 over six real models (saturation and clipping
shrink large values only)."""
_UNIFORM_RATIO = 0.6
_FLOOR_SHARE = 0.25
"""A gain shows at the largest values first: a quarter of the largest deviation must move by a quantisation step."""
_CHANNEL_GAIN_PER_NOISE = 0.5
_CHANNEL_GAIN_PER_NOISE_FEW = 20.0
"""The same of one channel with n effective samples: at most 0.37 at n = 223, 1.55 at n = 17 to 34 (1,000 classes on
crops of five photos): 0.5 + 20 / n."""
_OFFSET_PER_NOISE = 8.0
"""Healthy offset of a channel over its noise: at most 4.3 where the offset exceeds a quantisation step."""
_OFFSET_STEPS = 2.0
_WHOLE_OFFSET_PER_NOISE = 1.0
"""Healthy offset of a whole tensor over its noise where it exceeds a quantisation step: at most 0.08."""
_MIN_CHANNELS_N = 4
_OFFSET_PER_NOISE_LARGE = 5.0
_LARGE_OFFSET = 0.15
"""An offset of this share of the channel's deviation needs less support: healthy ones reach 0.38 only inside noise."""
_OFFSET_PER_SPREAD = 3.0
_MIN_MEDIAN_N = 16
_OUTSTANDING_SIGMAS = 3.0
"""Among n channels the widest healthy one leans 4.4 deviations at n = 1,000; allowed are 3 + log10 n."""
_ONE_TEST = 0.6
"""The whole tensor is one test, not one of many: 3 deviations instead of 5."""
_POOLED_SIGMAS = 8.0
_MIN_POOLED_N = 2.0
_MIN_POINTS_N = 8
_MIN_SAMPLES_N = 3.0
_MIN_CLUSTERS_N = 4
_LIVE_SHARE = 0.05
_PROBABILITY_PEAK = 0.05
"""Channels of probabilities that never rise above this say nothing: softmax multiplies their error."""


@dataclass(frozen=True)
class Fit:
    """The regression of each channel's error; arrays of [channels]."""

    gain: Floats
    gain_se: Floats
    samples_n: Floats
    """Effective number of samples behind each gain: few where few samples hold all of a channel's variance."""
    noise_to_signal: Floats
    offset: Floats
    offset_se: Floats
    noise: Floats
    deviation: Floats
    peak: Floats

    @property
    def chance(self) -> Floats:
        """Return the gain error that chance explains."""
        few = self.samples_n < _MIN_SAMPLES_N
        return np.where(few, np.inf, critical_sigmas(self.samples_n) * self.gain_se)

    def with_share(self, share: float) -> Fit:
        """Return the fit as if only this share of the samples were independent."""
        wider = 1.0 / np.sqrt(share)
        return replace(
            self,
            gain_se=self.gain_se * wider,
            samples_n=self.samples_n * share,
            offset_se=self.offset_se * wider,
        )


def fit_channels(reference: Floats, error: Floats) -> Fit:
    """Regress error on reference for each channel of [samples, channels, others]; deviations clustered by sample."""
    samples_n, _, others_n = reference.shape
    centred = reference - reference.mean(axis=(0, 2), keepdims=True)
    means = error.mean(axis=2)
    offset = means.mean(axis=0)
    moment = np.square(centred).sum(axis=2)
    cross = (centred * (error - offset[None, :, None])).sum(axis=2)
    energy = np.where(moment.sum(axis=0) > 0.0, moment.sum(axis=0), np.inf)
    gain = cross.sum(axis=0) / energy
    rest = error - offset[None, :, None] - gain[None, :, None] * centred
    points_n = samples_n * others_n
    return Fit(
        gain=gain,
        gain_se=np.sqrt(np.square(cross - gain * moment).sum(axis=0)) / energy,
        samples_n=np.square(moment.sum(axis=0)) / np.maximum(np.square(moment).sum(axis=0), np.finfo(float).tiny),
        noise_to_signal=np.sqrt(np.square(rest).sum(axis=(0, 2)) / energy),
        offset=offset,
        offset_se=means.std(axis=0) / np.sqrt(max(1, samples_n - 1)),
        noise=np.sqrt(np.square(rest).mean(axis=(0, 2))),
        deviation=np.sqrt(moment.sum(axis=0) / points_n),
        peak=np.abs(reference).max(axis=(0, 2)),
    )


def check_gain(pair: Pair) -> Finding | None:
    """Find a gain error of the tensor, or of channels against the others."""
    return _check_tensor_gain(pair) or _first(_check_channel_gain(pair, axis) for axis in pair.channel_axes())


def _first(findings: Iterable[Finding | None]) -> Finding | None:
    return next((found for found in findings if found is not None), None)


def _check_tensor_gain(pair: Pair) -> Finding | None:
    if pair.n < 2 or pair.reference.size < _MIN_POINTS_N:
        return None
    fit = fit_channels(pair.reference.reshape(pair.n, 1, -1), pair.error.reshape(pair.n, 1, -1))
    gain = float(fit.gain[0])
    largest = float(np.abs(pair.reference - pair.reference.mean()).max())
    if abs(gain) * max(float(fit.deviation[0]), _FLOOR_SHARE * largest) <= pair.quantum:
        return None
    factor = _UNIFORM_GAIN_PER_NOISE if _is_uniform(pair, gain) else _GAIN_PER_NOISE
    allowed = max(pair.claim.gain, factor * float(fit.noise_to_signal[0]))
    chance = _ONE_TEST * max(float(fit.chance[0]), *_chances_by_channel(pair), 0.0)
    if abs(gain) <= max(allowed, chance):
        return None
    return Finding(ParityCheck.GAIN, f"scaled by {1 + gain:.4f}; noise explains {1 - allowed:.4f} to {1 + allowed:.4f}")


def _is_uniform(pair: Pair, gain: float) -> bool:
    """Tell whether the smaller and the larger half of the deviations from the mean share a gain."""
    centred, error = pair.reference - pair.reference.mean(), pair.error - pair.error.mean()
    small = np.abs(centred) <= np.median(np.abs(centred))
    for part in (small, ~small):
        energy = float(np.square(centred[part]).sum())
        if energy == 0.0 or float((centred[part] * error[part]).sum()) / energy / gain < _UNIFORM_RATIO:
            return False
    return True


def _chances_by_channel(pair: Pair) -> Iterator[float]:
    """Yield the tensor gain that the channels' own systematic errors explain: deviations clustered by channel.

    Samples of one class repeat one pattern of errors, so many samples are no evidence by themselves.
    """
    for axis in pair.channel_axes():
        if pair.reference.shape[axis] >= _MIN_CLUSTERS_N:
            reference, error = (np.swapaxes(side, 0, 1).reshape(side.shape[1], 1, -1) for side in pair.channels(axis))
            yield float(fit_channels(reference, error).chance[0])


def _check_channel_gain(pair: Pair, axis: int) -> Finding | None:
    reference, error = pair.channels(axis)
    if pair.n < 2 or reference.shape[0] * reference.shape[2] < _MIN_POINTS_N:
        return None
    fit = fit_channels(reference, error).with_share(pair.independence)
    live = live_channels(fit.peak, reference)
    if not live.any():
        return None
    centre = float(np.median(fit.gain[live])) if live.sum() >= 4 else 0.0
    lean = np.abs(fit.gain - centre)
    spread = MAD_TO_SIGMA * float(np.median(lean[live])) if live.sum() >= 4 else 0.0
    per_noise = _CHANNEL_GAIN_PER_NOISE + _CHANNEL_GAIN_PER_NOISE_FEW / np.maximum(fit.samples_n, 1.0)
    outstanding = (_OUTSTANDING_SIGMAS + np.log10(max(1, int(live.sum())))) * spread
    allowed = np.maximum(pair.claim.channel_gain, per_noise * fit.noise_to_signal)
    allowed = np.maximum(allowed, np.maximum(outstanding, np.minimum(fit.chance, _pooled_chance(fit, live))))
    bad = np.flatnonzero(live & (lean > allowed))
    if not bad.size:
        return None
    worst = bad[np.argmax(lean[bad] / allowed[bad])]
    reason = f"axis {axis}: channel {worst} is scaled by {1 + fit.gain[worst]:.4f}, the others by {1 + centre:.4f}"
    return Finding(ParityCheck.GAIN, reason)


def _pooled_chance(fit: Fit, live: Flags) -> Floats:
    """Return the gain error that chance explains where few samples hold a channel, with the noise of all channels.

    A channel's own noise is then uncertain; the typical channel's is not. Infinite without four live channels.
    """
    if live.sum() < _MIN_CLUSTERS_N:
        return np.full_like(fit.gain, np.inf)
    noise = np.maximum(fit.noise, float(np.median(fit.noise[live])))
    signal = np.maximum(fit.deviation, np.finfo(np.float64).tiny) * np.sqrt(np.maximum(fit.samples_n, 1.0))
    return np.where(fit.samples_n < _MIN_POOLED_N, np.inf, _POOLED_SIGMAS * noise / signal)


def live_channels(peak: Floats, reference: Floats) -> Flags:
    """Tell which channels are large enough to be owed accuracy.

    Scores and boxes may share a tensor, so a channel is held against the median channel, not the largest; channels
    of probabilities that never rise above 0.05 say nothing (their error is multiplicative: exp of the logit's).
    """
    live = peak >= _LIVE_SHARE * np.median(peak)
    lows, highs = reference.min(axis=(0, 2)), reference.max(axis=(0, 2))
    probability = (lows >= 0.0) & (highs <= 1.0)
    return np.asarray((peak > 0.0) & np.where(probability, peak >= _PROBABILITY_PEAK, live))


def check_offset(pair: Pair) -> Finding | None:
    """Find a constant added to the tensor or to channels."""
    if pair.n < 2 or pair.reference.size < _MIN_POINTS_N:
        return None
    whole = pair.reference.reshape(pair.n, 1, -1), pair.error.reshape(pair.n, 1, -1)
    if _is_offset_whole(pair, fit_channels(*whole)) or _is_offset_typically(pair):
        return Finding(ParityCheck.OFFSET, f"everything is offset by {float(pair.error.mean()):.4g}")
    return _first(_check_channel_offset(pair, axis) for axis in pair.channel_axes())


def _is_offset_whole(pair: Pair, fit: Fit) -> bool:
    """Tell whether one constant was added to all channels: theirs average out in a healthy artifact."""
    if pair.reference.size < _MIN_CHANNELS_N * pair.n:
        return bool(_offsets(pair, fit, pair.n).size)
    size = abs(float(fit.offset[0]))
    sure = size > _OFFSET_STEPS * pair.step and size > float(critical_sigmas(pair.n)) * float(fit.offset_se[0])
    return sure and size > _WHOLE_OFFSET_PER_NOISE * float(fit.noise[0])


def _is_offset_typically(pair: Pair) -> bool:
    """Tell whether most of an output with one element a sample moved by one constant, whatever a few did.

    Clipped samples make the noise look large; the median error and its spread do not see them.
    """
    if pair.reference.size != pair.n or pair.n < _MIN_MEDIAN_N:
        return False
    typical = float(np.median(pair.error))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(pair.error - typical)))
    least = max(_OFFSET_STEPS * pair.quantum, _OFFSET_PER_SPREAD * spread, _LARGE_OFFSET * float(pair.reference.std()))
    return abs(typical) > least


def _check_channel_offset(pair: Pair, axis: int) -> Finding | None:
    reference, error = pair.channels(axis)
    if reference.shape[0] * reference.shape[2] < _MIN_POINTS_N:
        return None
    fit = fit_channels(reference, error).with_share(pair.independence)
    bad = _offsets(pair, fit, pair.n * pair.independence)
    if not bad.size:
        return None
    worst = int(bad[np.argmax(np.abs(fit.offset[bad]))])
    return Finding(ParityCheck.OFFSET, f"axis {axis}: channel {worst} is offset by {fit.offset[worst]:.4g}")


def _offsets(pair: Pair, fit: Fit, samples_n: float) -> Indices:
    """Return channels whose offset noise explains neither of their own nor of the typical channel."""
    size = np.abs(fit.offset)
    noise = np.maximum(fit.noise, np.median(np.hypot(fit.noise, fit.offset)) if len(size) > 2 else 0.0)
    sure = (size > _OFFSET_STEPS * pair.step) & (size > critical_sigmas(samples_n) * fit.offset_se)
    small = size > _OFFSET_PER_NOISE * noise
    large = (size > _OFFSET_PER_NOISE_LARGE * noise) & (size > _LARGE_OFFSET * fit.deviation)
    return np.flatnonzero(sure & (small | large))
