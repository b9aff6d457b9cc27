"""Pairs of outputs from real models on real data: honest artifacts, which must pass, and broken ones, which must fail.

Outputs were recorded from fourteen models (tests/data/parity/README.md says which and how); defects are either recorded
from a broken run of the model, or made of an honest artifact's outputs as the fault would make them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Outputs = dict[str, Array]

DATA = Path(__file__).parents[1] / "tests" / "data" / "parity"
TASKS = {
    "digits": "classification",
    "photos": "classification",
    "files": "classification",
    "lines": "classification",
    "voice": "sequence",
    "faces": "detection",
    "notes": "sequence",
    "sentences": "embedding",
    "patients": "regression",
    "people": "regression",
    "functions": "regression",
    "sixteen": "classification",
    "edges": "regression",
    "eights": "classification",
}


@dataclass(frozen=True)
class Case:
    """One pair: what it claims, and whether it is honest."""

    name: str
    honest: bool
    precision: str
    task: str
    reference: Outputs
    candidate: Outputs
    same_artifact: bool = False


@cache
def recorded(model: str) -> dict[str, Outputs]:
    """Return a model's recorded outputs by variant: `ref`, `claim:how`, `bad:claim:what`."""
    variants: dict[str, Outputs] = {}
    with np.load(DATA / f"{model}.npz") as archive:
        for key in archive.files:
            if key == "labels":
                continue
            variant, _, output = key.partition("|")
            variants.setdefault(variant, {})[output or "out"] = archive[key]
    return variants


def corpus() -> Iterator[Case]:
    """Yield all cases: honest ones first."""
    yield from honest()
    yield from broken()


def honest() -> Iterator[Case]:
    """Yield artifacts as they should be."""
    for model, task in TASKS.items():
        reference = recorded(model)["ref"]
        for variant, outputs in recorded(model).items():
            claim, _, how = variant.partition(":")
            if claim in {"ref", "bad"}:
                continue
            yield Case(f"{model}: {claim} {how}", True, claim, task, reference, outputs)
            if claim == "fp32":
                yield Case(f"{model}: same file, {how}", True, claim, task, reference, outputs, same_artifact=True)
        yield Case(f"{model}: reordered sums", True, "fp32", task, reference, _each(reference, _reordered))
        yield Case(f"{model}: fp16 noise", True, "fp16", task, reference, _each(reference, _half_noise))
    fused, apart = recorded("photos")["int8:minmax_pc"], recorded("photos")["int8:minmax_pc_unfused"]
    yield Case("photos: int8 fused and unfused", True, "int8", TASKS["photos"], fused, apart, same_artifact=True)


def _each(outputs: Mapping[str, Array], change: Callable[[Array], Array]) -> Outputs:
    return {name: change(array.astype(np.float64)).astype(np.float32) for name, array in outputs.items()}


def _reordered(array: Array) -> Array:
    rng = np.random.default_rng(1)
    return array * (1 + 2e-7 * rng.normal(0, 1, array.shape))


def _half_noise(array: Array) -> Array:
    rng = np.random.default_rng(2)
    return array * (1 + 3e-4 * rng.normal(0, 1, array.shape))


def broken() -> Iterator[Case]:
    """Yield artifacts with one fault each."""
    for model, task in TASKS.items():
        reference = recorded(model)["ref"]
        for variant, outputs in recorded(model).items():
            if variant.startswith("bad:"):
                _, claim, what = variant.split(":", 2)
                yield Case(f"{model}: {what}", False, claim, task, reference, outputs)
    for model, variant, name, fault in FAULTS:
        reference, base = recorded(model)["ref"], recorded(model)[variant]
        output = next(iter(base))
        changed = {**base, output: fault(base[output].astype(np.float64)).astype(base[output].dtype)}
        claim = variant.partition(":")[0]
        yield Case(f"{model}: {claim}, {name}", False, claim, TASKS[model], reference, changed)
    yield from _special()


def _special() -> Iterator[Case]:
    digits, sentences = recorded("digits"), recorded("sentences")
    odds = _each(digits["ref"], lambda logits: np.exp(logits - logits.max(axis=1, keepdims=True)))
    small = _each(odds, lambda values: values * 1e-39)
    flushed = _each(small, lambda values: np.where(np.abs(values) < np.finfo(np.float32).tiny, 0.0, values))
    yield Case("digits: subnormals flushed", False, "fp32", TASKS["digits"], small, flushed)
    half = _each(recorded("photos")["fp16:full"], lambda values: values.astype(np.float16))
    yield Case("photos: fp32 that is fp16", False, "fp32", TASKS["photos"], recorded("photos")["ref"], half)
    ids = {"id": digits["ref"]["out"].argmax(axis=1) + 300}
    yield Case("digits: ids truncated to a byte", False, "int8", "classification", ids, {"id": ids["id"] & 0xFF})
    turned = _each(sentences["ref"], lambda values: values * np.where(np.arange(values.shape[1]) % 7 == 3, -1, 1))
    yield Case("sentences: signs flipped", False, "int8-dynamic", TASKS["sentences"], sentences["ref"], turned)
    yield from _boxes()


def _boxes() -> Iterator[Case]:
    """Yield boxes in pixels of a 640-pixel image beside their scores, as detectors give them."""
    faces = recorded("faces")
    reference, honest_run = (_in_pixels(faces[variant]) for variant in ("ref", "fp32:noxnn"))
    half = reference.astype(np.float16).astype(np.float32)
    moved, scores, columns = half.copy(), honest_run.copy(), honest_run.copy()
    moved[..., 0] += 2
    scores[..., 4] *= 0.01
    columns[..., [0, 1]] = columns[..., [1, 0]]
    for name, claim, candidate in (
        ("boxes two pixels off", "fp16", moved),
        ("scores died", "int8", scores),
        ("x and y swapped", "int8", columns),
    ):
        yield Case(f"faces: {name}", False, claim, "detection", {"out": reference}, {"out": candidate})


def _in_pixels(outputs: Mapping[str, Array]) -> Array:
    boxes = 320.0 + 2.5 * outputs["boxes"][..., :4]
    scores = 1.0 / (1.0 + np.exp(-np.clip(outputs["scores"], -30, 30)))
    return np.asarray(np.concatenate([boxes, scores], axis=2), dtype=np.float32)


Fault = Callable[[Array], Array]
Place = int | slice | EllipsisType | tuple[int | slice, ...]
"""What NumPy takes between brackets."""


def put(place: Place, value: float) -> Fault:
    """Return a fault that sets elements."""

    def fault(values: Array) -> Array:
        values[place] = value
        return values

    return fault


def scaled(place: Place, factor: float) -> Fault:
    """Return a fault that scales elements."""

    def fault(values: Array) -> Array:
        values[place] *= factor
        return values

    return fault


def moved(source: Place, target: Place) -> Fault:
    """Return a fault that copies elements over others."""

    def fault(values: Array) -> Array:
        values[target] = values[source].copy()
        return values

    return fault


def swapped(first: int, second: int, axis: int) -> Fault:
    """Return a fault that swaps two slices along an axis."""

    def fault(values: Array) -> Array:
        order = np.arange(values.shape[axis])
        order[[first, second]] = second, first
        return np.take(values, order, axis=axis)

    return fault


def repeated(step: int, axis: int = 0) -> Fault:
    """Return a fault that gives every `step`-th frame as the one before it."""

    def fault(values: Array) -> Array:
        places = np.arange(values.shape[axis])
        places[step - 1 :: step] = places[step - 1 :: step] - 1
        return np.take(values, places, axis=axis)

    return fault


def _strongest(values: Array) -> int:
    return int(values.max(axis=0).argmax())


def class_scaled(factor: float) -> Fault:
    """Return a fault that scales the class with the largest value."""

    def fault(values: Array) -> Array:
        values[:, _strongest(values)] *= factor
        return values

    return fault


def class_dead(values: Array) -> Array:
    """Set the class with the largest value to 0."""
    values[:, _strongest(values)] = 0
    return values


def saturated(share: float) -> Fault:
    """Return a fault that clips at a share of the largest value."""
    return lambda values: np.minimum(values, share * values.max())


def quantised(bits: int) -> Fault:
    """Return a fault that leaves 2^bits levels."""

    def fault(values: Array) -> Array:
        step = np.ptp(values) / (2**bits - 1)
        return np.asarray(np.round(values / step) * step)

    return fault


FAULTS: tuple[tuple[str, str, str, Fault], ...] = (
    ("digits", "fp32:none", "one NaN", put((7, 3), np.nan)),
    ("digits", "int8:pct", "one infinity", put((7, 3), np.inf)),
    ("digits", "int8:pct", "classes off by one", lambda values: np.roll(values, 1, axis=1)),
    ("digits", "int8:pct", "dead class", class_dead),
    ("digits", "int8:pct", "two classes swapped", swapped(2, 7, 1)),
    ("digits", "int8:pct", "one class scaled by 1.15", class_scaled(1.15)),
    ("digits", "int8:minmax", "one class scaled by 0.85", class_scaled(0.85)),
    ("digits", "int8:pct", "gain 1.05", lambda values: 1.05 * values),
    ("digits", "int8:minmax", "gain 0.94", lambda values: 0.94 * values),
    ("digits", "fp16:full", "gain 1.02", lambda values: 1.02 * values),
    ("digits", "int8:pct", "offset of a fifth of the deviation", lambda values: values + 0.2 * values.std()),
    ("digits", "int8:pct", "one sample with the wrong sign", scaled(11, -1.0)),
    ("digits", "int8:pct", "one sample zero", put(11, 0.0)),
    ("digits", "int8:pct", "a sample carries its neighbour's output", moved(20, 21)),
    ("digits", "int8:pct", "every eighth sample repeated", repeated(8)),
    ("digits", "int8:pct", "half rate", repeated(2)),
    ("digits", "int8:pct", "one sample late", lambda values: np.roll(values, 1, axis=0)),
    ("digits", "int8:pct", "order reversed", lambda values: values[::-1]),
    ("digits", "int8:pct", "two rows swapped", swapped(30, 61, 0)),
    ("digits", "int8:pct", "saturated at half", saturated(0.5)),
    ("digits", "fp32:none", "saturated at 0.8", saturated(0.8)),
    ("digits", "int8:pct", "three bits", quantised(3)),
    ("digits", "fp32:none", "eight bits under an fp32 claim", quantised(8)),
    ("digits", "int8:pct", "wraps round at the top", lambda v: np.where(v > np.quantile(v, 0.98), v - np.ptp(v), v)),
    ("photos", "int8:pct", "one class dead", class_dead),
    ("photos", "int8:pct", "classes off by one", lambda values: np.roll(values, 1, axis=1)),
    ("photos", "int8:shipped", "gain 1.15", lambda values: 1.15 * values),
    ("photos", "fp16:full", "one class scaled by 1.1", class_scaled(1.1)),
    ("photos", "int8:pct", "second half of the classes zero", put((slice(None), slice(40, None)), 0.0)),
    (
        "photos",
        "int8:pct",
        "samples shuffled",
        lambda values: values[[5, 3, 8, 0, 12, 1, 15, 4, 9, 2, 14, 7, 6, 11, 10, 13]],
    ),
    ("files", "int8-dynamic:dyn", "scores of a class scaled by 1.15", class_scaled(1.15)),
    ("files", "int8-dynamic:dyn", "classes off by one", lambda values: np.roll(values, 1, axis=1)),
    ("files", "fp16:full", "probabilities saturate at 0.9", saturated(0.9)),
    ("lines", "int8:ent", "classes swapped", lambda values: values[:, ::-1]),
    ("lines", "int8:ent", "stuck at the first sample", lambda values: np.repeat(values[:1], len(values), axis=0)),
    ("voice", "fp16:weights", "one frame late", lambda values: np.roll(values, 1, axis=0)),
    ("voice", "fp16:weights", "three frames late", lambda values: np.roll(values, 3, axis=0)),
    ("voice", "fp16:weights", "half rate", repeated(2)),
    ("voice", "fp32:none", "every eighth frame repeated", repeated(8)),
    ("voice", "fp16:weights", "saturates at 0.8", saturated(0.8)),
    ("faces", "fp32:noxnn", "offset of a coordinate", lambda v: v + 0.05 * v.std() * (np.arange(v.shape[2]) == 2)),
    ("faces", "fp32:noxnn", "anchors shifted", lambda values: np.roll(values, 1, axis=1)),
    ("faces", "fp32:noxnn", "layout transposed", lambda values: np.moveaxis(values, 1, 2).reshape(values.shape)),
    ("faces", "fp32:noxnn", "one image's boxes of another", moved(2, 3)),
    ("faces", "fp32:noxnn", "all constant", lambda values: np.full_like(values, values.mean())),
    ("notes", "fp32:none", "every eighth frame repeated", repeated(8, axis=1)),
    ("notes", "fp32:none", "one frame late", lambda values: np.roll(values, 1, axis=1)),
    ("notes", "fp32:none", "frames and notes swapped", lambda v: np.moveaxis(v, 1, 2).reshape(v.shape)),
    ("notes", "fp32:none", "a note dead", put((slice(None), slice(None), 5), 0.0)),
    ("notes", "fp32:none", "the later half reversed", lambda v: np.concatenate([v[:, :24], v[:, :23:-1]], axis=1)),
    ("notes", "fp32:none", "one excerpt late", lambda v: np.concatenate([v[:2], np.roll(v[2:3], 1, axis=1), v[3:]])),
    ("sentences", "int8-dynamic:dyn", "one vector with the wrong sign", scaled(5, -1.0)),
    ("sentences", "int8-dynamic:dyn", "one dimension with the wrong sign", scaled((slice(None), 3), -1.0)),
    ("sentences", "int8-dynamic:dyn", "rows swapped", swapped(4, 9, 0)),
    ("sentences", "int8-dynamic:dyn", "normalised", lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)),
    ("sentences", "fp16:full", "gain 1.03", lambda values: 1.03 * values),
    ("patients", "int8:minmax_pc", "one value with the wrong sign", scaled(33, -1.0)),
    ("patients", "int8:minmax_pc", "one value halved", scaled(33, 0.5)),
    ("patients", "int8:minmax", "one value of another sample", moved(99, 33)),
    ("patients", "int8:minmax", "the last three values zero", put(slice(-3, None), 0.0)),
    ("patients", "int8:s8", "the last four values repeat those before", moved(slice(-8, -4), slice(-4, None))),
    ("patients", "int8-dynamic:dyn", "gain 1.05", lambda values: 1.05 * values),
    ("people", "int8:minmax_pc", "offset of a third of the deviation", lambda values: values + 0.3 * values.std()),
    ("people", "int8:minmax", "one value with the wrong sign", scaled(66, -1.0)),
    ("functions", "int8:minmax_pc", "one sample of another", moved(24, 66)),
    ("functions", "int8:minmax_pc", "one output scaled by 0.85", scaled((slice(None), 1), 0.85)),
    ("functions", "fp32:none", "one sample in 16 scaled by 1.3", scaled((slice(5, None, 16),), 1.3)),
    ("sixteen", "int8:minmax_pc", "one of 16 samples with the wrong sign", scaled(5, -1.0)),
    ("sixteen", "int8:minmax_pc", "one of 16 samples zero", put(5, 0.0)),
    ("sixteen", "int8:minmax", "two of 16 samples swapped", swapped(3, 12, 0)),
    ("sixteen", "int8:minmax", "a dead class", class_dead),
    ("sixteen", "fp16:full", "one of 16 samples halved", scaled(5, 0.5)),
    ("edges", "int8:minmax_pc", "two frames swapped", swapped(10, 11, 0)),
    ("edges", "int8:pct", "one frame of another place", moved(20, 7)),
    (
        "edges",
        "int8:minmax_pc",
        "one frame late by a pixel",
        lambda v: np.concatenate([v[:7], np.roll(v[7:8], 1, 3), v[8:]]),
    ),
    ("edges", "fp16:full", "five bits", quantised(5)),
    ("edges", "fp16:full", "one frame late", lambda values: np.roll(values, 1, axis=0)),
    ("eights", "int8:minmax_pc", "classes off by one", lambda values: np.roll(values, 1, axis=1)),
    ("eights", "int8:minmax", "two rows swapped", swapped(0, 1, 0)),
    ("eights", "int4:b16", "one class dead", class_dead),
)
