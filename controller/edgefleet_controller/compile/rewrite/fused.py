"""Operators that ONNX Runtime's own optimiser writes into transformers, taken apart into ONNX's."""

from __future__ import annotations

import math

import numpy as np
import onnx

from edgefleet_controller.compile.rewrite.graph import Builder, attribute, given

_TANH_SCALE = math.sqrt(2 / math.pi)
_TANH_CUBIC = 0.044715
"""Both of the usual approximation of Gelu by tanh (Hendrycks and Gimpel, arXiv:1606.08415)."""


def gelu(node: onnx.NodeProto, builder: Builder) -> bool:
    """Gelu and BiasGelu: half of x, times one plus the error function."""
    name = _biased(node, builder)
    inner = builder.add("Erf", [builder.add("Mul", [name, _scalar(builder, math.sqrt(0.5))])])
    _half_of(node, builder, name, inner)
    return True


def fast_gelu(node: onnx.NodeProto, builder: Builder) -> bool:
    """FastGelu: the same with tanh in the place of the error function."""
    name = _biased(node, builder)
    cubed = builder.add("Mul", [builder.add("Mul", [name, name]), name])
    grown = builder.add("Add", [name, builder.add("Mul", [cubed, _scalar(builder, _TANH_CUBIC)])])
    inner = builder.add("Tanh", [builder.add("Mul", [grown, _scalar(builder, _TANH_SCALE)])])
    _half_of(node, builder, name, inner)
    return True


def quick_gelu(node: onnx.NodeProto, builder: Builder) -> bool:
    """QuickGelu: x times a sigmoid."""
    scaled = builder.add("Mul", [node.input[0], _scalar(builder, attribute(node, "alpha", 1.702))])
    builder.add("Mul", [node.input[0], builder.add("Sigmoid", [scaled])], node.output)
    return True


def skip_layer_norm(node: onnx.NodeProto, builder: Builder) -> bool:
    """SkipLayerNormalization: LayerNormalization of a sum; its mean and deviation are not given."""
    if any(node.output[1:3]) or builder.opset < 17:
        return False
    total = _summed(node, builder, given(node, 4))
    inputs = [total, node.input[2], *([node.input[3]] if given(node, 3) else [])]
    epsilon = attribute(node, "epsilon", 1e-12)
    builder.add("LayerNormalization", inputs, node.output[:1], axis=-1, epsilon=epsilon)
    return True


def skip_rms_norm(node: onnx.NodeProto, builder: Builder) -> bool:
    """SkipSimplifiedLayerNormalization: a sum, divided by its root mean square."""
    if any(node.output[1:3]) or builder.opset < 13:
        return False
    total = _summed(node, builder, given(node, 3))
    square = builder.add("Mul", [total, total])
    if builder.opset >= 18:
        mean = builder.add("ReduceMean", [square, builder.constant([-1])], keepdims=1)
    else:
        mean = builder.add("ReduceMean", [square], axes=[-1], keepdims=1)
    epsilon = _scalar(builder, attribute(node, "epsilon", 1e-12))
    root = builder.add("Sqrt", [builder.add("Add", [mean, epsilon])])
    builder.add("Mul", [builder.add("Div", [total, root]), node.input[2]], node.output[:1])
    return True


def matrix_product(node: onnx.NodeProto, builder: Builder) -> bool:
    """FusedMatMul: a product of what may be transposed first, times a number."""
    names = []
    if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
        return False
    for name, side in zip(node.input, "AB", strict=True):
        shape = builder.shape(name)
        if shape is None or len(shape) < 2:
            return False
        turned = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        names.append(builder.add("Transpose", [name], perm=turned) if attribute(node, f"trans{side}", 0) else name)
    product = builder.add("MatMul", names)
    builder.add("Mul", [product, _scalar(builder, attribute(node, "alpha", 1.0))], node.output)
    return True


def _scalar(builder: Builder, value: float) -> str:
    return builder.constant(np.asarray(value, dtype=np.float32))


def _biased(node: onnx.NodeProto, builder: Builder) -> str:
    return builder.add("Add", list(node.input)) if given(node, 1) else node.input[0]


def _half_of(node: onnx.NodeProto, builder: Builder, name: str, inner: str) -> None:
    one_more = builder.add("Add", [inner, _scalar(builder, 1.0)])
    builder.add("Mul", [builder.add("Mul", [name, _scalar(builder, 0.5)]), one_more], node.output)


def _summed(node: onnx.NodeProto, builder: Builder, bias: str | None) -> str:
    """Add the sum of input, skip and bias, which is the node's fourth output where it has one."""
    asked = list(node.output[3:4]) if any(node.output[3:4]) else 1
    total = builder.add("Add", list(node.input[:2]), 1 if bias else asked)
    return builder.add("Add", [total, bias], asked) if bias else total
