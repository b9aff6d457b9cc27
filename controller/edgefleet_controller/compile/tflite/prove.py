"""Does a converted fp32 file compute what its source computes? Asked before anything is quantised.

How far two right answers may lie apart is measured, not assumed: the source itself is run once more without
optimisation and on inputs moved by about one unit in the last place. Log and normalising front ends amplify that a
thousandfold, classifiers hardly at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgefleet_controller.compile.ingest.split import spread
from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.ort import session

RELATIVE = 2e-3
"""Largest difference of an element, relative to itself, that other orders of summation and other polynomials of exp and
log explain (ONNX's own node tests allow 1e-3)."""
OF_PEAK = 2e-5
"""The same relative to the tensor's largest finite magnitude: sums that cancel."""
NOISE_FACTOR = 8.0
"""How many times the source's own noise a right conversion may be off."""
MAX_PROBES_N = 4
_JITTER = 2.0**-23
_SEED = 20_240_229


@dataclass(frozen=True)
class Probes:
    """Inputs with the source's outputs on them.

    Attributes:
        feeds: real samples, and the same with their values shuffled, which leaves the trodden path.
        reference: output → one array a feed.
        noise: output → largest difference between right answers over all feeds; for integers, how many elements.
    """

    feeds: list[Arrays]
    reference: Mapping[str, list[Array]]
    noise: Mapping[str, float]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the sizes of every input and output."""
        inputs = {name: array.shape for name, array in self.feeds[0].items()}
        return inputs | {name: runs[0].shape for name, runs in self.reference.items()}

    def dtype(self, output: str) -> str | None:
        """Return an output's dtype, or None where the source has none of this name."""
        return self.reference[output][0].dtype.name if output in self.reference else None


def make_probes(model: onnx.ModelProto, feeds: Sequence[Arrays], kept: Collection[str] = ()) -> Probes:
    """Return probes made of real feeds; inputs named in `kept` are not shuffled or moved.

    Raises what ONNX Runtime raises (`session.RUNTIME_ERRORS`).
    """
    places = spread(len(feeds), MAX_PROBES_N)
    generator = np.random.default_rng(_SEED)
    chosen: list[Arrays] = [feeds[place] for place in places]
    chosen.append({name: array if name in kept else _shuffled(array, generator) for name, array in chosen[0].items()})
    data = model.SerializeToString()
    source, plain = session.Session(data), session.Session(data, optimise=False)
    reference = [source.run(feed) for feed in chosen]
    again = [plain.run(_jittered(feed, kept, generator)) for feed in chosen]
    names = source.output_names
    return Probes(
        feeds=chosen,
        reference={name: [run[place] for run in reference] for place, name in enumerate(names)},
        noise={
            name: max(_distance(run[place], other[place]) for run, other in zip(reference, again, strict=True))
            for place, name in enumerate(names)
        },
    )


def difference(ours: Array, theirs: Array, noise: float = 0.0) -> str | None:
    """Return how an output differs from the source's (of equal shape), or None where rounding explains it.

    Integers and booleans may differ where the source itself wavers; NaN and infinities must stand at the same places.
    """
    if ours.shape != theirs.shape:
        return f"shape {list(ours.shape)} became {list(theirs.shape)}"
    if ours.dtype.kind != "f":
        wrong_n = int(np.count_nonzero(ours != theirs))
        return f"{wrong_n} of {ours.size} {ours.dtype} elements differ" if wrong_n > NOISE_FACTOR * noise else None
    left, right = ours.astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(left)
    if not np.array_equal(finite, np.isfinite(right)):
        return "NaN or infinite elements stand elsewhere"
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return "infinite elements have another sign, or NaN stands for them"
    return _excess(left[finite], right[finite], noise)


def _excess(left: Array, right: Array, noise: float) -> str | None:
    if not left.size:
        return None
    peak = float(np.max(np.abs(left)))
    allowed = RELATIVE * np.abs(left) + max(OF_PEAK * peak, NOISE_FACTOR * noise)
    excess = np.abs(left - right) - allowed
    worst = int(np.argmax(excess))
    if excess[worst] <= 0:
        return None
    return f"{left[worst]:.6g} became {right[worst]:.6g} where values reach {peak:.3g}"


def _distance(ours: Array, theirs: Array) -> float:
    if ours.shape != theirs.shape:
        return 0.0
    if ours.dtype.kind != "f":
        return float(np.count_nonzero(ours != theirs))
    left, right = ours.astype(np.float64), theirs.astype(np.float64)
    both = np.isfinite(left) & np.isfinite(right)
    return float(np.max(np.abs(left[both] - right[both]), initial=0.0))


def _shuffled(array: Array, generator: np.random.Generator) -> Array:
    """Return floats in another order; integers mean something where they stand (ids, lengths) and stay."""
    if array.dtype.kind != "f" or array.size < 2:
        return array
    return np.asarray(generator.permutation(array.reshape(-1)).reshape(array.shape))


def _jittered(feed: Arrays, kept: Collection[str], generator: np.random.Generator) -> Arrays:
    return {name: array if name in kept else _moved(array, generator) for name, array in feed.items()}


def _moved(array: Array, generator: np.random.Generator) -> Array:
    if array.dtype.kind != "f":
        return array
    return np.asarray(array * (1 + generator.choice([-_JITTER, _JITTER], size=array.shape)), dtype=array.dtype)
