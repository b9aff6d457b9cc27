"""ScatterND and ScatterElements that combine (add, mul, max, min): which update meets which element, as a matrix."""

from __future__ import annotations

import math

import numpy as np
import onnx

from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.rewrite.graph import Builder, attribute
from edgefleet_controller.compile.rewrite.indexing import from_start

MAX_ELEMENTS = 1_000_000
"""Size of the intermediate tensor: updates times elements."""
_KINDS = {"add": "Add", "max": "Max", "min": "Min", "mul": "Mul"}
_REDUCTIONS = {"add": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin", "mul": "ReduceProd"}


def combined(node: onnx.NodeProto, builder: Builder) -> bool:
    """A scattering with a reduction, of float32 or int32 tensors of fixed shape."""
    shapes = [builder.shape(name) for name in node.input]
    reduction, dtype = attribute(node, "reduction", "none"), builder.dtype(node.input[0])
    if reduction not in _KINDS or dtype not in {"float32", "int32"} or builder.opset < 13:
        return False
    shape, chosen, updates = shapes
    if shape is None or chosen is None or updates is None or not math.prod(chosen):
        return False
    depth = chosen[-1] if node.op_type == "ScatterND" else len(shape)
    rows_n, width = math.prod(shape[:depth]), math.prod(shape[depth:])
    updates_n = math.prod(updates) // width
    if updates_n * rows_n * width > MAX_ELEMENTS:
        builder.refuse(node, f"{updates_n} updates of {rows_n} elements take a matrix of more than {MAX_ELEMENTS:,}")
        return False
    places = (_nd_places if node.op_type == "ScatterND" else _element_places)(node, builder, shape, chosen)
    column = builder.add("Reshape", [places, builder.constant([updates_n, 1])])
    hits = builder.add("Equal", [column, builder.constant(np.arange(rows_n, dtype=np.int32)[None])])
    wide = builder.add("Reshape", [hits, builder.constant([updates_n, rows_n, 1])])
    values = builder.add("Reshape", [node.input[2], builder.constant([updates_n, 1, width])])
    idle = builder.constant(np.full((updates_n, rows_n, width), _idle(reduction, dtype), dtype=dtype))
    total = _reduced(builder, _REDUCTIONS[reduction], builder.add("Where", [wide, values, idle]))
    data = builder.add("Reshape", [node.input[0], builder.constant([rows_n, width])])
    joined = builder.add(_KINDS[reduction], [data, total])
    builder.add("Reshape", [joined, builder.constant(list(shape))], node.output)
    return True


def _idle(reduction: str, dtype: str) -> float:
    """Return what changes nothing when it is combined."""
    if reduction in {"add", "mul"}:
        return float(reduction == "mul")
    limits = np.finfo(np.float32) if dtype == "float32" else np.iinfo(np.int32)
    return float(limits.min if reduction == "max" else limits.max)


def _reduced(builder: Builder, kind: str, name: str) -> str:
    if kind == "ReduceSum" or builder.opset >= 18:
        return builder.add(kind, [name, builder.constant([0])], keepdims=0)
    return builder.add(kind, [name], axes=[0], keepdims=0)


def _nd_places(node: onnx.NodeProto, builder: Builder, shape: tuple[int, ...], chosen: tuple[int, ...]) -> str:
    """Return the row each update meets: its coordinates, times how many rows lie between neighbours."""
    depth = chosen[-1]
    rows = builder.add("Reshape", [node.input[1], builder.constant([-1, depth])])
    total = ""
    for axis in range(depth):
        column = builder.add("Gather", [rows, builder.constant(np.asarray(axis, dtype=np.int64))], axis=1)
        part = _times(builder, from_start(builder, column, shape[axis]), math.prod(shape[axis + 1 : depth]))
        total = builder.add("Add", [total, part]) if total else part
    return total


def _element_places(node: onnx.NodeProto, builder: Builder, shape: tuple[int, ...], chosen: tuple[int, ...]) -> str:
    """Return the element each update meets: its own coordinates, but for the axis that indices speak of."""
    axis = attribute(node, "axis", 0) % len(shape)
    moved = _times(builder, from_start(builder, node.input[1], shape[axis]), math.prod(shape[axis + 1 :]))
    others: Array = np.zeros(chosen, dtype=np.int32)
    for place, coordinates in enumerate(np.indices(chosen)):
        if place != axis:
            others = others + coordinates * math.prod(shape[place + 1 :])
    return builder.add("Add", [moved, builder.constant(others.astype(np.int32))])


def _times(builder: Builder, name: str, factor: int) -> str:
    return builder.add("Mul", [name, builder.constant(np.asarray(factor, dtype=np.int32))])
