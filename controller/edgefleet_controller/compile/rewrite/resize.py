"""Resize in any mode, as one matrix product an axis: every mode is linear in its input and separable over axes.

The matrices are ONNX Runtime's own: its Resize of an identity matrix, so that no mode is written down a second time.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.rewrite.graph import Builder, attribute, given

MAX_MATRIX_ELEMENTS = 4_000_000


def by_matrices(node: onnx.NodeProto, builder: Builder) -> bool:
    """Resize (or Upsample) of a float tensor of fixed shape."""
    before, after = builder.shape(node.input[0]), builder.shape(node.output[0])
    if before is None or after is None or builder.dtype(node.input[0]) != "float32" or builder.opset < 11:
        return False
    if attribute(node, "extrapolation_value", 0.0) or any(
        b * a > MAX_MATRIX_ELEMENTS for b, a in zip(before, after, strict=True)
    ):
        return False
    scales, roi = _scales(node, builder, before, after), _roi(node, builder, len(before))
    name = node.input[0]
    for axis, size in enumerate(before):
        matrix = _matrix(node, builder.opset, size, after[axis], scales[axis], roi[axis])
        if matrix is None:
            return False
        if matrix.shape[0] != matrix.shape[1] or not np.array_equal(matrix, np.eye(size)):
            name = _multiply(builder, name, matrix, axis, len(before))
    builder.add("Identity", [name], node.output)
    return True


def _multiply(builder: Builder, name: str, matrix: Array, axis: int, rank: int) -> str:
    order = [*range(axis), *range(axis + 1, rank), axis]
    moved = name if axis == rank - 1 else builder.add("Transpose", [name], perm=order)
    product = builder.add("MatMul", [moved, builder.constant(matrix.astype(np.float32))])
    back = [order.index(place) for place in range(rank)]
    return product if axis == rank - 1 else builder.add("Transpose", [product], perm=back)


def _scales(
    node: onnx.NodeProto, builder: Builder, before: tuple[int, ...], after: tuple[int, ...]
) -> list[float | None]:
    """Return the scale given for each axis, or None where its size is given instead."""
    rank = len(before)
    values = builder.value(given(node, 2) or "")
    axes = [axis % rank for axis in attribute(node, "axes") or range(rank)]
    scales: list[float | None] = [1.0 if b == a else None for b, a in zip(before, after, strict=True)]
    if values is not None and values.size:
        for axis, scale in zip(axes, values.tolist(), strict=True):
            scales[axis] = scale
        return scales
    policy, sizes = attribute(node, "keep_aspect_ratio_policy", "stretch"), builder.value(given(node, 3) or "")
    if policy != "stretch" and sizes is not None:
        ratios = [size / before[axis] for axis, size in zip(axes, sizes.tolist(), strict=True)]
        shared = min(ratios) if policy == "not_larger" else max(ratios)
        return [shared if axis in axes else None for axis in range(rank)]
    return [None] * rank


def _roi(node: onnx.NodeProto, builder: Builder, rank: int) -> list[tuple[float, float]]:
    values = builder.value(given(node, 1) or "")
    whole = [(0.0, 1.0)] * rank
    if values is None or not values.size:
        return whole
    axes = [axis % rank for axis in attribute(node, "axes") or range(rank)]
    starts, ends = values.reshape(2, -1).tolist()
    for axis, start, end in zip(axes, starts, ends, strict=True):
        whole[axis] = (start, end)
    return whole


def _matrix(
    node: onnx.NodeProto, opset: int, size: int, made: int, scale: float | None, roi: tuple[float, float]
) -> Array | None:
    """Return the matrix of one axis, `[size, made]`, or None where ONNX Runtime does not give it."""
    left_out = {"axes", "keep_aspect_ratio_policy"}
    kept = [each for each in node.attribute if each.name not in left_out]
    parts: dict[str, Array] = {
        "roi": np.asarray([0, 0, 0, roi[0], 1, 1, 1, roi[1]], dtype=np.float32),
        "scales": np.asarray([1, 1, 1, scale] if scale is not None else [], dtype=np.float32),
        "sizes": np.asarray([1, 1, size, made] if scale is None else [], dtype=np.int64),
    }
    inputs = ["x", "roi", "scales" if scale is not None else "", "sizes" if scale is None else ""]
    resize = helper.make_node("Resize", inputs, ["y"])
    resize.attribute.extend(kept)
    given_to, made_of = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y"))
    weights = [numpy_helper.from_array(array, name) for name, array in parts.items() if array.size]
    graph = helper.make_graph([resize], "axis", [given_to], [made_of], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        found = session.Session(model.SerializeToString()).run({"x": np.eye(size, dtype=np.float32)[None, None]})[0]
    except session.RUNTIME_ERRORS:
        return None
    return np.asarray(found[0, 0]) if found.shape == (1, 1, size, made) else None
