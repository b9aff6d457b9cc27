"""What the LiteRT NNAPI delegate hands to Android's NNAPI, operator by operator. Pure; never run on a phone by us.

Source: LiteRT 2.2.0 (145c7523), tflite/delegates/nnapi/nnapi_delegate.cc, at NNAPI feature level 5 (Android 12), with
the delegate's default options. Which of these a driver takes, only the driver says; Android 15 deprecates NNAPI.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgefleet_controller.compile.tflite.delegate_rules import (
    EIGHT_BIT,
    FLOAT32,
    Kind,
    Rule,
    constant,
    constant_integers,
    counted,
    integers_of,
    kinds,
    makes,
    plain,
    rank_of,
    ranked,
    running,
    size_of,
    typed,
)
from edgefleet_controller.compile.tflite.graph import Op

EDITION = "LiteRT 2.2.0 (145c7523) nnapi_delegate.cc, feature level 5; a driver may take less"
MOST_PARTS = 3
"""How many parts of a graph the delegate takes unless it is told otherwise."""
_TAKEN = FLOAT32 | EIGHT_BIT
_NUMBERS = _TAKEN | {"int32"}
_KNOWN = _NUMBERS | {"bool", "float16", "int16"}
_INT32_TYPE = 2
"""TFLite's number of the type int32."""


def tensors(op: Op) -> str | None:
    """Tensors computed at run time have types that NNAPI knows."""
    found = next((each for each in (*running(op), *op.outputs) if each.dtype not in _KNOWN), None)
    return None if found is None else f"{found.name} is {found.dtype}, which NNAPI has not"


def _rank_4(op: Op) -> str | None:
    return ranked(0, 0, 4)(op) or ranked(1, 0, 4)(op)


def _integer_plain(op: Op) -> str | None:
    source = op.inputs[0]
    return plain(op) if source is not None and source.dtype == "int32" else None


def _level(level: int) -> Rule:
    def rule(op: Op) -> str | None:
        return f"{op.type} needs NNAPI feature level {level}; this table is of level 5"

    return rule


def _axis(op: Op) -> str | None:
    axis = op.input(1)
    if axis is not None and axis.dtype != "int32" and not (axis.dtype == "int64" and axis.is_constant):
        return f"{axis.name} is {axis.dtype}; it must be int32, or int64 and constant"
    return None if op.option("outputType") == _INT32_TYPE else "it returns other than int32"


def _output_rank(least: int, most: int) -> Rule:
    def rule(op: Op) -> str | None:
        rank = len(op.outputs[0].shape)
        return None if least <= rank <= most else f"its output has {rank} axes; the delegate takes {least} to {most}"

    return rule


def _not_hybrid(op: Op) -> str | None:
    source, weights = op.inputs[0], op.input(1)
    if source is None or weights is None or source.dtype != "float32" or weights.dtype not in EIGHT_BIT:
        return None
    return "its input is float32 and its weights are integers"


def _no_crops(op: Op) -> str | None:
    values = integers_of(op, 2)
    return None if len(values) == 4 and not any(values) else "it crops; the delegate takes four crops of 0"


def _unpacked(op: Op) -> str | None:
    source = op.inputs[0]
    if source is not None and source.dtype == "float16" and not source.is_constant:
        return None
    if op.version > 2:
        return f"it is version {op.version} of the operator; the delegate takes up to 2"
    return typed(0, EIGHT_BIT)(op)


def _filled(op: Op) -> str | None:
    source = op.inputs[0]
    return "its input has no elements" if source is not None and not size_of(source) else None


def _constant_scalars(op: Op) -> str | None:
    found = next((each for each in op.inputs if each is not None and not each.shape and not each.is_constant), None)
    return None if found is None else f"{found.name} has no axes, and must then be constant"


def _alike(op: Op) -> str | None:
    condition, chosen = op.input(0), op.input(1)
    same = condition is not None and chosen is not None and condition.shape == chosen.shape
    return None if same else "its condition has not the size of what it chooses from"


def _parts(op: Op) -> str | None:
    return None if all(integers_of(op, 1)) else "one of its parts has no elements"


def _inner_pack(op: Op) -> str | None:
    last = op.option("axis") in {-1, rank_of(op.inputs[0])}
    return "it packs along the last axis, which needs feature level 6" if last else None


def _inner_unpack(op: Op) -> str | None:
    last = op.option("axis") in {-1, rank_of(op.inputs[0]) - 1}
    return "it unpacks the last axis" if last else None


def _to_eight_bits(op: Op) -> str | None:
    return makes(EIGHT_BIT)(op)


_EIGHT_OR_FLOAT: Rule = typed(0, _TAKEN)
_FLOAT: Rule = typed(0, FLOAT32)
_ANY: Rule = typed(0, _NUMBERS)

KINDS: Mapping[str, Kind] = {
    **kinds("ADD", 2, _ANY, _integer_plain, _rank_4),
    **kinds("MUL SUB", 3, _ANY, _integer_plain, _rank_4),
    **kinds("DIV", 1, _FLOAT, _rank_4),
    **kinds("ARG_MAX ARG_MIN", 2, typed(0, _NUMBERS | {"float16"}), _axis),
    **kinds("AVERAGE_POOL_2D MAX_POOL_2D LOGISTIC RELU RELU6 RELU_N1_TO_1 STRIDED_SLICE TANH", 2, _EIGHT_OR_FLOAT),
    **kinds("L2_POOL_2D ABS COS EXP LOG POW SIN SQRT ELU LOG_SOFTMAX", 1, _FLOAT),
    **kinds("CONV_2D", 5, counted((3,))),
    **kinds("DEPTHWISE_CONV_2D", 3),
    **kinds("FULLY_CONNECTED", 5, makes(_TAKEN | {"float16", "int32"})),
    **kinds("HARD_SWISH", None, _EIGHT_OR_FLOAT),
    **kinds("SOFTMAX", 2, _EIGHT_OR_FLOAT, makes(_TAKEN), ranked(0, 0, 4)),
    **kinds("RESHAPE", 1, _EIGHT_OR_FLOAT, ranked(0, 0, 4), _output_rank(0, 4), constant(1)),
    **kinds("RESIZE_BILINEAR", 3, ranked(0, 4, 4), _EIGHT_OR_FLOAT, counted((2,)), constant(1)),
    **kinds("RESIZE_NEAREST_NEIGHBOR", 3, _EIGHT_OR_FLOAT, counted((2,)), constant(1)),
    **kinds("SQUEEZE FLOOR LOCAL_RESPONSE_NORMALIZATION", 1),
    **kinds("UNIDIRECTIONAL_SEQUENCE_LSTM", 2, _not_hybrid, counted((20, 24))),
    **kinds("UNIDIRECTIONAL_SEQUENCE_RNN BIDIRECTIONAL_SEQUENCE_LSTM", 1, _not_hybrid),
    **kinds("L2_NORMALIZATION", 2, plain),
    **kinds("CONCATENATION", 2, plain, ranked(0, 0, 4), typed(0, _TAKEN | {"float16"})),
    **kinds("DEQUANTIZE", None, _unpacked),
    **kinds("DENSIFY", None, constant(0)),
    **kinds("PAD PADV2", 2, _EIGHT_OR_FLOAT, _filled),
    **kinds("SPACE_TO_BATCH_ND", 2),
    **kinds("BATCH_TO_SPACE_ND", 2, _no_crops),
    **kinds("TRANSPOSE", 2, constant(1)),
    **kinds("RSQRT", 2, _FLOAT),
    **kinds("SLICE", 2, _ANY, typed(1, {"int32"}), typed(2, {"int32"})),
    **kinds("TRANSPOSE_CONV", 4, constant(0, 1)),
    **kinds("RNN SVDF", 1, counted((5,)), typed(1, FLOAT32)),
    **kinds("SPACE_TO_DEPTH", 2, _EIGHT_OR_FLOAT),
    **kinds("DEPTH_TO_SPACE", None, _EIGHT_OR_FLOAT),
    **kinds("LSTM", 3, typed(4, _TAKEN)),
    **kinds("MEAN", 2, _EIGHT_OR_FLOAT, ranked(0, 0, 4), _output_rank(1, 4)),
    **kinds("EMBEDDING_LOOKUP", 1, typed(1, FLOAT32)),
    **kinds("MAXIMUM MINIMUM", 3, _ANY, _constant_scalars),
    **kinds("CAST", 1, _ANY, makes(_NUMBERS)),
    **kinds("LEAKY_RELU PRELU", 1, _EIGHT_OR_FLOAT),
    **kinds("TILE", 1, _ANY, typed(1, {"int32"})),
    **kinds("LOGICAL_AND LOGICAL_NOT LOGICAL_OR", 1, typed(0, {"bool"})),
    **kinds("EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL NOT_EQUAL", 2, typed(0, _NUMBERS | {"bool"})),
    **kinds("NEG", 2, typed(0, FLOAT32 | {"int32"})),
    **kinds("TOPK_V2", 2, _ANY, constant_integers(1)),
    **kinds("SELECT", 2, typed(1, _NUMBERS), _alike),
    **kinds("GATHER", 2, typed(0, _NUMBERS | {"float16"}), typed(1, {"int32"}), ranked(1, 1, 8)),
    **kinds("EXPAND_DIMS", 1, typed(0, _NUMBERS | {"float16"}), constant_integers(1)),
    **kinds("SPLIT", 3, typed(1, _NUMBERS), constant_integers(0)),
    **kinds("SPLIT_V", 2, _ANY, constant_integers(1, 2), _parts),
    **kinds("QUANTIZE", 2, _EIGHT_OR_FLOAT, _to_eight_bits),
    **kinds("REDUCE_ANY", 2, _output_rank(1, 8)),
    **kinds("REDUCE_MAX REDUCE_MIN", 2, _EIGHT_OR_FLOAT, ranked(0, 1, 8)),
    **kinds("REDUCE_PROD SUM", 1, _FLOAT, _output_rank(1, 8)),
    **kinds("FILL", 1, constant(0), typed(0, {"int32", "int64"}), typed(1, {"float32", "int32", "int64"})),
    **kinds("PACK", 2, typed(0, {"float32", "int8"}), _inner_pack),
    **kinds("UNPACK", 2, _EIGHT_OR_FLOAT, ranked(0, 2, 4), _inner_unpack),
    **kinds("SQUARED_DIFFERENCE", 2, _ANY, _rank_4),
    **kinds("BATCH_MATMUL", 2, _level(6)),
    **kinds("MIRROR_PAD", 2, _level(7)),
    **kinds("REVERSE_V2", 3, _level(7)),
}
"""Operator → what the delegate asks of it."""
