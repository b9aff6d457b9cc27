"""What the LiteRT Core ML delegate takes, operator by operator. Pure; never run on Apple hardware by us.

Source: LiteRT 2.2.0 (145c7523), tflite/delegates/coreml/coreml_delegate.mm and builders/*_op_builder.cc, with its
default options: Core ML 3, parts of at least two operators.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgefleet_controller.compile.tflite.delegate_rules import (
    FLOAT32,
    Kind,
    Rule,
    axes_of,
    constant,
    default_weights,
    integers_of,
    kinds,
    plain,
    rank_of,
    ranked,
    size_of,
    typed,
    unit_beta,
)
from edgefleet_controller.compile.tflite.graph import Op

EDITION = "LiteRT 2.2.0 (145c7523) coreml_delegate.mm and builders, Core ML 3"
LEAST_OPERATORS = 2
"""Fewest operators of a part of a graph that the delegate takes."""
MAX_KERNEL = 16_384
_SIGN_BIT, _REFLECT = 5, 0
_FLOATS = FLOAT32 | {"float16"}


def types(op: Op) -> str | None:
    """The first input, or what a transposed convolution convolves, is float32."""
    return typed(2 if op.type == "TRANSPOSE_CONV" else 0, FLOAT32)(op)


def _summand(op: Op) -> str | None:
    for tensor in op.inputs[:2]:
        if tensor is not None and not (tensor.dtype == "float32" or (tensor.dtype == "float16" and tensor.is_constant)):
            return f"{tensor.name} is {tensor.dtype}; the delegate takes float32, and float16 constants"
    left, right = op.input(0), op.input(1)
    if left is None or right is None:
        return "it has two inputs"
    if max(len(left.shape), len(right.shape)) > 4:
        return "it has an input with more than four axes"
    return _spread(
        _four(left.shape), _four(right.shape), any(each.is_constant and size_of(each) == 1 for each in (left, right))
    )


def _four(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) * (4 - len(shape)) + shape


def _spread(left: tuple[int, ...], right: tuple[int, ...], has_number: bool) -> str | None:
    batch = left[0] == right[0] or has_number
    image = left[1:3] == right[1:3] or (1, 1) in {left[1:3], right[1:3]}
    channels = left[3] == right[3] or 1 in {left[3], right[3]}
    return None if batch and image and channels else f"it broadcasts {list(left)} with {list(right)}"


def _channels_joined(op: Op) -> str | None:
    rank = rank_of(op.inputs[0])
    if len(op.inputs) < 2:
        return "it joins fewer than two inputs"
    if rank in {3, 4} and op.option("axis") in {rank - 1, -1}:
        return None
    return "it joins other than the channels of three or four axes"


def _convolution(op: Op) -> str | None:
    weights = op.input(1)
    if op.option("fusedActivationFunction") == _SIGN_BIT:
        return "SIGN_BIT is fused into it"
    if weights is not None and max(weights.shape[1:3], default=0) > MAX_KERNEL:
        return f"its kernel {list(weights.shape[1:3])} is larger than {MAX_KERNEL}"
    return None


def _single_row(op: Op) -> str | None:
    source = op.inputs[0]
    if op.option("fusedActivationFunction") == _SIGN_BIT:
        return "SIGN_BIT is fused into it"
    if source is None or not source.shape or source.shape[-1] != size_of(source):
        return "its input has several rows; the delegate takes one"
    return None


def _image_mean(op: Op) -> str | None:
    axes = axes_of(op)
    if not op.option("keepDims"):
        return "it drops the axes it takes the mean over; the delegate keeps them"
    return None if axes is not None and set(axes) <= {1, 2} else "it takes the mean over other than height and width"


def _image_padding(op: Op) -> str | None:
    shape = () if (tensor := op.input(1)) is None else tensor.shape
    if shape != (4, 2):
        return f"its paddings are {list(shape)}; the delegate takes [4, 2]"
    values = integers_of(op, 1)
    return None if not any(values[:2] + values[6:]) else "it pads the batch or the channels"


def _reflects(op: Op) -> str | None:
    return (
        "it pads symmetrically; the delegate mirrors without the edge" if (op.option("mode") or 0) != _REFLECT else None
    )


def _no_reshape(op: Op) -> str | None:  # noqa: ARG001 - one shape for all rules
    return "the delegate has no RESHAPE for Core ML 3, which it uses unless told otherwise"


_CONVOLUTION: tuple[Rule, ...] = (constant(1), _convolution)
_PADDING: tuple[Rule, ...] = (constant(1), _image_padding)

KINDS: Mapping[str, Kind] = {
    **kinds("ADD MUL", 1, _summand),
    **kinds("AVERAGE_POOL_2D MAX_POOL_2D", 1, plain),
    **kinds("CONCATENATION", 1, plain, _channels_joined),
    **kinds("CONV_2D", 1, *_CONVOLUTION, constant(2)),
    **kinds("DEPTHWISE_CONV_2D", 2, *_CONVOLUTION, constant(2)),
    **kinds("FULLY_CONNECTED", 6, default_weights, typed(1, _FLOATS), constant(1, 2), typed(2, _FLOATS), _single_row),
    **kinds("HARD_SWISH LOGISTIC RELU RELU6 RELU_N1_TO_1 TANH", 1),
    **kinds("MEAN", 1, ranked(0, 4, 4), _image_mean),
    **kinds("MIRROR_PAD", 1, _reflects, *_PADDING),
    **kinds("PAD PADV2", 1, *_PADDING),
    **kinds("RESHAPE", 1, _no_reshape),
    **kinds("RESIZE_BILINEAR", 1, constant(1)),
    **kinds("SOFTMAX", 1, unit_beta),
    **kinds("TRANSPOSE_CONV", 1, *_CONVOLUTION, constant(0)),
}
"""Operator → what the delegate asks of it."""
