"""What a claimed precision may cost at worst, and how an honest run narrows that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgefleet_contract.accept import ParityAccept
from edgefleet_contract.errors import UserInputError

NOISE_GAP_DB = 8.0
"""How far below an honest run of the same claim another run may fall: healthy repeats of one int8 model by other
calibrators, kernels and layouts lie within 7 dB of each other (measured on digit and photo classifiers)."""


_TOTAL_BELOW_DB = 4.0
"""Healthy totals lie at most 2.4 dB below the median sample for logits (six models)."""


@dataclass(frozen=True)
class Claim:
    """The worst that a healthy artifact of a precision does, as measured; structure in the error is judged apart.

    These are wide on purpose: log and normalising front ends amplify rounding, so no dB gate separates healthy
    from broken. What lies inside them is judged against the error's own noise.
    """

    quantum: float
    """Smallest step the claim can tell apart, relative to full scale."""
    median_db: float
    """SQNR the median sample must reach."""
    worst_db: float
    """SQNR below which a sample is bad, if it also stands out from the others where `calibrated`."""
    gain: float
    """A relative gain error of the whole tensor that is never a fault."""
    channel_gain: float
    """The same of one channel against the others."""
    agreement: float
    """Share of clear decisions that must stay."""
    calibrated: bool = False
    """Whether ranges come from calibration: values clip at them, and a single low sample may be healthy, for the noise
    has a long tail."""

    odds_moved: float = 2.5
    """Natural logarithm of the odds ratio by which a sample's probability may move; healthy int8 digit classifiers move
    theirs by 1.74 at most in 1,000 samples."""

    asked: bool = False
    """Whether somebody stated `median_db`: then it holds as it stands, without a margin for chance."""
    tightened: bool = False
    """Whether it was stated above what the claim asks for: then errors below the claim's step count too."""

    @property
    def total_db(self) -> float:
        """Return the SQNR that all samples together must reach; the worst ones weigh most in it."""
        return self.median_db - _TOTAL_BELOW_DB


CLAIMS: Mapping[str, Claim] = {
    "fp32": Claim(1e-6, median_db=60, worst_db=50, gain=2e-3, channel_gain=5e-3, agreement=0.99),
    "fp16": Claim(2**-10, median_db=36, worst_db=30, gain=0.01, channel_gain=0.05, agreement=0.97),
    "bf16": Claim(2**-7, median_db=20, worst_db=14, gain=0.12, channel_gain=0.3, agreement=0.9),
    "int16x8": Claim(2**-11, median_db=13, worst_db=7, gain=0.03, channel_gain=0.08, agreement=0.88, calibrated=True),
    "int8": Claim(2**-8, median_db=12, worst_db=7, gain=0.03, channel_gain=0.08, agreement=0.85, calibrated=True),
    "int8-dynamic": Claim(
        2**-8, median_db=12, worst_db=7, gain=0.03, channel_gain=0.08, agreement=0.85, calibrated=True
    ),
    "int4": Claim(
        2**-4,
        median_db=6,
        worst_db=3,
        gain=0.08,
        channel_gain=0.2,
        agreement=0.75,
        calibrated=True,
        odds_moved=4.0,
    ),
}
"""Healthy lows behind the figures (worst / median sample, dB): fp32 with another optimiser 64 / 76, fp16 39 / 44,
int8 classifiers 0 / 15 on processors whose kernels saturate, 13 / 28 elsewhere; EfficientNet-Lite0 7 / 17, with 16-bit
activations 8 / 18, since the weights' 8 bits decide. Four bits moved odds by 3.3 (250 digits); a step away from 0 and
1, a probability that is entirely wrong moves them by 5.7. Channels of a recurrent
state lean 4 % under fp16 and 28 % under bf16 (Silero VAD)."""

SAME_ARTIFACT_CLAIMS: Mapping[str, Claim] = {
    "fp32": Claim(1e-6, median_db=70, worst_db=60, gain=1e-3, channel_gain=3e-3, agreement=0.995),
    "fp16": Claim(2**-10, median_db=44, worst_db=36, gain=5e-3, channel_gain=0.02, agreement=0.98),
    "bf16": Claim(2**-7, median_db=26, worst_db=20, gain=0.02, channel_gain=0.05, agreement=0.95),
    "int16x8": Claim(2**-11, median_db=40, worst_db=30, gain=0.01, channel_gain=0.03, agreement=0.97),
    "int8": Claim(2**-8, median_db=20, worst_db=12, gain=0.02, channel_gain=0.06, agreement=0.95, calibrated=True),
    "int8-dynamic": Claim(
        2**-8, median_db=20, worst_db=12, gain=0.02, channel_gain=0.06, agreement=0.95, calibrated=True
    ),
    "int4": Claim(2**-4, median_db=20, worst_db=12, gain=0.02, channel_gain=0.06, agreement=0.95, calibrated=True),
}
"""One file on two machines. Equal engines on equal processors are bit-exact, fp32 across processors reaches 126 dB;
but another fusion of the same fp32 file falls to 76 dB (worst sample 64) and of the same int8 file to 27, so bit
exactness is reported, not demanded."""


@dataclass(frozen=True)
class NoiseModel:
    """SQNR that honest outputs of the claimed precision reach, per output, in dB; narrows the claim's tolerance."""

    median_sqnr_db: Mapping[str, float] = field(default_factory=dict)


def noise_model(reference: Mapping[str, NDArray[np.generic]], honest: Mapping[str, NDArray[np.generic]]) -> NoiseModel:
    """Return the noise model of honest outputs (such as the builder's) against the reference; first axis = sample."""
    from edgefleet_agent.qualify.parity.tensor import sample_sqnr_db

    found: dict[str, float] = {}
    for name in sorted(reference.keys() & honest.keys()):
        left, right = np.asarray(reference[name]), np.asarray(honest[name])
        if left.shape == right.shape and left.size and left.dtype.kind == "f":
            median_db = float(np.median(sample_sqnr_db(left, right)))
            if np.isfinite(median_db):
                found[name] = median_db
    return NoiseModel(found)


def claim_of(precision: str, *, same_artifact: bool) -> Claim:
    """Return what a precision may cost.

    Raises:
        UserInputError: the precision is unknown.
    """
    table = SAME_ARTIFACT_CLAIMS if same_artifact else CLAIMS
    claim = table.get(precision)
    if claim is None:
        msg = f"unknown precision {precision!r}; allowed: {', '.join(table)}"
        raise UserInputError(msg)
    return claim


def asked_claim(claim: Claim, limits: ParityAccept) -> Claim:
    """Return the claim as the manifest tightens or loosens it; checks of the error's structure keep their own terms."""
    if limits.min_agreement is not None:
        claim = replace(claim, agreement=limits.min_agreement)
    if limits.tolerance_db is None:
        return claim
    return replace(
        claim,
        asked=True,
        tightened=limits.tolerance_db > claim.median_db,
        median_db=limits.tolerance_db,
        worst_db=limits.tolerance_db - max(0.0, claim.median_db - claim.worst_db),
    )


def tolerance_db(claim: Claim, noise: NoiseModel | None, output: str) -> float:
    """Return the SQNR in dB that the median sample of an output must reach."""
    honest_db = None if noise is None else noise.median_sqnr_db.get(output)
    return claim.median_db if honest_db is None else max(claim.median_db, min(honest_db, 120.0) - NOISE_GAP_DB)
