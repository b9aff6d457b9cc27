"""Value ranges of a model's float tensors: measured once on calibration samples, then read by several methods.

The ranges belong to the recipe: every quantised layout and every mix of precisions is made from the same measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx

from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.ort import session

BINS_N = 2048
_HISTOGRAM_MAX_N = 65_536
"""Values of a tensor and sample that enter its histogram, evenly strided; extremes are taken over all values."""
_LEVELS_N = 255
_ENTROPY_LEVELS_N = 128
"""As TensorRT's calibrator merges bins."""
_PERCENTILE = 99.99
_SHRINK = np.linspace(1.0, 0.2, 41)
"""Shares of the full range that clipping methods try."""

LEAST_NORMAL_HALF = 6.104e-5

Range = tuple[float, float]
Ranges = Mapping[str, Range]


@dataclass
class Observed:
    """What one tensor held over all samples.

    Attributes:
        low: smallest finite value.
        high: largest finite value.
        elements_n: elements in one sample.
        mean_abs: mean of absolute values.
        counts: values in `BINS_N` equal bins from `low` to `high`.
        nonzero_n: values counted that are not zero.
        tiny_n: those of them that half precision rounds to a few levels or to zero.
    """

    low: float
    high: float
    elements_n: int
    mean_abs: float
    counts: Array
    nonzero_n: int = 0
    tiny_n: int = 0

    @property
    def tiny_share(self) -> float:
        """Return the share of nonzero values below the least normal half."""
        return self.tiny_n / max(1, self.nonzero_n)

    @property
    def absmax(self) -> float:
        """Return the largest absolute value."""
        return max(abs(self.low), abs(self.high))

    @property
    def centres(self) -> Array:
        """Return the middle of each bin."""
        step = (self.high - self.low) / BINS_N
        return self.low + step * (np.arange(BINS_N) + 0.5)


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Return the float32 tensors that flow through a shape-inferred model's main graph, in the order of its nodes."""
    graph = model.graph
    typed = {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    constant = {tensor.name for tensor in graph.initializer}
    flowing = [value.name for value in graph.input]
    flowing += [name for node in graph.node if node.op_type != "Constant" for name in node.output]
    return [name for name in dict.fromkeys(flowing) if name in typed and name not in constant]


def observe(model: onnx.ModelProto, feeds: Sequence[Arrays]) -> dict[str, Observed]:
    """Run a shape-inferred model twice over the samples: for extremes, then for histograms.

    A tensor that is never finite or always empty is left out.
    """
    names = float_tensors(model)
    read = _reader(model, names)
    seen: dict[str, Observed] = {}
    for feed in feeds:
        for name, array in read(feed):
            _widen(seen, name, array)
    for feed in feeds:
        for name, array in read(feed):
            if name in seen:
                _count(seen[name], array)
    for each in seen.values():
        each.mean_abs = float(np.average(np.abs(each.centres), weights=each.counts)) if each.counts.any() else 0.0
    return seen


def _reader(model: onnx.ModelProto, names: Sequence[str]) -> Callable[[Arrays], Iterable[tuple[str, Array]]]:
    """Return what runs one feed and yields the named tensors."""
    augmented = onnx.ModelProto()
    augmented.CopyFrom(model)
    already = {value.name for value in augmented.graph.output}
    given = {value.name for value in augmented.graph.input}
    wanted = [name for name in names if name not in given]
    augmented.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted if name not in already
    )
    runner = session.Session(augmented.SerializeToString())

    def read(feed: Arrays) -> Iterable[tuple[str, Array]]:
        found = dict(zip(runner.output_names, runner.run(feed), strict=True))
        return [(name, np.asarray(feed[name] if name in given else found[name])) for name in names]

    return read


def _widen(seen: dict[str, Observed], name: str, array: Array) -> None:
    if array.size == 0:
        return
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = array[np.isfinite(array)]
        if finite.size == 0:
            return
        low, high = float(finite.min()), float(finite.max())
    if name not in seen:
        seen[name] = Observed(low, high, array.size, 0.0, np.zeros(BINS_N, np.int64))
    each = seen[name]
    each.low, each.high, each.elements_n = min(each.low, low), max(each.high, high), max(each.elements_n, array.size)


def _count(seen: Observed, array: Array) -> None:
    flat = array.reshape(-1)
    flat = flat[:: max(1, flat.size // _HISTOGRAM_MAX_N)]
    flat = flat[np.isfinite(flat)].astype(np.float64)
    seen.nonzero_n += int(np.count_nonzero(flat))
    seen.tiny_n += int(np.count_nonzero((np.abs(flat) < LEAST_NORMAL_HALF) & (flat != 0)))
    width = seen.high - seen.low
    if width <= 0:
        seen.counts[0] += flat.size
        return
    places = np.clip((flat - seen.low) / width * BINS_N, 0, BINS_N - 1).astype(np.int64)
    seen.counts += np.bincount(places, minlength=BINS_N)


def minmax(seen: Observed, *, symmetric: bool) -> Range:
    """Return the whole range."""
    return (-seen.absmax, seen.absmax) if symmetric else (seen.low, seen.high)


def percentile(seen: Observed, *, symmetric: bool) -> Range:
    """Return the range that leaves out the rarest 0.01 % of values, half of them at each end."""
    share = np.cumsum(seen.counts) / max(1, seen.counts.sum())
    tail = (1 - _PERCENTILE / 100) / 2
    step = (seen.high - seen.low) / BINS_N
    low = seen.low + step * int(np.searchsorted(share, tail, side="right"))
    high = seen.low + step * (int(np.searchsorted(share, 1 - tail, side="left")) + 1)
    low, high = max(seen.low, min(low, high)), min(seen.high, max(low, high))
    return (-max(-low, high), max(-low, high)) if symmetric else (low, high)


def mse(seen: Observed, *, symmetric: bool) -> Range:
    """Return the range of least mean squared error of 8-bit values."""
    return _search(seen, _squared_error, symmetric=symmetric)


def entropy(seen: Observed, *, symmetric: bool) -> Range:
    """Return the range of least Kullback-Leibler divergence between values and 8-bit values, as TensorRT defines it."""
    return _search(seen, _divergence, symmetric=symmetric)


class Method(Protocol):
    """How a range is read from what was observed."""

    def __call__(self, seen: Observed, *, symmetric: bool) -> Range:
        """Return the range; a symmetric one has its zero in the middle."""


METHODS: Mapping[str, Method] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def ranges_by(method: str, seen: Mapping[str, Observed], *, symmetric: bool = False) -> dict[str, Range]:
    """Return the range of every tensor by one of `METHODS`."""
    return {name: METHODS[method](each, symmetric=symmetric) for name, each in seen.items()}


def _search(seen: Observed, loss: Callable[[Observed, float, float], float], *, symmetric: bool) -> Range:
    """Return the clipped range of least loss: both ends together, then each end alone."""
    least, most = (-seen.absmax, seen.absmax) if symmetric else (min(seen.low, 0.0), max(seen.high, 0.0))
    if most - least <= 0:
        return seen.low, seen.high
    _, low, high = min((loss(seen, least * share, most * share), least * share, most * share) for share in _SHRINK)
    if low < 0 < high and not symmetric:
        _, low = min((loss(seen, least * share, high), least * share) for share in _SHRINK)
        _, high = min((loss(seen, low, most * share), most * share) for share in _SHRINK)
    return low, high


def _squared_error(seen: Observed, low: float, high: float) -> float:
    step = (high - low) / _LEVELS_N
    if step <= 0:
        return float("inf")
    values = seen.centres
    rounded = low + np.clip(np.rint((values - low) / step), 0, _LEVELS_N) * step
    return float(np.sum(seen.counts * (values - rounded) ** 2))


def _divergence(seen: Observed, low: float, high: float) -> float:
    step = (seen.high - seen.low) / BINS_N
    first = int(np.clip((low - seen.low) / step, 0, BINS_N - 1)) if step > 0 else 0
    last = int(np.clip(np.ceil((high - seen.low) / step), first + 1, BINS_N)) if step > 0 else BINS_N
    if last - first < _ENTROPY_LEVELS_N:
        return float("inf")
    counts = _without_spike(seen)
    inside = counts[first:last]
    kept = inside.copy()
    kept[0] += counts[:first].sum()
    kept[-1] += counts[last:].sum()
    levels = np.arange(last - first) * _ENTROPY_LEVELS_N // (last - first)
    filled = inside > 0
    sums = np.bincount(levels, weights=inside, minlength=_ENTROPY_LEVELS_N)
    users = np.bincount(levels, weights=filled, minlength=_ENTROPY_LEVELS_N)
    guess = np.where(filled, sums[levels] / np.maximum(users[levels], 1), 0.0)
    return _kl(kept, guess)


def _without_spike(seen: Observed) -> Array:
    """Return the counts with zero's bin levelled to its neighbours: after a ReLU it would outweigh all others."""
    counts = seen.counts.astype(np.float64)
    step = (seen.high - seen.low) / BINS_N
    zero = int(np.clip(-seen.low / step, 0, BINS_N - 1)) if step > 0 else 0
    around = [counts[place] for place in (zero - 1, zero + 1) if 0 <= place < BINS_N]
    counts[zero] = min(counts[zero], max(around))
    return counts


def _kl(wanted: Array, got: Array) -> float:
    wanted, got = wanted / max(wanted.sum(), 1e-300), got / max(got.sum(), 1e-300)
    both = wanted > 0
    return float(np.sum(wanted[both] * np.log(wanted[both] / np.maximum(got[both], 1e-12))))
