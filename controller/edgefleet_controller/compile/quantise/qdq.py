"""QDQ layouts: the same ranges, written down as each target wants them.

The scales belong to the recipe, the layout to the target.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from edgefleet_controller.compile.graph.onnx_graph import put_nodes, replace_input
from edgefleet_controller.compile.quantise.ranges import Ranges

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that hold most of a model's weights."""
_TENSORRT_OPERATORS = (*WEIGHTED, "Add", "AveragePool", "GlobalAveragePool", "MaxPool")
"""What TensorRT has int8 kernels for; Q and DQ around others would only cost it fusions."""
_TRANSFORMER_MARKS = frozenset({"LayerNormalization", "Softmax", "SkipLayerNormalization", "Attention"})


class QdqLayout(Enum):
    """How Q and DQ nodes are written.

    U8S8: activations uint8 asymmetric, weights int8 per channel. ONNX Runtime on x86: 2.2 times as fast as fp32 on a
        ResNet-8 where S8S8 was slower than fp32. Weights use 7 bits (see `calibrate`).
    U8S8_FULL: the same with all 8 bits, for accelerators, which do not saturate: QNN, OpenVINO.
    S8S8: activations int8 asymmetric, weights int8 per channel: XNNPACK, CUDA.
    TENSORRT: activations int8 symmetric, weights int8 symmetric per channel, bias float: the only one TensorRT
        accepts.
    """

    U8S8 = "u8s8"
    U8S8_FULL = "u8s8-full"
    S8S8 = "s8s8"
    TENSORRT = "tensorrt"


@dataclass(frozen=True)
class _Settings:
    activations: QuantType
    reduce_range: bool
    extra: Mapping[str, Any]
    words: str


_SETTINGS: Mapping[QdqLayout, _Settings] = {
    QdqLayout.U8S8: _Settings(
        QuantType.QUInt8, True, {}, "qdq, activations uint8, weights int8 per channel, 7 bits, depthwise 8 bits"
    ),
    QdqLayout.U8S8_FULL: _Settings(QuantType.QUInt8, False, {}, "qdq, activations uint8, weights int8 per channel"),
    QdqLayout.S8S8: _Settings(QuantType.QInt8, False, {}, "qdq, activations int8, weights int8 per channel"),
    QdqLayout.TENSORRT: _Settings(
        QuantType.QInt8,
        False,
        {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            # The bias stays float, so weights need no scale fit for an int32 one; ONNX Runtime fails on some at that.
            "QDQDisableWeightAdjustForInt32Bias": True,
            # Rounding before an activation would keep TensorRT from fusing the two, and spend levels on what it cuts.
            "OpTypesToExcludeOutputQuantization": list(_TENSORRT_OPERATORS),
        },
        "qdq, activations and weights int8 symmetric, weights per channel, bias float",
    ),
}


def is_symmetric(layout: QdqLayout) -> bool:
    """Return whether a layout's activations have no zero point."""
    return bool(_SETTINGS[layout].extra.get("ActivationSymmetric", False))


def largest_level(layout: QdqLayout) -> int:
    """Return the largest level a product's weights take: 64 of 7 bits, 127 of 8."""
    return 64 if _SETTINGS[layout].reduce_range else 127


def layout_words(layout: QdqLayout) -> str:
    """Return a layout in words, for an artifact's options."""
    return _SETTINGS[layout].words


def is_transformer(model: onnx.ModelProto) -> bool:
    """Return whether a model's weights lie mostly in MatMul and Gemm beside layer norms or attention.

    Such models keep everything but those products in float: int8 softmax and norms cost far more than they save.
    """
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    held = {"conv": 0, "product": 0}
    marked = False
    for node in model.graph.node:
        marked = marked or node.op_type in _TRANSFORMER_MARKS
        kind = "conv" if node.op_type.startswith("Conv") else "product" if node.op_type in {"MatMul", "Gemm"} else None
        if kind is not None:
            held[kind] += sum(sizes.get(name, 0) for name in node.input[1:2])
    return marked and held["product"] > held["conv"]


def layers(model: onnx.ModelProto) -> dict[str, int]:
    """Return the nodes that hold weights, in graph order: name → bytes of its weight in float32."""
    dims = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return {
        node.name: 4 * int(np.prod(dims[node.input[1]]))
        for node in model.graph.node
        if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in dims
    }


def write_qdq(
    model: onnx.ModelProto, ranges: Ranges, layout: QdqLayout, *, keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """Return the model quantised by given ranges.

    Args:
        model: float32, shapes inferred, every node named; it is not changed.
        ranges: low and high of each float tensor, as `calibrate_ranges` gives them.
        layout: how the target wants Q and DQ.
        keep_float: names of nodes that stay in float, with their weights and inputs.
    """
    extra: dict[str, Any] = dict(_SETTINGS[layout].extra)
    operators = _operators(model, layout)
    if is_transformer(model):
        extra |= {"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
    if layout is QdqLayout.U8S8:
        extra["TensorQuantOverrides"] = _full_range_weights(model)
    try:
        made = _quantize(model, ranges, layout, keep_float, operators, extra)
    except ValueError:
        # ONNX Runtime's adjustment of weights to int32 biases stumbles over a Gemm whose weight has no channels.
        extra["QDQDisableWeightAdjustForInt32Bias"] = True
        made = _quantize(model, ranges, layout, keep_float, operators, extra)
    if keep_float:
        _release_inputs(made, frozenset(keep_float))
    return made


def _quantize(
    model: onnx.ModelProto,
    ranges: Ranges,
    layout: QdqLayout,
    keep_float: Collection[str],
    operators: list[str],
    extra: Mapping[str, Any],
) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    settings = _SETTINGS[layout]
    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        copy,
        True,  # per channel
        settings.reduce_range,
        QuantType.QInt8,
        settings.activations,
        TensorsData(CalibrationMethod.MinMax, data),
        [],
        list(keep_float),
        operators,
        dict(extra),
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    made: onnx.ModelProto = quantizer.model.model
    return made


def _operators(model: onnx.ModelProto, layout: QdqLayout) -> list[str]:
    if is_transformer(model):
        return ["Gemm", "MatMul"]
    if layout is QdqLayout.TENSORRT:
        return list(_TENSORRT_OPERATORS)
    return sorted({*QLinearOpsRegistry, *QDQRegistry})


def _full_range_weights(model: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """Return the quantiser's overrides that give depthwise weights all 8 bits: weight → one entry a channel."""
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    each: dict[str, Any] = {"quant_type": QuantType.QInt8, "reduce_range": False}
    overrides = {}
    for node in model.graph.node:
        shape = dims.get(node.input[1], ()) if node.op_type == "Conv" else ()
        groups_n = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if len(shape) == 4 and groups_n > 1 and shape[:2] == (groups_n, 1):
            overrides[node.input[1]] = [{"axis": 0, **each}, *([each] * (shape[0] - 1))]
    return overrides


def _release_inputs(model: onnx.ModelProto, keep_float: frozenset[str]) -> None:
    """Take Q and DQ from tensors that only float nodes read: a float layer behind int8 rounding would gain nothing."""
    graph = model.graph
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    results = {value.name for value in graph.output}
    makers = {name: node for node in graph.node for name in node.output}
    dropped: set[str] = set()
    for dequantise in graph.node:
        if dequantise.op_type != "DequantizeLinear" or dequantise.output[0] in results:
            continue
        quantise = makers.get(dequantise.input[0])
        users = readers.get(dequantise.output[0], [])
        if quantise is None or quantise.op_type != "QuantizeLinear" or len(readers[quantise.output[0]]) != 1:
            continue
        if users and all(user.name in keep_float for user in users):
            for user in users:
                replace_input(user, dequantise.output[0], quantise.input[0])
            dropped |= {dequantise.output[0], quantise.output[0]}
    left = [node for node in graph.node if node.output[0] not in dropped]
    put_nodes(graph, left)
