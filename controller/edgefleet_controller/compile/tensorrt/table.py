"""Static rules about TensorRT, for what no parser on the builder can tell. Data, with its edition and source."""

from __future__ import annotations

import onnx

from edgefleet_controller.compile.graph.onnx_graph import STANDARD_DOMAINS

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
