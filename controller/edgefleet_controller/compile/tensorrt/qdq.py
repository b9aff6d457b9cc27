"""What TensorRT takes of a quantised model, checked by us: the vendor's parser stops at the first node it dislikes.

TensorRT takes explicit Q and DQ around float operators, int8 (or fp8, int4) and symmetric, and no quantised bias. ONNX
Runtime's defaults (uint8 asymmetric activations, int32 bias) and its integer operators are refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

REWRITE = "symmetric int8 Q and DQ, bias in float"
CURE = (
    "quantize with QInt8 activations and weights, QDQ format, ActivationSymmetric, WeightSymmetric, "
    "QuantizeBias=False; or give the float model and let tensorrt/gpu/int8 do it"
)
"""What helps: the options of `onnxruntime.quantization.quantize_static`, or our own build."""

_INTEGER_OPERATORS = frozenset(
    {
        "ConvInteger", "DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger",
        "MatMulIntegerToFloat", "QAttention", "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat",
        "QLinearConv", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMatMul", "QLinearMul", "QLinearSigmoid",
        "QLinearSoftmax",
    }
)  # fmt: skip
_TAKEN = frozenset({TensorProto.INT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.FLOAT4E2M1})
_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})


def refusals(model: onnx.ModelProto) -> dict[int, str]:
    """Return the nodes of the main graph that TensorRT's quantisation rules refuse: index → why."""
    constants = _constants(model.graph)
    found = {}
    for index, node in enumerate(model.graph.node):
        why = _refusal(node, constants)
        if why is not None:
            found[index] = why
    return found


def stray_weights(model: onnx.ModelProto) -> set[str]:
    """Return the int8 weights that something else than DequantizeLinear reads.

    TensorRT's parser takes them and its builder does not ("only allowed before DQ", TensorRT-RTX 1.7).
    """
    constants = _constants(model.graph)
    return {
        name
        for node in model.graph.node
        if node.op_type not in _QDQ
        for name in node.input
        if name in constants and constants[name].data_type == TensorProto.INT8
    }


def _refusal(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> str | None:
    if node.op_type in _INTEGER_OPERATORS:
        return f"{node.op_type} computes on integers; TensorRT takes float operators between Q and DQ"
    if node.op_type not in _QDQ:
        return None
    values = constants.get(node.input[0])
    if node.op_type == "DequantizeLinear" and values is not None and values.data_type == TensorProto.INT32:
        return "a bias quantised to int32; TensorRT takes the bias in float"
    if len(node.input) < 3 or not node.input[2]:
        return _without_zero_point(node)
    return _zero_point(constants.get(node.input[2]))


def _zero_point(point: onnx.TensorProto | None) -> str | None:
    if point is None:
        return None  # computed: the parser's to judge
    if point.data_type not in _TAKEN:
        name = TensorProto.DataType.Name(point.data_type).lower()
        return f"quantised to {name}; TensorRT takes int8 (fp8, int4)"
    if point.data_type == TensorProto.INT8 and np.any(numpy_helper.to_array(point)):
        return "a zero point that is not 0 (asymmetric); TensorRT takes 0 only"
    return None


def _without_zero_point(node: onnx.NodeProto) -> str | None:
    """ONNX reads a missing zero point as uint8 (before opset 21's `output_dtype`), TensorRT as int8: not the same."""
    named = any(attribute.name == "output_dtype" and attribute.i in _TAKEN for attribute in node.attribute)
    if node.op_type == "DequantizeLinear" or named:
        return None
    return "has no zero point: ONNX then means uint8, TensorRT int8; write an int8 zero point of 0"


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    held = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            held.update((node.output[0], each.t) for each in node.attribute if each.HasField("t"))
    return held


def is_quantisation(node: onnx.NodeProto) -> bool:
    """Return whether a node quantises, dequantises, or computes on quantised integers."""
    return node.op_type in _QDQ or node.op_type in _INTEGER_OPERATORS
