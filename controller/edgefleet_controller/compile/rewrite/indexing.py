"""Slicing backwards, uneven splits, negative indices and wrapping pads, as Gather and Split that every target has."""

from __future__ import annotations

import numpy as np
import onnx

from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.rewrite.graph import Builder, attribute, given


def backward_slice(node: onnx.NodeProto, builder: Builder) -> bool:
    """Slice with a negative step: what it picks along each axis."""
    steps = builder.value(given(node, 4) or "")
    return steps is not None and bool(np.any(steps < 0)) and gathered_slice(node, builder)


def gathered_slice(node: onnx.NodeProto, builder: Builder) -> bool:
    """Any Slice of constant bounds: what it picks along each axis."""
    shape = builder.shape(node.input[0])
    starts, ends, axes, steps = (builder.value(given(node, place) or "") for place in range(1, 5))
    if shape is None or starts is None or ends is None:
        return False
    if (given(node, 3) and axes is None) or (given(node, 4) and steps is None):
        return False
    steps = np.ones_like(starts) if steps is None else steps
    places = range(len(starts)) if axes is None else axes.tolist()
    name = node.input[0]
    for axis, start, end, step in zip(places, starts.tolist(), ends.tolist(), steps.tolist(), strict=True):
        picked = _picked(shape[axis], start, end, step)
        if len(picked) < shape[axis] or step < 0:
            name = builder.add("Gather", [name, builder.constant(picked.astype(np.int64))], axis=axis % len(shape))
    builder.add("Identity", [name], node.output)
    return True


def _picked(size: int, start: int, end: int, step: int) -> Array:
    """Return the places a slice picks: bounds are clamped as ONNX says, which is not how Python does it."""
    low, high = (0, size) if step > 0 else (-1, size - 1)
    first, last = (bound + size if bound < 0 else bound for bound in (start, end))
    return np.arange(min(max(first, 0), high), min(max(last, low), high), step)


def uneven_split(node: onnx.NodeProto, builder: Builder) -> bool:
    """Split into a number of parts that does not divide the size: the sizes written out, the last is smaller."""
    shape, parts_n = builder.shape(node.input[0]), attribute(node, "num_outputs")
    axis = attribute(node, "axis", 0)
    if shape is None or parts_n is None or shape[axis] % parts_n == 0:
        return False
    size = -(-shape[axis] // parts_n)
    sizes = [max(0, min(size, shape[axis] - place * size)) for place in range(parts_n)]
    if 0 in sizes:
        return False
    builder.add("Split", [node.input[0], builder.constant(sizes)], node.output, axis=axis)
    return True


def counted_from_start(node: onnx.NodeProto, builder: Builder) -> bool:
    """GatherElements whose indices come at run time: those counted from the end are counted from the start."""
    shape = builder.shape(node.input[0])
    if shape is None or builder.value(node.input[1]) is not None or builder.opset < 13:
        return False
    axis = attribute(node, "axis", 0)
    indices = from_start(builder, node.input[1], shape[axis])
    builder.add("GatherElements", [node.input[0], indices], node.output, axis=axis)
    return True


def from_start(builder: Builder, name: str, size: int) -> str:
    """Add the nodes that count indices from the start of an axis; return the name of the int32 result."""
    number = builder.add("Cast", [name], to=onnx.TensorProto.INT32)
    negative = builder.add("Less", [number, builder.constant(np.asarray(0, dtype=np.int32))])
    moved = builder.add("Add", [number, builder.constant(np.asarray(size, dtype=np.int32))])
    return builder.add("Where", [negative, moved, number])


def wrapped_pad(node: onnx.NodeProto, builder: Builder) -> bool:
    """Pad that goes round: what each axis picks."""
    shape, pads = builder.shape(node.input[0]), builder.value(given(node, 1) or "")
    axes = builder.value(given(node, 3) or "")
    if attribute(node, "mode", "constant") != "wrap" or shape is None or pads is None:
        return False
    if (given(node, 3) and axes is None) or 0 in shape:
        return False
    name = node.input[0]
    befores, afters = pads.reshape(2, -1).tolist()
    places = range(len(shape)) if axes is None else axes.tolist()
    for axis, before, after in zip(places, befores, afters, strict=True):
        picked = np.arange(-before, shape[axis] + after) % shape[axis]
        if before or after:
            name = builder.add("Gather", [name, builder.constant(picked.astype(np.int64))], axis=axis % len(shape))
    builder.add("Identity", [name], node.output)
    return True
