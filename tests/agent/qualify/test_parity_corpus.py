"""No healthy pair may fail and no broken pair may pass: synthetic heads of every task, under three claims."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from edgefleet_agent.qualify.parity.compare import compare_outputs
from edgefleet_agent.qualify.parity.tensor import Floats
from edgefleet_contract.evidence import ParityVerdict, Task

HEADS = ("logits", "probabilities", "detection", "embedding", "segmentation", "regression", "sequence", "score")
CLAIMS = ("fp32", "fp16", "int8")
TASKS = {
    "logits": Task.CLASSIFICATION,
    "probabilities": Task.CLASSIFICATION,
    "detection": Task.DETECTION,
    "embedding": Task.EMBEDDING,
    "segmentation": Task.SEGMENTATION,
    "regression": Task.REGRESSION,
    "sequence": Task.SEQUENCE,
    "score": Task.REGRESSION,
}


def softmax(logits: Floats) -> Floats:
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def smooth(array: Floats, axis: int) -> Floats:
    return np.asarray((array + np.roll(array, 1, axis) + np.roll(array, 2, axis)) / 3)


@cache
def reference_of(head: str) -> Floats:
    """Return the reference of a head, first axis = sample, as a float32 model would give it."""
    rng = np.random.default_rng(HEADS.index(head))
    logits = rng.normal(-4, 3, (400, 10)) + 12 * np.eye(10)[rng.integers(0, 10, 400)]
    boxes = rng.uniform(0, 640, (24, 100, 4))
    scores = 1 / (1 + np.exp(-rng.normal(-4, 2.5, (24, 100, 40))))
    maps = smooth(smooth(rng.normal(0, 4, (16, 5, 24, 24)), 2), 3)
    made = {
        "logits": logits,
        "probabilities": softmax(logits),
        "detection": np.concatenate([boxes, scores], axis=2),
        "embedding": rng.normal(0, 1, (80, 8)) @ rng.normal(0, 1, (8, 64)) + 0.3 * rng.normal(0, 1, (80, 64)),
        "segmentation": maps,
        "regression": rng.normal(5, 2, (300, 3)),
        "sequence": softmax(smooth(rng.normal(0, 6, (16, 60, 12)), 1)),
        "score": rng.uniform(0, 1, (300, 1)),
    }[head]
    return np.asarray(made.astype(np.float32).astype(np.float64))


@cache
def healthy_of(head: str, claim: str, seed: int = 0) -> Floats:
    """Return an honest artifact's outputs: rounding, noise and (int8) a lean of each channel that grows with it."""
    reference = reference_of(head)
    rng = np.random.default_rng(1000 + seed)
    scale = np.abs(reference).max(axis=tuple(range(reference.ndim - 1)))
    if claim != "int8":
        noise = {"fp32": 3e-7, "fp16": 4e-4}[claim] * rng.normal(0, 1, reference.shape)
        return np.asarray(reference * (1 + noise) + 0.3 * noise[::-1] * np.median(np.abs(reference)))
    lean = 1 + rng.normal(0, 0.006, scale.shape)
    noisy = (
        reference * lean
        + 0.004 * scale * rng.normal(0, 1, reference.shape)
        + 0.003 * scale * rng.normal(0, 1, scale.shape)
    )
    if reference.min() >= 0:
        noisy = np.maximum(noisy, 0)
    return np.asarray(np.round(noisy / (scale / 127)) * (scale / 127))


def verdict_of(
    reference: Floats, candidate: Floats, head: str, claim: str, task: Task | None
) -> tuple[ParityVerdict, str]:
    result = compare_outputs({"out": reference}, {"out": candidate}, precision=claim, task=task)
    return result.verdict, f"{result.failed_check} {result.reason}"


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("guess", [False, True])
def test_a_healthy_pair_passes(head: str, claim: str, guess: bool) -> None:
    for seed in range(4):
        candidate = healthy_of(head, claim, seed)
        verdict, why = verdict_of(reference_of(head), candidate, head, claim, None if guess else TASKS[head])
        assert verdict is ParityVerdict.PASS, why


Break = Callable[[Floats], Floats]


def put(place: Any, value: float) -> Break:
    def broken(candidate: Floats) -> Floats:
        result = candidate.copy()
        result[place] = value
        return result

    return broken


def scale_channel(factor: float) -> Break:
    def broken(candidate: Floats) -> Floats:
        result = candidate.copy()
        result[..., 1] *= factor
        return result

    return broken


def repeat_every(step: int) -> Break:
    def broken(candidate: Floats) -> Floats:
        result = candidate.copy()
        result[step::step] = result[step - 1 : -1 : step][: len(result[step::step])]
        return result

    return broken


def swap_channels(candidate: Floats) -> Floats:
    result = candidate.copy()
    result[..., [0, 1]] = result[..., [1, 0]]
    return result


def bad_sample(candidate: Floats) -> Floats:
    result = candidate.copy()
    result[5] = -result[5]
    return result


def clip_at_quantile(candidate: Floats) -> Floats:
    return np.asarray(np.minimum(candidate, np.quantile(candidate, 0.9)))


def offset_channel(candidate: Floats) -> Floats:
    result = candidate.copy()
    result[..., 1] += 0.5 * result[..., 1].std()
    return result


def add_noise(candidate: Floats) -> Floats:
    rng = np.random.default_rng(9)
    return np.asarray(candidate + 0.316 * np.sqrt(np.square(candidate).mean()) * rng.normal(0, 1, candidate.shape))


def lose_tops(candidate: Floats) -> Floats:
    result = candidate.reshape(len(candidate), -1).copy()
    top = np.argsort(result, axis=1)[:, -max(1, result.shape[1] // 100) :]
    np.put_along_axis(result, top, np.median(result, axis=1, keepdims=True), axis=1)
    return result.reshape(candidate.shape)


def three_bits(candidate: Floats) -> Floats:
    scale = np.ptp(candidate) / 7
    return np.asarray(np.round(candidate / scale) * scale)


EVERY: dict[str, Break] = {
    "one NaN": put((3, 0), np.nan),
    "one infinity": put((3, 0), np.inf),
    "all NaN": lambda candidate: np.full_like(candidate, np.nan),
    "all zero": np.zeros_like,
    "constant": lambda candidate: np.full_like(candidate, candidate.mean()),
    "sign": np.negative,
    "order reversed": lambda candidate: candidate[::-1],
    "one sample late": lambda candidate: np.roll(candidate, 1, axis=0),
    "every 4th repeats": repeat_every(4),
    "every 8th repeats": repeat_every(8),
    "clipped at the 0.9 quantile": clip_at_quantile,
    "scaled by 1.15": lambda candidate: 1.15 * candidate,
    "offset": lambda candidate: candidate + 0.5 * candidate.std(),
    "noise of 10 dB": add_noise,
    "three bits": three_bits,
    "truncated": lambda candidate: candidate[:, ..., :-1] if candidate.shape[-1] > 1 else candidate[:-1],
    "flattened": lambda candidate: candidate.reshape(-1),
    "integers": lambda candidate: candidate.astype(np.int32),
}
CHANNELS: dict[str, Break] = {
    "dead channel": put((..., 1), 0.0),
    "constant channel": put((..., 1), 0.25),
    "channels swapped": swap_channels,
    "channels shifted by one": lambda candidate: np.roll(candidate, 1, axis=-1),
    "channels reversed": lambda candidate: candidate[..., ::-1],
    "channel scaled by 1.5": scale_channel(1.5),
    "channel scaled by 1.2": scale_channel(1.2),
    "channel offset": offset_channel,
    "one bad sample": bad_sample,
    "scaled by 1.05": lambda candidate: 1.05 * candidate,
}
MAPS: dict[str, Break] = {
    "tops lost": lose_tops,
    "frames shifted by one": lambda candidate: np.roll(candidate, 1, axis=1),
    "laid out the other way": lambda candidate: np.moveaxis(candidate, 1, -1).reshape(candidate.shape),
}
BROKEN = (
    [(head, name, fault) for head in HEADS for name, fault in EVERY.items()]
    + [(head, name, fault) for head in HEADS if head != "score" for name, fault in CHANNELS.items()]
    + [(head, name, fault) for head in ("detection", "segmentation", "sequence") for name, fault in MAPS.items()]
)


@pytest.mark.parametrize(("head", "fault"), [pytest.param(h, f, id=f"{h}: {n}") for h, n, f in BROKEN])
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_broken_pair_fails(head: str, fault: Break, claim: str) -> None:
    task = None if claim == "fp16" else TASKS[head]
    verdict, _ = verdict_of(reference_of(head), fault(healthy_of(head, claim)), head, claim, task)
    assert verdict is ParityVerdict.FAIL
