"""Small rewrites: one input, Lp normalisation, one-hot, pads of some axes, batch statistics, means."""

from __future__ import annotations

import numpy as np
import onnx

from edgefleet_controller.compile.rewrite.graph import Builder, attribute, given


def one_input(node: onnx.NodeProto, builder: Builder) -> bool:
    """Max, Min, Sum or Mean of one tensor is that tensor."""
    if len(node.input) != 1:
        return False
    builder.add("Identity", node.input, node.output)
    return True


def lp_normalization(node: onnx.NodeProto, builder: Builder) -> bool:
    """LpNormalization: divide by the norm; ONNX Runtime gives zeros where it is zero."""
    shape, order = builder.shape(node.input[0]), attribute(node, "p", 2)
    if order not in {1, 2} or shape is None:
        return False
    axis = attribute(node, "axis", -1) % len(shape)
    if order == 1:
        total = _sum(builder, builder.add("Abs", [node.input[0]]), axis)
    else:
        total = builder.add("Sqrt", [_sum(builder, builder.add("Mul", [node.input[0]] * 2), axis)])
    # A Max with a tiny number says the same, and becomes a Relu in the converter: 0 / 0.
    empty = builder.add("Equal", [total, builder.constant(np.asarray(0, dtype=np.float32))])
    safe = builder.add("Add", [total, builder.add("Cast", [empty], to=onnx.TensorProto.FLOAT)])
    builder.add("Div", [node.input[0], safe], node.output)
    return True


def _sum(builder: Builder, name: str, axis: int) -> str:
    if builder.opset >= 13:
        return builder.add("ReduceSum", [name, builder.constant([axis])], keepdims=1)
    return builder.add("ReduceSum", [name], axes=[axis], keepdims=1)


def one_hot(node: onnx.NodeProto, builder: Builder) -> bool:
    """OneHot of constant depth and values: compare with the class numbers along a new axis."""
    indices = builder.shape(node.input[0])
    depths = builder.value(node.input[1])
    if indices is None or depths is None or builder.opset < 11:
        return False
    depth = int(depths.reshape(-1)[0])
    axis = attribute(node, "axis", -1) % (len(indices) + 1)
    wide = [*indices[:axis], 1, *indices[axis:]]
    classes = np.arange(depth, dtype=np.int32).reshape([depth if place == axis else 1 for place in range(len(wide))])
    numbers = builder.add("Cast", [node.input[0]], to=onnx.TensorProto.INT32)
    shaped = builder.add("Reshape", [numbers, builder.constant(wide)])
    equal = builder.add("Equal", [shaped, builder.constant(classes)])
    below = builder.add("Equal", [shaped, builder.constant(classes - depth)])  # negative indices count from the end
    hit = builder.add("Or", [equal, below])
    off, on = (builder.add("Gather", [node.input[2], builder.constant([place])], axis=0) for place in (0, 1))
    builder.add("Where", [hit, on, off], node.output)
    return True


def pad_axes(node: onnx.NodeProto, builder: Builder) -> bool:
    """Pad of some axes: pads of all, zeros for the others."""
    axes, pads = (builder.value(given(node, place) or "") for place in (3, 1))
    shape = builder.shape(node.input[0])
    if axes is None or pads is None or shape is None:
        return False
    every = np.zeros((2, len(shape)), dtype=np.int64)
    every[:, axes.astype(np.int64) % len(shape)] = pads.reshape(2, -1)
    inputs = [node.input[0], builder.constant(every.reshape(-1)), *([node.input[2]] if given(node, 2) else [])]
    builder.add("Pad", inputs, node.output, mode=attribute(node, "mode", "constant"))
    return True


def batch_statistics(node: onnx.NodeProto, builder: Builder) -> bool:
    """BatchNormalization in training mode: mean and variance of the batch itself, and the running ones."""
    shape = builder.shape(node.input[0])
    if not attribute(node, "training_mode", 0) or shape is None or not 14 <= builder.opset < 18:
        return False
    name, axes = node.input[0], [axis for axis in range(len(shape)) if axis != 1]
    column = builder.constant([1, shape[1], *([1] * (len(shape) - 2))])
    mean = builder.add("ReduceMean", [name], axes=axes, keepdims=1)
    centred = builder.add("Sub", [name, mean])
    variance = builder.add("ReduceMean", [builder.add("Mul", [centred, centred])], axes=axes, keepdims=1)
    epsilon = builder.constant(np.asarray(attribute(node, "epsilon", 1e-5), dtype=np.float32))
    deviation = builder.add("Sqrt", [builder.add("Add", [variance, epsilon])])
    scale, bias = (builder.add("Reshape", [node.input[place], column]) for place in (1, 2))
    scaled = builder.add("Mul", [builder.add("Div", [centred, deviation]), scale])
    builder.add("Add", [scaled, bias], [node.output[0]])
    momentum = attribute(node, "momentum", 0.9)
    for output, batch, running in zip(node.output[1:], (mean, variance), node.input[3:5], strict=False):
        old = builder.add("Mul", [running, builder.constant(np.asarray(momentum, dtype=np.float32))])
        flat = builder.add("Reshape", [batch, builder.constant([shape[1]])])
        new = builder.add("Mul", [flat, builder.constant(np.asarray(1 - momentum, dtype=np.float32))])
        builder.add("Add", [old, new], [output])
    return True


def bool_extreme(node: onnx.NodeProto, builder: Builder) -> bool:
    """ReduceMax or ReduceMin of booleans: the same of ones and zeros."""
    if builder.dtype(node.input[0]) != "bool":
        return False
    number = builder.add("Cast", [node.input[0]], to=onnx.TensorProto.INT32)
    kept = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    extreme = builder.add(node.op_type, [number, *node.input[1:]], **kept)
    builder.add("Cast", [extreme], node.output, to=onnx.TensorProto.BOOL)
    return True


def constant_product(node: onnx.NodeProto, builder: Builder) -> bool:
    """MatMul of a batch with a constant matrix: one Gemm of all rows, whose weights have a scale a channel."""
    shape, weights = builder.shape(node.input[0]), builder.value(node.input[1])
    if shape is None or weights is None or weights.ndim != 2 or len(shape) < 3:
        return False
    rows = builder.add("Reshape", [node.input[0], builder.constant([-1, shape[-1]])])
    product = builder.add("Gemm", [rows, node.input[1]])
    builder.add("Reshape", [product, builder.constant([*shape[:-1], weights.shape[1]])], node.output)
    return True


def spatial_mean(node: onnx.NodeProto, builder: Builder) -> bool:
    """ReduceMean over height and width: GlobalAveragePool, which has an integer kernel where the mean stays float."""
    shape = builder.shape(node.input[0])
    axes = attribute(node, "axes")
    if axes is None and given(node, 1):
        constant = builder.value(node.input[1])
        axes = None if constant is None else constant.tolist()
    if shape is None or len(shape) != 4 or axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
        return False
    if attribute(node, "keepdims", 1):
        builder.add("GlobalAveragePool", [node.input[0]], node.output)
    else:
        pooled = builder.add("GlobalAveragePool", [node.input[0]])
        builder.add("Reshape", [pooled, builder.constant(list(shape[:2]))], node.output)
    return True


def truncated_modulo(node: onnx.NodeProto, builder: Builder) -> bool:
    """Mod of floats as C's fmod: what is left of the dividend after whole divisors, with the dividend's sign.

    A quotient that rounds up to a whole number takes one divisor too many, which shows in the sign and is given back.
    """
    if not attribute(node, "fmod", 0) or builder.dtype(node.input[0]) != "float32":
        return False
    left, right = node.input
    quotient = builder.add("Div", [left, right])
    whole = builder.add(
        "Mul", [builder.add("Sign", [quotient]), builder.add("Floor", [builder.add("Abs", [quotient])])]
    )
    rest = builder.add("Sub", [left, builder.add("Mul", [whole, right])])
    zero = builder.constant(0.0, "float32")
    beyond = builder.add("Less", [builder.add("Mul", [builder.add("Sign", [rest]), builder.add("Sign", [left])]), zero])
    one = builder.add("Mul", [builder.add("Sign", [left]), builder.add("Abs", [right])])
    builder.add("Where", [beyond, builder.add("Add", [rest, one]), rest], node.output)
    return True
