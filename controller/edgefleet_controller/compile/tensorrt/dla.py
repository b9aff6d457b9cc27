"""What TensorRT runs on DLA, NVIDIA's accelerator beside the GPU: rules as data. Pure; never run on hardware by us.

Sources: "DLA Supported Layers and Restrictions" of TensorRT 11.4's documentation
(https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/dla-layer-restrictions.html); include/NvInfer.h
of NVIDIA/TensorRT, alike in 10.3, 10.7 and 11.1 (a892d222); the operator table of
NVIDIA/Deep-Learning-Accelerator-SW (ea61780e).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

VERSION = "DLA: TensorRT 11.4 docs, NvInfer.h 10.3 to 11.1 (a892d222), DLA-SW ea61780e"
MAX_BATCH, MAX_SIZE = 4096, 8192
_FREE = frozenset(
    {"Cast", "Constant", "ConstantOfShape", "DequantizeLinear", "Dropout", "Identity", "QuantizeLinear", "Shape"}
)
"""Operators that change types only and vanish into their neighbours, or are known at build time."""
_PLAIN = frozenset(
    {"Abs", "Add", "BatchNormalization", "Clip", "Div", "Equal", "GlobalMaxPool", "Greater", "LeakyRelu", "Less", "Max",
     "Min", "Mul", "Pow", "ReduceMax", "Relu", "Reshape", "Sigmoid", "Split", "Sub", "Sum", "Tanh", "Transpose"}
)  # fmt: skip
"""Operators that DLA has without a rule about their attributes that this table could ask."""
_LONG_KERNELS = (64, 96, 128)
_LRN_SIZES = (3, 5, 7, 9)
_SOFTMAX_MAX = 1024
_RESIZE_MAX: Mapping[str, int] = {"nearest": 32, "linear": 4}


@dataclass(frozen=True)
class Facts:
    """What a graph tells of its tensors.

    Attributes:
        constants: name → value, of weights and parameters; where types change on the way, the value before.
        shapes: name → sizes, None where one is open, of those whose sizes are known.
    """

    constants: Mapping[str, onnx.TensorProto] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)


def facts_of(graph: onnx.GraphProto) -> Facts:
    """Return what a graph with inferred shapes tells of its tensors."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update((name, each.t) for name in node.output for each in node.attribute if each.name == "value")
        elif node.op_type in _FREE and node.input and node.input[0] in constants:
            constants.update((name, constants[node.input[0]]) for name in node.output)
    named = (*graph.input, *graph.value_info, *graph.output)
    shapes = {value.name: _sizes(value) for value in named if value.type.tensor_type.HasField("shape")}
    return Facts(constants, {**shapes, **{name: tuple(tensor.dims) for name, tensor in constants.items()}})


def _sizes(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)


def not_on_dla(node: onnx.NodeProto, facts: Facts) -> str | None:
    """Return why DLA does not run an operator, so that the GPU would, or None where the table knows no reason."""
    if node.op_type in _FREE:
        return None
    rule = _RULES.get(node.op_type)
    if rule is None and node.op_type not in _PLAIN:
        return _LACKING.get(node.op_type, f"DLA has no {node.op_type}")
    return _too_large(node, facts) or (None if rule is None else rule(node, facts))


def _too_large(node: onnx.NodeProto, facts: Facts) -> str | None:
    for name in (*node.input, *node.output):
        shape = facts.shapes.get(name, ())
        if name in facts.constants or len(shape) < 2:
            continue
        batch, sizes = shape[:-3] or shape[:1], shape[-3:] if len(shape) > 3 else shape[1:]
        if any(size is not None and size > MAX_SIZE for size in sizes):
            return f"DLA takes sizes up to {MAX_SIZE}, {name} is {list(shape)}"
        if int(np.prod([size or 1 for size in batch])) > MAX_BATCH:
            return f"DLA takes batches up to {MAX_BATCH}, {name} is {list(shape)}"
    return None


def _convolution(node: onnx.NodeProto, facts: Facts) -> str | None:
    pads, kernel = _ints(node, "pads"), _kernel(node, facts)
    return (
        _two_axes(node, facts)
        or _within(node, "kernel_shape", 1, 32, kernel)
        or _within(node, "strides", 1, 8)
        or _within(node, "dilations", 1, 32)
        or _within(node, "group", 1, MAX_SIZE)
        or _within(node, "pads", 0, 31)
        or _padded_less(pads, kernel)
    )


def _padded_less(pads: Sequence[int], kernel: Sequence[int]) -> str | None:
    wide = kernel and any(pad >= size for pad, size in zip(pads, (*kernel, *kernel), strict=False))
    return f"DLA pads by less than the kernel {list(kernel)}, this by {list(pads)}" if wide else None


def _deconvolution(node: onnx.NodeProto, facts: Facts) -> str | None:
    if _ints(node, "group", 1) not in {(), (1,)}:
        return "DLA has no grouped deconvolution"
    if any(pad != 0 for pad in _ints(node, "pads")):
        return "DLA deconvolves without padding only"
    if any(each != 1 for each in _ints(node, "dilations")):
        return "DLA has no dilated deconvolution"
    return (
        _two_axes(node, facts)
        or _long("kernel_shape", _kernel(node, facts))
        or _long("strides", _ints(node, "strides"))
    )


def _long(attribute: str, values: tuple[int, ...]) -> str | None:
    if all(1 <= value <= 32 for value in values) or (sorted(values)[:-1] == [1] and max(values) in _LONG_KERNELS):
        return None
    return f"DLA takes {attribute} from 1 to 32, or 1 by 64, 96 or 128, this has {list(values)}"


def _two_axes(node: onnx.NodeProto, facts: Facts) -> str | None:
    weight = facts.constants.get(node.input[1]) if len(node.input) > 1 else None
    if weight is not None and len(weight.dims) != 4:
        return f"DLA convolves over 2 axes, this one over {len(weight.dims) - 2}"
    return None


def _kernel(node: onnx.NodeProto, facts: Facts) -> tuple[int, ...]:
    weight = facts.constants.get(node.input[1]) if len(node.input) > 1 else None
    return _ints(node, "kernel_shape") or (() if weight is None else tuple(weight.dims[2:]))


def _pool(node: onnx.NodeProto, facts: Facts) -> str | None:  # noqa: ARG001 - one shape for all rules
    kernel = _ints(node, "kernel_shape")
    if len(kernel) not in {0, 2}:
        return f"DLA pools over 2 axes, this one over {len(kernel)}"
    return _within(node, "kernel_shape", 1, 8) or _within(node, "strides", 1, 16) or _within(node, "pads", 0, 7)


def _concatenation(node: onnx.NodeProto, facts: Facts) -> str | None:
    rank = max((len(facts.shapes.get(name, ())) for name in (*node.input, *node.output)), default=0)
    if len(node.input) < 2:
        return "DLA joins two inputs or more"
    axis = _ints(node, "axis", 0)[0]
    if rank and axis % rank != rank - 3:
        return f"DLA joins channels only, the third axis from the last; this joins axis {axis} of {rank}"
    return None


def _normalisation(node: onnx.NodeProto, facts: Facts) -> str | None:  # noqa: ARG001 - one shape for all rules
    size = _ints(node, "size", 0)[0]
    return None if size in _LRN_SIZES else f"DLA normalises over 3, 5, 7 or 9 channels, this over {size}"


def _product(node: onnx.NodeProto, facts: Facts) -> str | None:
    return None if set(node.input[1:2]) & facts.constants.keys() else "DLA multiplies by a constant matrix only"


def _slope(node: onnx.NodeProto, facts: Facts) -> str | None:
    return None if set(node.input[1:2]) & facts.constants.keys() else "DLA takes a constant slope only"


def _slice(node: onnx.NodeProto, facts: Facts) -> str | None:
    given = [name for name in node.input[1:] if name]
    if any(name not in facts.constants for name in given):
        return "DLA slices by constants only"
    rank = len(facts.shapes.get(node.input[0], ()))
    if rank not in {0, 4}:
        return f"DLA slices tensors of 4 axes, this has {rank}"
    steps = _values(node, 4, facts)
    if any(step != 1 for step in steps):
        return f"DLA slices in steps of 1, this in {steps}"
    axes = _values(node, 3, facts) or list(range(len(_values(node, 1, facts))))
    return (
        "DLA slices other axes than the first"
        if 0 in [axis % 4 for axis in axes] and _cuts_first(node, facts)
        else None
    )


def _cuts_first(node: onnx.NodeProto, facts: Facts) -> bool:
    """Return whether a slice leaves out a part of the first axis."""
    source, made = facts.shapes.get(node.input[0], ()), facts.shapes.get(node.output[0], ())
    return not source or not made or source[0] != made[0]


def _softmax(node: onnx.NodeProto, facts: Facts) -> str | None:
    shape = facts.shapes.get(node.input[0], ())
    if not shape:
        return None
    axis = _ints(node, "axis", -1)[0] % len(shape)
    if axis == 0:
        return "DLA takes a softmax over the channels, height or width, not over the batch"
    others = [size for place, size in enumerate(shape) if place not in {0, axis}]
    limit = MAX_SIZE if all(size == 1 for size in others) else _SOFTMAX_MAX
    size = shape[axis]
    return None if size is None or size <= limit else f"DLA takes a softmax over up to {limit} of {list(shape)}"


def _resize(node: onnx.NodeProto, facts: Facts) -> str | None:
    mode = next((each.s.decode() for each in node.attribute if each.name == "mode"), "nearest")
    if mode not in _RESIZE_MAX:
        return f"DLA resizes to the nearest or linearly, not {mode}"
    scales = _scales(node, facts)
    if scales is None:
        return "DLA resizes by constant scales only"
    most = _RESIZE_MAX[mode]
    whole = all(scale == int(scale) and 1 <= scale <= most for scale in scales[2:])
    if len(scales) == 4 and scales[:2] == [1, 1] and whole:
        return None
    return f"DLA resizes height and width by whole numbers from 1 to {most} ({mode}), this by {scales}"


def _scales(node: onnx.NodeProto, facts: Facts) -> list[float] | None:
    place = 2 if len(node.input) > 2 else 1  # opset 10 has no region of interest
    if values := _numbers(node, place, facts):
        return values
    source, made = facts.shapes.get(node.input[0], ()), facts.shapes.get(node.output[0], ())
    if not source or len(source) != len(made) or None in source or None in made:
        return None
    return [float(after or 0) / float(before or 1) for before, after in zip(source, made, strict=True)]


def _values(node: onnx.NodeProto, place: int, facts: Facts) -> list[int]:
    return [int(each) for each in _numbers(node, place, facts)]


def _numbers(node: onnx.NodeProto, place: int, facts: Facts) -> list[float]:
    """Return a constant input's values; empty where it is none, or not in this file."""
    tensor = facts.constants.get(node.input[place] if len(node.input) > place else "")
    if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return []
    try:
        return [float(each) for each in numpy_helper.to_array(tensor).reshape(-1)]
    except (TypeError, ValueError):  # a damaged tensor: the report names what it can
        return []


def _within(
    node: onnx.NodeProto, attribute: str, least: int, most: int, given: tuple[int, ...] | None = None
) -> str | None:
    values = _ints(node, attribute) if given is None else given
    if all(least <= value <= most for value in values):
        return None
    return f"DLA takes {attribute} from {least} to {most}, this has {list(values)}"


def _ints(node: onnx.NodeProto, name: str, default: int | None = None) -> tuple[int, ...]:
    for attribute in node.attribute:
        if attribute.name == name:
            return tuple(attribute.ints) or (attribute.i,)
    return () if default is None else (default,)


_RULES: Mapping[str, Callable[[onnx.NodeProto, Facts], str | None]] = {
    "AveragePool": _pool,
    "Concat": _concatenation,
    "Conv": _convolution,
    "ConvTranspose": _deconvolution,
    "Gemm": _product,
    "LRN": _normalisation,
    "MatMul": _product,
    "MaxPool": _pool,
    "PRelu": _slope,
    "Resize": _resize,
    "Slice": _slice,
    "Softmax": _softmax,
}
_LACKING: Mapping[str, str] = {
    "GlobalAveragePool": "DLA has no GlobalAveragePool: of reductions it has the maximum only",
}
