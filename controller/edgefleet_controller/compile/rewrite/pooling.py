"""Pooling that a target lacks (dilated windows, Lp norms): one strided slice for each place of the window, combined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx

from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.rewrite.graph import Builder, attribute

MAX_PLACES_N = 128
"""Windows of more places would make more nodes than they are worth."""
_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Window:
    """Where a pooling looks, axis by axis; `pads` holds begins, then ends, as far as windows reach."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    declared: tuple[int, ...]
    outputs: tuple[int, ...]
    sizes: tuple[int, ...]


def pool(node: onnx.NodeProto, builder: Builder) -> bool:
    """AveragePool, MaxPool or LpPool with dilations or of kinds the target lacks."""
    shape = builder.shape(node.input[0])
    if shape is None or builder.opset < 10 or len([name for name in node.output if name]) != 1:
        return False
    window = _window(node, shape[2:])
    if window is None or math.prod(window.kernel) > MAX_PLACES_N:
        return False
    {"MaxPool": _max, "AveragePool": _average, "LpPool": _lp}[node.op_type](node, builder, window)
    return True


def explicit_pads(node: onnx.NodeProto, builder: Builder) -> bool:
    """Conv with `auto_pad`: the same with pads written out."""
    shape, weights = builder.shape(node.input[0]), builder.shape(node.input[1])
    if attribute(node, "auto_pad", "NOTSET") not in {"SAME_LOWER", "SAME_UPPER"} or shape is None or weights is None:
        return False
    axes_n = len(shape) - 2
    strides, dilations = (attribute(node, name) or [1] * axes_n for name in ("strides", "dilations"))
    spans = [(size - 1) * step + 1 for size, step in zip(weights[2:], dilations, strict=True)]
    pads = _declared_pads(node, shape[2:], strides, spans)
    kept = {"strides": strides, "dilations": dilations, "group": attribute(node, "group", 1)}
    builder.add("Conv", node.input, node.output, pads=pads, **kept)
    return True


def _max(node: onnx.NodeProto, builder: Builder, window: Window) -> None:
    slices = _slices(builder, _padded(builder, node.input[0], window, _LOWEST), window)
    _combine(builder, "Max", slices, list(node.output))


def _average(node: onnx.NodeProto, builder: Builder, window: Window) -> None:
    slices = _slices(builder, _padded(builder, node.input[0], window, 0.0), window)
    total = _combine(builder, "Add", slices, None)
    counts = _counts(window, with_pads=bool(attribute(node, "count_include_pad", 0)))
    builder.add("Div", [total, builder.constant(counts[None, None].astype(np.float32))], node.output)


def _lp(node: onnx.NodeProto, builder: Builder, window: Window) -> None:
    order = attribute(node, "p", 2)
    size = builder.add("Abs", [node.input[0]])
    if order == 2:
        size = builder.add("Mul", [node.input[0]] * 2)
    elif order != 1:
        size = builder.add("Pow", [size, builder.constant(np.asarray(order, dtype=np.float32))])
    slices = _slices(builder, _padded(builder, size, window, 0.0), window)
    total = _combine(builder, "Add", slices, list(node.output) if order == 1 else None)
    if order == 2:
        builder.add("Sqrt", [total], node.output)
    elif order != 1:
        builder.add("Pow", [total, builder.constant(np.asarray(1 / order, dtype=np.float32))], node.output)


def _window(node: onnx.NodeProto, sizes: tuple[int, ...]) -> Window | None:
    axes_n = len(sizes)
    kernel = tuple(attribute(node, "kernel_shape"))
    strides = tuple(attribute(node, "strides") or [1] * axes_n)
    dilations = tuple(attribute(node, "dilations") or [1] * axes_n)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    declared = _declared_pads(node, sizes, strides, spans)
    ends, outputs = [], []
    for axis, size in enumerate(sizes):
        begin, end = declared[axis], declared[axes_n + axis]
        steps = (size + begin + end - spans[axis]) / strides[axis]
        made = (math.ceil(steps) if attribute(node, "ceil_mode", 0) else math.floor(steps)) + 1
        if (made - 1) * strides[axis] >= size + begin:  # a window may not begin in the padding behind
            made -= 1
        if made < 1:
            return None
        outputs.append(made)
        ends.append(max(end, (made - 1) * strides[axis] + spans[axis] - size - begin))
    return Window(kernel, strides, dilations, (*declared[:axes_n], *ends), tuple(declared), tuple(outputs), sizes)


def _declared_pads(
    node: onnx.NodeProto, sizes: Sequence[int], strides: Sequence[int], spans: Sequence[int]
) -> list[int]:
    mode, axes_n = attribute(node, "auto_pad", "NOTSET"), len(sizes)
    if mode == "NOTSET":
        return list(attribute(node, "pads") or [0] * (2 * axes_n))
    if mode == "VALID":
        return [0] * (2 * axes_n)
    totals = [
        max(0, (math.ceil(size / stride) - 1) * stride + span - size)
        for size, stride, span in zip(sizes, strides, spans, strict=True)
    ]
    smaller = [total // 2 for total in totals]
    larger = [total - small for total, small in zip(totals, smaller, strict=True)]
    return [*larger, *smaller] if mode == "SAME_LOWER" else [*smaller, *larger]


def _padded(builder: Builder, name: str, window: Window, value: float) -> str:
    if not any(window.pads):
        return name
    axes_n = len(window.kernel)
    pads = [0, 0, *window.pads[:axes_n], 0, 0, *window.pads[axes_n:]]
    constant = builder.constant(np.asarray(value, dtype=np.float32))
    if builder.opset >= 11:
        return builder.add("Pad", [name, builder.constant(pads), constant])
    return builder.add("Pad", [name], pads=pads, value=value)


def _slices(builder: Builder, name: str, window: Window) -> list[str]:
    axes = [axis + 2 for axis in range(len(window.kernel))]
    found = []
    for place in product(*map(range, window.kernel)):
        starts = [at * step for at, step in zip(place, window.dilations, strict=True)]
        ends = [
            start + (made - 1) * stride + 1
            for start, made, stride in zip(starts, window.outputs, window.strides, strict=True)
        ]
        parts = [builder.constant(each) for each in (starts, ends, axes, list(window.strides))]
        found.append(builder.add("Slice", [name, *parts]))
    return found


def _combine(builder: Builder, kind: str, names: list[str], outputs: list[str] | None) -> str:
    if len(names) == 1:
        return builder.add("Identity", names, outputs or 1)
    total = names[0]
    for place, name in enumerate(names[1:], start=2):
        total = builder.add(kind, [total, name], outputs if outputs and place == len(names) else 1)
    return total


def _counts(window: Window, *, with_pads: bool) -> Array:
    """Return how many elements each window averages over: those of the input, or of the declared padding too."""
    sizes, axes_n = window.sizes, len(window.sizes)
    mask = np.zeros([b + s + e for b, s, e in zip(window.pads[:axes_n], sizes, window.pads[axes_n:], strict=True)])
    inside = tuple(
        slice(0, begin + size + window.declared[axes_n + axis]) if with_pads else slice(begin, begin + size)
        for axis, (begin, size) in enumerate(zip(window.pads[:axes_n], sizes, strict=True))
    )
    mask[inside] = 1
    counts = np.zeros(window.outputs)
    for place in product(*map(range, window.kernel)):
        starts = [at * step for at, step in zip(place, window.dilations, strict=True)]
        counts += mask[
            tuple(
                slice(start, start + (made - 1) * stride + 1, stride)
                for start, made, stride in zip(starts, window.outputs, window.strides, strict=True)
            )
        ]
    return np.asarray(np.maximum(counts, 1))
