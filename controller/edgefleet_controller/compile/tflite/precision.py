"""The precision a TFLite file computes in, read from its tensors. Pure."""

from __future__ import annotations

import math
from collections import Counter

from edgefleet_controller.compile.tflite.graph import Graph, Op, Tensor

_CONVERSIONS = frozenset({"CAST", "DEQUANTIZE", "QUANTIZE"})
_WEIGHTED = frozenset({
    "BATCH_MATMUL", "BIDIRECTIONAL_SEQUENCE_LSTM", "CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "LSTM",
    "SVDF", "TRANSPOSE_CONV", "UNIDIRECTIONAL_SEQUENCE_LSTM",
})  # fmt: skip
"""Operators that multiply by weights: what a precision is about."""
INTEGER_WEIGHTS = frozenset({"int4", "int8", "uint8"})
_FLOATS = frozenset({"float32", "float16"})
_BYTES = frozenset({"int8", "uint8"})


def precision_of(graph: Graph) -> str:
    """Return the precision most of a file's weights are multiplied in.

    `int8` and `int16x8` where activations are integers; `int8-dynamic` and `int4` where weights are and activations
    are not, whether the kernel rounds activations itself or the weights are unpacked first; `fp16` where weights are
    stored in half precision; else `fp32`. Without weights, integer activations decide.
    """
    unpacked = _unpacked(graph)
    weighted: Counter[str] = Counter()
    for op in graph.operators:
        if op.type in _WEIGHTED and (weights := _weights(op, unpacked)) is not None:
            weighted[_class_of(op, weights)] += math.prod(size for size in weights.shape if size > 0)
    if weighted:
        return max(weighted, key=lambda each: (weighted[each], each))
    return "int8" if any(_is_integer(op) for op in graph.operators) else "fp32"


def weight_types(graph: Graph) -> frozenset[str]:
    """Return the types that constants are stored in which operators multiply by; empty where none does."""
    unpacked = _unpacked(graph)
    found = (_weights(op, unpacked) for op in graph.operators if op.type in _WEIGHTED)
    return frozenset(each.dtype for each in found if each is not None)


def _unpacked(graph: Graph) -> dict[int, Tensor]:
    """Return, for each tensor that holds a constant in full precision, the constant as it is stored."""
    return {
        op.outputs[0].index: source
        for op in graph.operators
        if op.type == "DEQUANTIZE" and op.outputs and (source := op.input(0)) is not None and source.is_constant
    }


def _weights(op: Op, unpacked: dict[int, Tensor]) -> Tensor | None:
    """Return the largest constant an operator multiplies by, as it is stored."""
    stored = [unpacked.get(each.index, each) for each in op.inputs[1:] if each is not None]
    constants = [each for each in stored if each.is_constant]
    return max(constants, key=lambda each: math.prod(each.shape), default=None)


def _class_of(op: Op, weights: Tensor) -> str:
    moving = next((each.dtype for each in op.inputs if each is not None and not each.is_constant), "float32")
    if moving == "int16":
        return "int16x8"
    if moving in _BYTES:
        return "int8"
    if weights.dtype == "int4":
        return "int4"
    if weights.dtype in _BYTES:
        return "int8-dynamic"
    return "fp16" if weights.dtype == "float16" else "fp32"


def _is_integer(op: Op) -> bool:
    moving = [each for each in (*op.inputs, *op.outputs) if each is not None and not each.is_constant]
    return op.type not in _CONVERSIONS and bool(moving) and all(each.dtype in _BYTES for each in moving)
