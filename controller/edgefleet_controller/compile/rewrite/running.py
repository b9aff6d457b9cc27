"""Hardmax, LogSoftmax and CumProd by operators that every target has."""

from __future__ import annotations

import math

import numpy as np
import onnx

from edgefleet_controller.compile.rewrite.graph import Builder, attribute, given

MAX_ELEMENTS = 1_000_000


def hardmax(node: onnx.NodeProto, builder: Builder) -> bool:
    """Hardmax: 1 where the first maximum along the axis is."""
    shape = builder.shape(node.input[0])
    if shape is None or builder.opset < 13 or builder.dtype(node.input[0]) != "float32":
        return False
    axis = attribute(node, "axis", -1) % len(shape)
    first = builder.add("ArgMax", [node.input[0]], axis=axis, keepdims=1)
    places = np.arange(shape[axis]).reshape([-1 if place == axis else 1 for place in range(len(shape))])
    number = builder.add("Cast", [first], to=onnx.TensorProto.INT32)
    hit = builder.add("Equal", [number, builder.constant(places.astype(np.int32))])
    builder.add("Cast", [hit], node.output, to=onnx.TensorProto.FLOAT)
    return True


def log_softmax(node: onnx.NodeProto, builder: Builder) -> bool:
    """LogSoftmax: less the maximum, less the logarithm of the sum; the logarithm of a softmax that is 0 never comes."""
    if builder.opset < 13:
        return False
    axis, name = attribute(node, "axis", -1), node.input[0]
    if builder.opset >= 18:
        highest = builder.add("ReduceMax", [name, builder.constant([axis])], keepdims=1)
    else:
        highest = builder.add("ReduceMax", [name], axes=[axis], keepdims=1)
    centred = builder.add("Sub", [name, highest])
    total = builder.add("ReduceSum", [builder.add("Exp", [centred]), builder.constant([axis])], keepdims=1)
    builder.add("Sub", [centred, builder.add("Log", [total])], node.output)
    return True


def cumulative_product(node: onnx.NodeProto, builder: Builder) -> bool:
    """CumProd: for each place, the product of what comes before it (and of itself), ones for the rest."""
    shape, axes = builder.shape(node.input[0]), builder.value(given(node, 1) or "")
    dtype = builder.dtype(node.input[0])
    if shape is None or axes is None or dtype not in {"float32", "int32"}:
        return False
    axis = int(axes.reshape(-1)[0]) % len(shape)
    size = shape[axis]
    if math.prod(shape) * size > MAX_ELEMENTS:
        builder.refuse(node, f"an axis of {size} takes more than {MAX_ELEMENTS:,} elements")
        return False
    exclusive, reverse = (bool(attribute(node, name, 0)) for name in ("exclusive", "reverse"))
    taken = np.tri(size, size, -1 if exclusive else 0, dtype=bool)  # [made, given]
    taken = taken[::-1, ::-1] if reverse else taken
    wide = [*shape[:axis], 1, *shape[axis:]]
    mask = taken.reshape([*([1] * axis), size, size, *([1] * (len(shape) - axis - 1))])
    spread = builder.add("Reshape", [node.input[0], builder.constant(wide)])
    kept = builder.add("Where", [builder.constant(mask), spread, builder.constant(np.asarray(1, dtype=dtype))])
    builder.add("ReduceProd", [kept, builder.constant([axis + 1])], node.output, keepdims=0)
    return True
