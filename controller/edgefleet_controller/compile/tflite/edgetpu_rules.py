"""What the Edge TPU takes, operator by operator: the vendor's documented rules. Pure.

Source: Coral, "TensorFlow models on the Edge TPU", table of supported operations, runtime version 14 (compiler 16), the
last one published. Never run on hardware by us; checked against models that the vendor's compiler compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from edgefleet_controller.compile.tflite.graph import Op, Tensor

EDITION = "Coral models-intro, runtime 14 (compiler 16.0)"

Rule = Callable[[Op], str | None]
"""Returns why an operator is not mapped, or None."""

QUANTISED = frozenset({"int8", "uint8"})
SOFTMAX_MAX_ELEMENTS = 16_384
"""The table says 16,000; compiler 16 maps 16,384."""
RESIZE_MAX_SIDE = 128
"""Longest side of a resized output that is taken for mapped. The table says only that sizes matter; published compiler
logs map 128 and refuse 256 and 512."""
RESIZE_MAX_RATIO = 16
"""Largest enlargement of a side taken for mapped: the compiler refused 1 to 33 on a pooled image feature."""
TRANSPOSE_MAX_ELEMENTS = 69_696
"""Most elements whose transposition was seen mapped; the table names no limit, and 112,896 were refused."""
MEAN_MAX_ELEMENTS = 8_192
"""Most elements a mean was reported mapped over; the table names no limit, and 32,768 were refused."""
_LSTM = frozenset({"LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM"})


def why_not(op: Op) -> str | None:
    """Return why an operator cannot run on the Edge TPU by itself, or None; its neighbours are not asked."""
    rules = RULES.get(op.type)
    if rules is None:
        return f"{op.type} is none of the operators the Edge TPU has"
    return next((found for rule in (_static, *rules, _types, _three_dimensions) if (found := rule(op))), None)


def _types(op: Op) -> str | None:
    """Activations are int8 or uint8; biases, shapes and axes, which are constant, may be integers of other widths."""
    for tensor in _activations(op):
        if tensor.dtype not in QUANTISED:
            return f"{tensor.name} is {tensor.dtype}; the Edge TPU computes in int8 and uint8"
    floats = next((each for each in op.inputs if each is not None and each.is_constant and "float" in each.dtype), None)
    return None if floats is None else f"{floats.name} is a constant of {floats.dtype}; constants must be quantised too"


def _activations(op: Op) -> Iterable[Tensor]:
    if op.type in _LSTM:  # its state is int16
        inputs: tuple[Tensor | None, ...] = op.inputs[:1]
    else:
        inputs = op.inputs
    yield from (tensor for tensor in inputs if tensor is not None and not tensor.is_constant)
    yield from op.outputs


def _static(op: Op) -> str | None:
    """The compiler takes an open batch, which converters leave, for the 1 that the file allocates."""
    for tensor in _tensors(op):
        if any(size < 0 for size in tensor.signature[1:]):
            return f"{tensor.name} has a size that changes at run time: {list(tensor.signature)}"
    return None


def _three_dimensions(op: Op) -> str | None:
    for tensor in _activations(op):
        if any(size > 1 for size in tensor.shape[:-3]):
            return f"{tensor.name} is {list(tensor.shape)}; only the three innermost sizes may be above 1"
    return None


def _tensors(op: Op) -> Iterable[Tensor]:
    yield from (tensor for tensor in op.inputs if tensor is not None)
    yield from op.outputs


def _constant(*places: int) -> Rule:
    def rule(op: Op) -> str | None:
        for place in places:
            tensor = op.input(place)
            if tensor is not None and not tensor.is_constant:
                return f"{tensor.name} is computed at run time; weights and parameters must be constant"
        return None

    return rule


def _no_activation(op: Op) -> str | None:
    return (
        "it has a fused activation, which this operator may not have" if op.option("fusedActivationFunction") else None
    )


def _equal_dilation(op: Op) -> str | None:
    """A dilation counts where the kernel, [·, height, width, ·], is larger than 1."""
    weights = op.input(1)
    kernel = weights.shape[1:3] if weights is not None and len(weights.shape) == 4 else (0, 0)
    width, height = op.option("dilationWFactor") or 1, op.option("dilationHFactor") or 1
    if width == height or 1 in kernel:
        return None
    return f"dilation differs in height ({height}) and width ({width})"


def _concatenation(op: Op) -> str | None:
    constants = [tensor for tensor in op.inputs if tensor is not None and tensor.is_constant]
    if not constants:
        return None
    if len(op.inputs) != 2:
        return f"{constants[0].name} is constant among {len(op.inputs)} inputs; with a constant there may be two"
    values = constants[0].values()
    return None if values is not None and not np.any(values) else f"{constants[0].name} is constant and not all zeros"


def _fully_connected(op: Op) -> str | None:
    """Several rows and weights computed at run time are mapped, against the table."""
    return "its weights are shuffled; only the default format is supported" if op.option("weightsFormat") else None


def _softmax(op: Op) -> str | None:
    """More than one dimension is mapped, against the table."""
    size = _elements(op.inputs[0])
    return None if size <= SOFTMAX_MAX_ELEMENTS else f"its input has {size} elements; at most {SOFTMAX_MAX_ELEMENTS}"


def _elements(tensor: Tensor | None) -> int:
    return 0 if tensor is None else math.prod(tensor.shape)


def _axes(op: Op) -> list[int]:
    """Return the axes of a reduction, counted from the front."""
    rank = len(op.inputs[0].shape) if op.inputs and op.inputs[0] is not None else 0
    axis = op.input(1)
    values = axis.values() if axis is not None else None
    return [] if values is None else [int(each) % max(rank, 1) for each in np.atleast_1d(values)]


def _no_batch_reduction(op: Op) -> str | None:
    return "it reduces the batch dimension" if 0 in _axes(op) else None


def _mean(op: Op) -> str | None:
    tensor = op.inputs[0]
    reduced_n = 0 if tensor is None else math.prod(tensor.shape[axis] for axis in set(_axes(op)))
    if reduced_n > MEAN_MAX_ELEMENTS:
        return f"it takes the mean of {reduced_n} elements; at most {MEAN_MAX_ELEMENTS} are taken for mapped"
    last = len(tensor.shape) - 1 if tensor is not None else -1
    if tensor is not None and last in _axes(op) and tensor.shape[last] % 4:
        return f"it reduces {tensor.shape[last]} channels; their number must be a multiple of 4"
    return None


def _pack(op: Op) -> str | None:
    """The batch is what lies before the three innermost dimensions."""
    rank = len(op.outputs[0].shape)
    return "it packs along the batch dimension" if (op.option("axis") or 0) % max(rank, 1) < rank - 3 else None


def _pad(op: Op) -> str | None:
    paddings = op.input(1)
    values = paddings.values() if paddings is not None else None
    tensor = op.inputs[0]
    batched = tensor is not None and len(tensor.shape) > 1
    return "it pads the batch dimension" if values is not None and batched and np.any(values[0]) else None


def _prelu(op: Op) -> str | None:
    alpha = op.input(1)
    if alpha is not None and any(size > 1 for size in alpha.shape[:-1]):
        return f"alpha is {list(alpha.shape)}; only its innermost size may be above 1"
    return None


def _resize(op: Op) -> str | None:
    source, made = op.inputs[0], op.outputs[0]
    if source is None or len(source.shape) != 4 or len(made.shape) != 4:
        return "its input and output have three dimensions beside the batch"
    for before, after in zip(source.shape[1:3], made.shape[1:3], strict=True):
        if after > RESIZE_MAX_SIDE or after > before * RESIZE_MAX_RATIO:
            return f"it resizes {list(source.shape[1:3])} to {list(made.shape[1:3])}: too large to map"
    return None


def _split(op: Op) -> str | None:
    axis = op.input(0)
    values = axis.values() if axis is not None else None
    rank = len(op.outputs[0].shape)
    if values is None:
        return "its axis is computed at run time"
    if len(op.outputs) == 1:
        return None  # into one part, which is no change
    return "it splits the batch dimension" if rank > 1 and int(values.reshape(-1)[0]) % rank == 0 else None


def _squeeze(op: Op) -> str | None:
    """Only leading sizes of 1 may go: [1, 5, 10] but not [5, 1, 10] may become [5, 10]."""
    source, made = op.inputs[0], op.outputs[0].shape
    shape = () if source is None else source.shape
    kept = shape[next((axis for axis, size in enumerate(shape) if size > 1), len(shape)) :]
    if kept and made[-len(kept) :] != kept:
        return f"it removes a size from within {list(shape)}; only leading ones may go"
    return None


def _strided_slice(op: Op) -> str | None:
    strides = op.input(3)
    values = strides.values() if strides is not None else None
    if values is None or np.any(values != 1):
        return "its strides are not all 1"
    if op.option("ellipsisMask") or op.option("newAxisMask"):
        return "it has an ellipsis or a new axis"
    return None


def _transpose(op: Op) -> str | None:
    order, tensor = op.input(1), op.inputs[0]
    values = order.values() if order is not None else None
    if values is None or tensor is None or values.size != len(tensor.shape):
        return "its order of axes is not known"
    moved = [axis for axis in map(int, values.reshape(-1)) if tensor.shape[axis] > 1]
    if moved != sorted(moved) and (size := _elements(tensor)) > TRANSPOSE_MAX_ELEMENTS:
        return f"it transposes {size} elements; at most {TRANSPOSE_MAX_ELEMENTS} are taken for mapped"
    return None


def _tile(op: Op) -> str | None:
    """Only broadcasting was seen mapped: a size of 1 repeated, in height, width and channels."""
    multiples, tensor = op.input(1), op.inputs[0]
    values = multiples.values() if multiples is not None else None
    if values is None or tensor is None or values.size != len(tensor.shape):
        return "its multiples are not known"
    for axis, (size, times) in enumerate(zip(tensor.shape, values, strict=True)):
        if times != 1 and (size != 1 or axis < len(tensor.shape) - 3):
            return f"it repeats {list(tensor.shape)} {values.tolist()} times; only a size of 1 may be repeated"
    return None


def _quantize(op: Op) -> str | None:
    source = op.inputs[0]
    return None if source is not None and source.dtype in QUANTISED else "it converts from float, which the CPU does"


_POOL: tuple[Rule, ...] = (_no_activation,)
_REDUCE: tuple[Rule, ...] = (_constant(1), _no_batch_reduction)
_RESIZE: tuple[Rule, ...] = (_constant(1), _resize)

RULES: Mapping[str, tuple[Rule, ...]] = {
    "ADD": (),
    "AVERAGE_POOL_2D": _POOL,
    "CONCATENATION": (_no_activation, _concatenation),
    "CONV_2D": (_constant(1, 2), _equal_dilation),
    "DEPTHWISE_CONV_2D": (_constant(1, 2), _equal_dilation),
    "EXPAND_DIMS": (_constant(1),),
    "FULLY_CONNECTED": (_constant(2), _fully_connected),
    "L2_NORMALIZATION": (),
    "LOGISTIC": (),
    "LSTM": (_constant(*range(1, 18)),),
    "MAXIMUM": (),
    "MAX_POOL_2D": _POOL,
    "MEAN": (*_REDUCE, _mean),
    "MINIMUM": (),
    "MUL": (),
    "PACK": (_pack,),
    "PAD": (_constant(1), _pad),
    "PRELU": (_constant(1), _prelu),
    "QUANTIZE": (_quantize,),
    "REDUCE_MAX": _REDUCE,
    "REDUCE_MIN": _REDUCE,
    "RELU": (),
    "RELU6": (),
    "RELU_N1_TO_1": (),
    "RESHAPE": (_constant(1),),
    "RESIZE_BILINEAR": _RESIZE,
    "RESIZE_NEAREST_NEIGHBOR": _RESIZE,
    "RSQRT": (),
    "SLICE": (_constant(1, 2),),
    "SOFTMAX": (_softmax,),
    "SPACE_TO_DEPTH": (),
    "SPLIT": (_split,),
    "SQUARED_DIFFERENCE": (),
    "SQUEEZE": (_squeeze,),
    "STRIDED_SLICE": (_constant(1, 2, 3), _strided_slice),
    "SUB": (),
    "SUM": _REDUCE,
    "TANH": (),
    "TILE": (_constant(1), _tile),
    "TRANSPOSE": (_constant(1), _transpose),
    "TRANSPOSE_CONV": (_constant(0, 1, 3),),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (_constant(*range(1, 18)),),
}
"""Operator → its own rules, beside types, static shapes and three dimensions, which hold for all."""

REWRITES: Mapping[str, str] = {
    "HARD_SWISH": "train or export with relu6",
    "LEAKY_RELU": "prelu with a constant alpha, or relu6",
    "GELU": "relu6",
    "ARG_MAX": "leave the last arg-max to the caller",
    "PADV2": "pad with zeros",
    "DIV": "multiply by the constant's reciprocal",
}
"""What would make an operator fit, where something would."""
