"""What the LiteRT GPU delegate takes, operator by operator. Pure; never run on a GPU by us.

Source: LiteRT 2.2.0 (145c7523), tflite/delegates/gpu/common/model_builder.cc and tflite/tools/versioning/
gpu_compatibility.cc, with the delegate's default options: quantised models are taken and computed in float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgefleet_controller.compile.tflite.delegate_rules import (
    EIGHT_BIT,
    FLOAT32,
    Kind,
    Rule,
    constant,
    constant_integers,
    constants,
    counted,
    default_weights,
    integers_of,
    kinds,
    needs,
    rank_of,
    ranked,
    running,
    size_of,
    typed,
    unit_beta,
)
from edgefleet_controller.compile.tflite.graph import Op, Tensor

EDITION = "LiteRT 2.2.0 (145c7523) gpu/common/model_builder.cc, gpu_compatibility.cc"
MAX_RANK = 4
MOST_PARTS = 1
"""How many parts of a graph the delegate takes unless it is told otherwise."""
FLOATS = FLOAT32 | {"float16"}
COMPARISONS = frozenset({"EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL"})
_SIGN_BIT = 5
_REFLECT = 0
_TYPES_IN: Mapping[str, frozenset[str]] = {
    "CAST": frozenset({"bool", "int32"}),
    "GATHER": frozenset({"int32"}),
    "LOGICAL_AND": frozenset({"bool"}),
    "ONE_HOT": frozenset({"int32"}),
    "SELECT": frozenset({"bool"}),
    "SELECT_V2": frozenset({"bool"}),
}
_TYPES_OUT: Mapping[str, frozenset[str]] = {
    "CAST": frozenset({"bool", "int32"}),
    "LOGICAL_AND": frozenset({"bool"}),
    **dict.fromkeys(COMPARISONS, frozenset({"bool"})),
}


def types(op: Op) -> str | None:
    """Tensors have at most four axes, and those computed at run time types that the GPU computes with."""
    inputs = [each for each in op.inputs if each is not None]
    large = next((each for each in (*inputs, *op.outputs) if len(each.shape) > MAX_RANK), None)
    if large is not None:
        return f"{large.name} has {len(large.shape)} axes; the delegate takes up to {MAX_RANK}"
    common = FLOATS | EIGHT_BIT
    return _wrong(running(op), common | _TYPES_IN.get(op.type, frozenset())) or _wrong(
        op.outputs, common | _TYPES_OUT.get(op.type, frozenset())
    )


def _wrong(tensors: list[Tensor] | tuple[Tensor, ...], allowed: frozenset[str]) -> str | None:
    found = next((each for each in tensors if each.dtype not in allowed), None)
    return None if found is None else f"{found.name} is {found.dtype}; the delegate takes {', '.join(sorted(allowed))}"


def scalars(op: Op) -> str | None:
    """A tensor without axes, computed at run time, has no layout on the GPU."""
    found = next((each for each in (*running(op), *op.outputs) if not each.shape), None)
    return None if found is None else f"{found.name} has no axes, and the delegate has no layout for it"


def truth_values(op: Op, operators: Sequence[Op]) -> str | None:
    """A comparison is taken only with the one operator that makes numbers of it, a conversion to float likewise."""
    if op.type in COMPARISONS:
        readers = _readers(op.outputs[0], operators)
        makes_numbers = len(readers) == 1 and readers[0].type in {"CAST", "SELECT", "SELECT_V2"}
        if makes_numbers and readers[0].outputs[0].dtype in FLOATS:
            return None
        return "what it finds is not read by one CAST or SELECT to float alone"
    source = op.input(0)
    if op.type != "CAST" or source is None or source.dtype != "bool" or op.outputs[0].dtype not in FLOATS:
        return None
    makers = [each for each in operators if any(tensor.index == source.index for tensor in each.outputs)]
    if len(makers) != 1 or len(_readers(source, operators)) != 1:
        return f"{source.name} is made or read by others too"
    return None if len(_readers(op.outputs[0], operators)) == 1 else "its result is not read by one operator alone"


def _readers(tensor: Tensor, operators: Sequence[Op]) -> list[Op]:
    return [op for op in operators for each in op.inputs if each is not None and each.index == tensor.index]


def _activation(op: Op) -> str | None:
    return "SIGN_BIT is fused into it" if op.option("fusedActivationFunction") == _SIGN_BIT else None


def _broadcast(op: Op) -> str | None:
    shapes = sorted((each.shape for each in op.inputs if each is not None and len(each.shape) > 1), key=len)
    if len(shapes) < 2 or len(shapes[0]) == len(shapes[1]):
        return None
    short, long = shapes
    whole = len(long) == 4 and long[0] == 1 and (len(short) == 3 or short == (1, 1))
    per_channel = len(long) == 4 and len(short) == 2 and short == (long[0], long[3])
    return None if whole or per_channel else f"it broadcasts {list(short)} to {list(long)}"


def _spread_constant(op: Op) -> str | None:
    """A constant beside a computed input is one number, a row, a matrix, or one image."""
    held = constants(op)
    if len(op.inputs) == 2 and len(held) == 2:
        return "both of its inputs are constant"
    for tensor in held:
        row = all(size == 1 for size in tensor.shape[:-1])
        if size_of(tensor) > 1 and not row and rank_of(tensor) == 4 and tensor.shape[0] != 1:
            return f"{tensor.name} is a constant of {list(tensor.shape)}; its batch must be 1"
    return None


def _no_twins(op: Op) -> str | None:
    places = [each.index for each in op.inputs if each is not None]
    return "both of its inputs are the same tensor" if len(places) == 2 and places[0] == places[1] else None


def _matrix_second(op: Op) -> str | None:
    second = op.input(1)
    if not constants(op) or (second is not None and second.is_constant and len(second.shape) == 2):
        return None
    return "a constant factor is taken as the second, with two axes, only"


def _cast(op: Op) -> str | None:
    source, made = op.inputs[0], op.outputs[0]
    if source is None:
        return "it has no input"
    floats, numbers = FLOATS, frozenset({"float32", "int32"})
    pair = (source.dtype, made.dtype)
    if (pair[0] == "bool" and pair[1] in floats) or (pair[0] in floats and pair[1] == "bool"):
        return None
    return None if set(pair) <= numbers else f"it converts {pair[0]} to {pair[1]}"


def _runtime_groups(op: Op) -> str | None:
    source, weights = op.input(0), op.input(1)
    if source is None or weights is None or weights.is_constant or source.shape[-1:] == weights.shape[-1:]:
        return None
    return "its weights are computed at run time and in groups"


def _depthwise(op: Op) -> str | None:
    source, weights, made = op.inputs[0], op.input(1), op.outputs[0]
    if source is None or weights is None or {len(source.shape), len(weights.shape), len(made.shape)} != {4}:
        return "its input, weights and output have four axes each"
    times = op.option("depthMultiplier") or 0
    if weights.shape[3] != made.shape[3] or made.shape[3] != source.shape[3] * times:
        return f"its depth multiplier {times} does not lead from {source.shape[3]} to {made.shape[3]} channels"
    return None


def _block(op: Op) -> str | None:
    return None if (op.option("blockSize") or 0) > 1 else "its block has size 1, which changes nothing"


def _no_int16(op: Op) -> str | None:
    source = op.inputs[0]
    return "it unpacks int16" if source is not None and source.dtype == "int16" else None


def _fully_connected(op: Op) -> str | None:
    source = op.inputs[0]
    if len(running(op)) > 2:
        return "more than two of its inputs are computed at run time"
    if source is None or source.is_constant:
        return "its input is constant"
    if op.option("keepNumDims") and len(source.shape) != len(op.outputs[0].shape):
        return "it is told to keep its axes and does not"
    return None


def _same_depth(op: Op) -> str | None:
    """The delegate sees [batch, channels], so that an input it would have to flatten first does not fit."""
    source, weights = op.inputs[0], op.input(1)
    if source is None or weights is None or not weights.is_constant or len(weights.shape) != 2:
        return None
    depth = source.shape[-1] if len(source.shape) > 1 else 1
    if depth == weights.shape[1]:
        return None
    return f"its input {list(source.shape)} must end in the {weights.shape[1]} channels of its weights"


def _indices(op: Op) -> str | None:
    indices = op.input(1)
    if indices is None or len(indices.shape) != 1 or indices.dtype != "int32":
        return "its indices must be int32 with one axis"
    return None


def _lstm(op: Op) -> str | None:
    if not op.option("kernelType"):
        if len(op.inputs) not in {20, 24} or len(op.outputs) != 1:
            return f"it has {len(op.inputs)} inputs and {len(op.outputs)} outputs; the delegate takes 20 or 24, and 1"
        return None
    if len(running(op)) != 3 or len(op.outputs) != 4:
        return "a basic LSTM has 3 inputs at run time and 4 outputs"
    if op.outputs[3].shape and op.outputs[3].shape[-1] % 4:
        return f"its depth {op.outputs[3].shape[-1]} must be a multiple of 4"
    return "it clips, which the delegate does not" if op.option("cellClip") or op.option("projClip") else None


def _reflects(op: Op) -> str | None:
    return (
        "it pads symmetrically; the delegate mirrors without the edge" if (op.option("mode") or 0) != _REFLECT else None
    )


def _paddings(op: Op) -> str | None:
    shape = () if (tensor := op.input(1)) is None else tensor.shape
    return (
        None if shape in {(3, 2), (4, 2)} else f"its paddings are {list(shape)}; the delegate takes [3, 2] and [4, 2]"
    )


def _one_hot(op: Op) -> str | None:
    source, values = op.inputs[0], [op.input(2), op.input(3)]
    if source is None or source.dtype != "int32":
        return "its indices must be int32"
    if any(each is None or not each.is_constant or each.dtype != "float32" or size_of(each) != 1 for each in values):
        return "its two values must be constant float32 scalars"
    spread = source.shape[1 if len(source.shape) > 3 else 0 : -1]
    return (
        "only the batch and the last axis of its indices may be above 1" if any(size != 1 for size in spread) else None
    )


def _slope(op: Op) -> str | None:
    source, alpha = op.inputs[0], op.input(1)
    if source is None or alpha is None or not source.shape or alpha.shape[-1:] == source.shape[-1:]:
        return None
    return f"alpha {list(alpha.shape)} does not fit {list(source.shape)}"


def _corners(op: Op) -> str | None:
    both = op.option("alignCorners") and op.option("halfPixelCenters")
    return "it aligns corners and centres half pixels at once" if both else None


def _select(op: Op) -> str | None:
    condition, made = op.inputs[0], op.outputs[0].shape
    if condition is None or condition.dtype not in FLOATS | {"bool"}:
        return "its condition must be bool or float"
    ending = made[len(made) - len(condition.shape) :]
    if len(condition.shape) > len(made) or any(a not in (b, 1) for a, b in zip(condition.shape, ending, strict=True)):
        return f"its condition {list(condition.shape)} does not spread to {list(made)}"
    for tensor in op.inputs[1:]:
        if tensor is None or (tensor.shape not in {(), made} and (len(tensor.shape) > 1 or tensor.shape[0] > 1)):
            return "its branches must have the output's size or one element"
        if not tensor.is_constant and len(tensor.shape) == 2:
            return f"{tensor.name} has two axes, and must then be constant"
    return None


def _masks(op: Op) -> str | None:
    named = {"ellipsisMask": "an ellipsis", "newAxisMask": "a new axis", "shrinkAxisMask": "an axis taken away"}
    found = next((words for option, words in named.items() if op.option(option)), None)
    return None if found is None else f"it has {found}, which the delegate does not take"


def _forward(op: Op) -> str | None:
    strides = integers_of(op, 3)
    return None if all(each > 0 for each in strides) else f"its strides {strides} are not all positive"


def _order(op: Op) -> str | None:
    return None if 2 <= len(integers_of(op, 1)) <= MAX_RANK else "its order of axes is not known or not of 2 to 4 axes"


_ONE: Rule = needs((1, None))
_CONVOLUTION: Rule = needs((1, None), (2, None))
_PAIR: Rule = needs((2, 0), (1, 1))
_REDUCTION: tuple[Rule, ...] = (needs((1, 1)), constant_integers(1))
_SPREAD: tuple[Rule, ...] = (_spread_constant,)

KINDS: Mapping[str, Kind] = {
    **kinds("ABS COS ELU EXP FLOOR GELU LOG LOGISTIC NEG RSQRT SIGN SIN SQRT SQUARE TANH", 2, needs((1, 0))),
    **kinds("ADD", 2, counted((2,)), _broadcast, breaks=(_activation, *_SPREAD)),
    **kinds("ADD_N", 2, counted((2,)), breaks=_SPREAD),
    **kinds("MUL", 3, counted((2,)), _broadcast, _activation, breaks=_SPREAD),
    **kinds(
        "DIV FLOOR_DIV FLOOR_MOD LOGICAL_AND MAXIMUM MINIMUM POW SQUARED_DIFFERENCE SUB",
        2, _PAIR, _activation, breaks=(*_SPREAD, _no_twins),
    ),
    **kinds(" ".join(sorted(COMPARISONS)), 2, breaks=(*_SPREAD, _no_twins)),
    **kinds("AVERAGE_POOL_2D MAX_POOL_2D", 2, _ONE, _activation),
    **kinds("BATCH_MATMUL", None, counted((2,)), breaks=(_matrix_second,)),
    **kinds("CAST", None, _ONE, _cast),
    **kinds("CONCATENATION", 2, breaks=(_activation,)),
    **kinds("CONV_2D", 6, _CONVOLUTION, _activation, breaks=(_runtime_groups,)),
    **kinds("CUMSUM", 1, typed(0, FLOATS), constant_integers(1)),
    **kinds("DENSIFY", 1, needs((0, None))),
    **kinds("DEPTHWISE_CONV_2D", 6, _CONVOLUTION, _activation, _depthwise),
    **kinds("DEPTH_TO_SPACE", None, _ONE, _block),
    **kinds("DEQUANTIZE", 3, counted((1,)), _no_int16),
    **kinds("FULLY_CONNECTED", 9, default_weights, _fully_connected, breaks=(_activation, _same_depth)),
    **kinds("GATHER", 1, _PAIR, _indices),
    **kinds("HARD_SWISH", None, _ONE),
    **kinds("LEAKY_RELU RELU RELU6 RELU_N1_TO_1", 2),
    **kinds("LSTM", 4, _lstm),
    **kinds("MEAN REDUCE_MAX REDUCE_MIN REDUCE_PROD SUM", None, *_REDUCTION),
    **kinds("MIRROR_PAD", 2, _reflects, _ONE, _paddings),
    **kinds("ONE_HOT", 1, counted((4,)), _one_hot),
    **kinds("PACK UNPACK", None),
    **kinds("PAD PADV2", 2, _ONE, _paddings),
    **kinds("PRELU", 1, breaks=(constant(1), _slope)),
    **kinds("QUANTIZE", 2, _ONE),
    **kinds("RESHAPE", 1, _ONE),
    **kinds("RESIZE_BILINEAR", 3, _ONE, _corners),
    **kinds("RESIZE_NEAREST_NEIGHBOR", 3, _ONE),
    **kinds("SELECT SELECT_V2", 1, counted((3,)), _select),
    **kinds("SLICE", 2, ranked(0, 3, 4), breaks=(constant(1, 2),)),
    **kinds("SOFTMAX", 2, unit_beta),
    **kinds("SPACE_TO_DEPTH", 2, _ONE, _block),
    **kinds("SPLIT", None, breaks=(constant(0),)),
    **kinds("SPLIT_V", None, breaks=(constant(2),)),
    **kinds("STRIDED_SLICE", 4, _masks, counted((4,)), ranked(0, 3, 4), breaks=(constant(1, 2, 3), _forward)),
    **kinds("TILE", None, _ONE),
    **kinds("TRANSPOSE", 4, _ONE, breaks=(_order,)),
    **kinds("TRANSPOSE_CONV", 3, _CONVOLUTION),
    **kinds("Convolution2DTransposeBias MaxPoolingWithArgmax2D MaxUnpooling2D Resampler", None),
}  # fmt: skip
"""Operator → what the delegate asks of it; the last row are custom operators of MediaPipe."""
