"""Static rules about TensorRT, for what no parser on the builder can tell. Data, with its edition and source."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from edgefleet_controller.compile.onnx_graph import STANDARD_DOMAINS

TABLE_VERSION = "operators of TensorRT-RTX 1.7.1's parser"
"""A test asks the installed parser and holds this table to it."""
MISSING_OPERATORS = frozenset(
    {
        "AffineGrid", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
        "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "CumProd", "DFT", "DeformConv",
        "Det", "DynamicQuantizeLinear", "ImageDecoder", "MatMulInteger", "MaxRoiPool", "MaxUnpool",
        "MelWeightMatrix", "Multinomial", "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement",
        "OptionalHasElement", "QLinearConv", "QLinearMatMul", "RegexFullMatch", "SequenceAt", "SequenceConstruct",
        "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap",
        "SoftmaxCrossEntropyLoss", "SplitToSequence", "StringConcat", "StringNormalizer", "StringSplit", "SwiGLU",
        "TfIdfVectorizer", "Unique",
    }
)  # fmt: skip
"""Operators of ONNX that the parser has no importer for."""


def by_name(node: onnx.NodeProto, functions: frozenset[tuple[str, str]] = frozenset()) -> str | None:
    """Return why TensorRT refuses an operator whatever its attributes, or None where its name tells nothing.

    Args:
        node: the operator.
        functions: (domain, name) of the model's own functions, which are made of other operators.
    """
    if (node.domain, node.op_type) in functions:
        return None
    if node.domain not in STANDARD_DOMAINS:
        return f"{node.domain}:{node.op_type} is no operator of ONNX; TensorRT would need a plugin of that name"
    return f"TensorRT has no {node.op_type}" if node.op_type in MISSING_OPERATORS else None


DLA_VERSION = "TensorRT 11.4 documentation, DLA supported layers and restrictions"
"""https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/dla-layer-restrictions.html"""
DLA_OPERATORS = frozenset(
    {
        "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "ConvTranspose", "Div", "Equal",
        "GlobalAveragePool", "GlobalMaxPool", "Greater", "LRN", "LeakyRelu", "Less", "Max", "MaxPool", "Min", "Mul",
        "PRelu", "Pow", "ReduceMax", "Relu", "Resize", "Sigmoid", "Slice", "Softmax", "Split", "Sub", "Sum", "Tanh",
    }
)  # fmt: skip
"""Operators whose layers DLA has at all."""
_FREE_OPERATORS = frozenset(
    {"Cast", "Constant", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze",
     "Unsqueeze"}
)  # fmt: skip
"""Operators that change types or shapes only, and vanish into their neighbours or between loadables."""
_KERNEL_MAX, _STRIDE_MAX, _POOL_KERNEL_MAX, _POOL_STRIDE_MAX = 32, 8, 8, 16


def not_on_dla(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> str | None:
    """Return why DLA does not run an operator, so that the GPU would, or None where the table knows no reason.

    Args:
        node: the operator.
        constants: the graph's weights, whose shapes tell how many axes a convolution has.
    """
    if node.op_type in _FREE_OPERATORS:
        return None
    if node.op_type not in DLA_OPERATORS:
        return f"DLA has no {node.op_type}"
    if node.op_type in {"Conv", "ConvTranspose"}:
        return _convolution(node, constants)
    if node.op_type in {"AveragePool", "MaxPool"}:
        return _outside(node, "kernel_shape", _POOL_KERNEL_MAX) or _outside(node, "strides", _POOL_STRIDE_MAX)
    return None


def _convolution(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> str | None:
    weight = constants.get(node.input[1]) if len(node.input) > 1 else None
    if weight is not None and len(weight.dims) != 4:
        return f"DLA convolves over 2 axes, this one over {len(weight.dims) - 2}"
    if node.op_type == "ConvTranspose" and _ints(node, "group", 1) not in {(), (1,)}:
        return "DLA has no grouped deconvolution"
    if node.op_type == "ConvTranspose" and any(pad != 0 for pad in _ints(node, "pads")):
        return "DLA deconvolves without padding only"
    return _outside(node, "kernel_shape", _KERNEL_MAX) or _outside(node, "strides", _STRIDE_MAX)


def _outside(node: onnx.NodeProto, attribute: str, most: int) -> str | None:
    values = _ints(node, attribute)
    if all(1 <= value <= most for value in values):
        return None
    return f"DLA takes {attribute} from 1 to {most}, this has {list(values)}"


def _ints(node: onnx.NodeProto, name: str, default: int | None = None) -> tuple[int, ...]:
    for attribute in node.attribute:
        if attribute.name == name:
            return tuple(attribute.ints) or (attribute.i,)
    return () if default is None else (default,)
