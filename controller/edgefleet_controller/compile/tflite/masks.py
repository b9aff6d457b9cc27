"""Masks of attention in integers: a constant of -3.4e38 before a Softmax would take the whole scale of its tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.tflite import flatbuffer, graph
from edgefleet_controller.compile.tflite.graph import Graph, Op, Tensor

HUGE = 1e30
"""Constants beyond this stand for infinity: exporters and converters write the largest float32, or half of it."""
BELOW = 16.0
"""How far below every score a masked one lies: exp(-16) is 1e-7, and an int8 Softmax tells 1/256 apart."""
_PASSING = frozenset({"ADD", "MAXIMUM", "RESHAPE", "SELECT", "SELECT_V2", "TRANSPOSE"})
"""Operators between a mask and its Softmax."""


def bounded(data: bytes, ranges: Mapping[str, Any]) -> bytes:
    """Return the file with masks that lie below every score by as much as counts, instead of at -3.4e38.

    Args:
        data: an fp32 file.
        ranges: tensor → `min` and `max` of its values on calibration samples.
    """
    content = graph.read(data)
    depths = {tensor.index: depth for tensor, depth in _masks(content, ranges)}
    if not depths:
        return data
    model = flatbuffer.read(data)
    for index, depth in depths.items():
        values = np.array(_huge(_constant(content, index)))
        values[np.abs(values) >= HUGE] = depth
        model.subgraphs[0].tensors[index].buffer = flatbuffer.add_buffer(model, values.astype(np.float32))
    return flatbuffer.write(model)


def too_wide(data: bytes) -> str | None:
    """Return the name of a tensor whose quantised scale is no number a kernel can work with, or None.

    LiteRT ends the whole process over such a file.
    """
    for tensor in flatbuffer.read(data).subgraphs[0].tensors:
        scales = getattr(tensor.quantization, "scale", None)
        if scales is not None and len(scales) and not (np.isfinite(scales).all() and np.max(scales) < HUGE):
            return flatbuffer.text(tensor.name)
    return None


def _constant(content: Graph, index: int) -> Tensor:
    return next(each for op in content.operators for each in op.inputs if each is not None and each.index == index)


def _masks(content: Graph, ranges: Mapping[str, Any]) -> list[tuple[Tensor, float]]:
    """Return the constants that only mask scores of a Softmax, each with the value that does."""
    found: dict[int, tuple[Tensor, float]] = {}
    for op in content.operators:
        for tensor in op.inputs:
            if tensor is None or _huge(tensor) is None or not _ends_in_softmax(content, op):
                continue
            others = [each for each in op.inputs if each is not None and each.index != tensor.index]
            width = max((_width(each, ranges) for each in others), default=0.0)
            depth = min(-width - BELOW, found.get(tensor.index, (tensor, 0.0))[1])
            found[tensor.index] = (tensor, depth)
    return list(found.values())


def _huge(tensor: Tensor) -> Array | None:
    """Return the values of a constant of zeros and up and huge negative ones, else None."""
    if not tensor.is_constant or tensor.dtype != "float32":
        return None
    values = tensor.values()
    if values is None or not values.size or values.min() > -HUGE or values.max() >= HUGE:
        return None
    return values


def _ends_in_softmax(content: Graph, op: Op) -> bool:
    """Return whether all that reads an operator's result is a Softmax, at once or over operators that pass it on."""
    pending = [op]
    while pending:
        here = pending.pop()
        if here.type == "SOFTMAX":
            continue
        made = {each.index for each in here.outputs}
        readers = [each for each in content.operators if made & {t.index for t in each.inputs if t is not None}]
        if here.type not in _PASSING or not readers or made & content.outputs:
            return False
        pending += readers
    return True


def _width(tensor: Tensor, ranges: Mapping[str, Any]) -> float:
    """Return how far a tensor's values and zero lie apart."""
    found = ranges.get(tensor.name, {})
    ends = [0.0, *(float(found[end]) for end in ("min", "max") if end in found)]
    ends = [each for each in ends if abs(each) < HUGE]
    return max(ends) - min(ends)
