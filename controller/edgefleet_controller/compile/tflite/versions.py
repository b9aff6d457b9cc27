"""Operator versions a quantised file needs. The quantiser leaves them at what the float file had.

A runtime checks versions against its kernels, and nothing else: tflite-runtime 2.14 computes garbage from a
dynamic-range file stamped 1, and refuses the same file stamped 12.
Source: TensorFlow's `tflite/tools/versioning/op_version.cc`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from edgefleet_controller.compile.tflite import flatbuffer
from edgefleet_controller.compile.tflite.flatbuffer import FlatObject

Versions: TypeAlias = Mapping[str, int]

STATIC_INT8: Versions = {
    "ADD": 2, "AVERAGE_POOL_2D": 2, "BATCH_MATMUL": 2, "CONCATENATION": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3,
    "EQUAL": 2, "FULLY_CONNECTED": 4, "GATHER": 2, "GREATER": 2, "GREATER_EQUAL": 2, "L2_NORMALIZATION": 2, "LESS": 2,
    "LESS_EQUAL": 2, "LOGISTIC": 2, "LOG_SOFTMAX": 2, "MAXIMUM": 2, "MAX_POOL_2D": 2, "MEAN": 2, "MINIMUM": 2, "MUL": 2,
    "PAD": 2, "PADV2": 2, "RELU": 2, "RELU6": 2, "RESIZE_BILINEAR": 2, "RESIZE_NEAREST_NEIGHBOR": 2, "RSQRT": 2,
    "SLICE": 2, "SOFTMAX": 2, "SPACE_TO_DEPTH": 2, "SPLIT": 2, "STRIDED_SLICE": 2, "SUB": 2, "SUM": 2, "TANH": 2,
    "TRANSPOSE": 2, "TRANSPOSE_CONV": 2,
}  # fmt: skip
STATIC_INT16: Versions = {
    "ADD": 3, "AVERAGE_POOL_2D": 3, "BATCH_MATMUL": 3, "CONCATENATION": 3, "CONV_2D": 4, "DEPTHWISE_CONV_2D": 5,
    "FULLY_CONNECTED": 7, "LOGISTIC": 3, "MAXIMUM": 3, "MAX_POOL_2D": 3, "MEAN": 3, "MINIMUM": 3, "MUL": 4, "PAD": 3,
    "RELU": 3, "RELU6": 3, "RESIZE_BILINEAR": 3, "SLICE": 3, "SOFTMAX": 3, "SPLIT": 4, "STRIDED_SLICE": 4, "SUB": 3,
    "SUM": 3, "TANH": 3, "TRANSPOSE": 4, "TRANSPOSE_CONV": 3,
}  # fmt: skip
HYBRID: Versions = {
    "BATCH_MATMUL": 4,
    "CONV_2D": 5,
    "DEPTHWISE_CONV_2D": 6,
    "EMBEDDING_LOOKUP": 3,
    "FULLY_CONNECTED": 12,
}
"""Float activations, int8 weights with a scale a channel."""

HYBRID_RUNTIME: Mapping[str, str] = {"tflite": "2.3.0"}
"""ai-edge-litert's version. Its forerunner tflite-runtime counts otherwise (2.14 is older); it refuses the stamps."""


def stamp(data: bytes) -> bytes:
    """Return the file with every operator code's version raised to what its operators need."""
    model = flatbuffer.read(data)
    for graph in model.subgraphs:
        for operator in graph.operators if graph.operators is not None else ():
            code = model.operatorCodes[operator.opcodeIndex]
            needed = _needed(flatbuffer.operator_type(model, operator), operator, graph)
            code.version = max(int(code.version), needed)
    return flatbuffer.write(model)


def _needed(kind: str, operator: FlatObject, graph: FlatObject) -> int:
    types = [flatbuffer.type_names()[graph.tensors[place].type] for place in operator.inputs if place >= 0]
    if not types:
        return 1
    if types[0] == "int16":
        return STATIC_INT16.get(kind, 1)
    if types[0] in {"int8", "uint8"}:
        return STATIC_INT8.get(kind, 1)
    return HYBRID.get(kind, 1) if types[0] == "float32" and "int8" in types[1:] else 1
