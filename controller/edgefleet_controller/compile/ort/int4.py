"""4-bit weights: each product with a constant matrix becomes MatMulNBits, activations stay float32.

Blocks of 32 weights share a scale and a zero point; the scale is searched, not only read off the extremes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgefleet_contract.artifact import TensorSpec
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph import onnx_graph
from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.ort.gather import quantize_tables
from edgefleet_controller.compile.protocol import BuildRequest, OptionValue
from edgefleet_controller.compile.quantise import calibrate
from edgefleet_controller.compile.quantise.judge import open_judge

BLOCK_N = 32
"""The smallest block ONNX Runtime's kernel has, and so the most accurate."""
_LEVELS_N = 15
_SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
_LEAST_ROWS_N = 16
"""Shorter inner dimensions would be padding more than weights."""


def build(request: BuildRequest, inputs: tuple[TensorSpec, ...]) -> tuple[onnx.ModelProto, dict[str, OptionValue]]:
    """Return the model with 4-bit weights, and how it was made.

    Raises:
        CompileFaultError: it has no product with a constant matrix, or is not managed.
    """
    work_dir = Path(request.work_dir)
    model = onnx.load(calibrate.prepare(Path(request.source), work_dir))
    layers_n, weights_n = quantize_weights(model)
    if layers_n == 0:
        raise CompileFaultError(
            "variant",
            f"int4 applies to MatMul and Gemm with constant weights of {_LEAST_ROWS_N} rows or more; "
            f"{onnx_graph.none_found(model)}",
            family="unsupported",
        )
    tables_n = quantize_tables(model)
    floats_n = sum(
        int(np.prod(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and not tensor.name.endswith("_scales")
    )
    judge = open_judge(request, inputs)
    with calibrate.quantisation_faults():
        score = judge.score(judge.run(model.SerializeToString()))
    options: dict[str, OptionValue] = {
        "weights": f"int4 in blocks of {BLOCK_N}, zero point and searched scale a block",
        "quantised_nodes_n": layers_n,
        "quantised_weights_n": weights_n,
        "quantised_weights_share": round(weights_n / max(1, weights_n + floats_n), 6),
        "int8_tables_n": tables_n,
        "judged_on_samples_n": len(judge.feeds),
        "sqnr_db": round(score.sqnr_db, 2),
    }
    if score.top1 is not None:
        options["top1"] = round(score.top1, 6)
    return model, options


def quantize_weights(model: onnx.ModelProto) -> tuple[int, int]:
    """Rewrite a model's products in place; return how many, and how many weights they hold."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    layers_n = weights_n = 0
    for node in graph.node:
        tensor = tensors.get(node.input[1]) if node.op_type in {"MatMul", "Gemm"} else None
        matrix = None if tensor is None else _matrix(node, tensor)
        if matrix is None:
            nodes.append(node)
            continue
        nodes += _replace(graph, node, matrix)
        layers_n, weights_n = layers_n + 1, weights_n + matrix.size
    onnx_graph.put_nodes(graph, nodes)
    drop_unused(graph)
    if layers_n and not any(entry.domain == "com.microsoft" for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return layers_n, weights_n


def _matrix(node: onnx.NodeProto, tensor: onnx.TensorProto) -> Array | None:
    """Return a product's weight as f32[inner, outer], or None where MatMulNBits cannot stand for it."""
    if len(tensor.dims) != 2 or tensor.data_type != onnx.TensorProto.FLOAT:
        return None
    settings = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if settings.get("transA", 0) or settings.get("alpha", 1.0) != 1.0 or settings.get("beta", 1.0) != 1.0:
        return None
    values: Array = numpy_helper.to_array(tensor)
    values = values.T if settings.get("transB", 0) else values
    return values if values.shape[0] >= _LEAST_ROWS_N else None


def _replace(graph: onnx.GraphProto, node: onnx.NodeProto, matrix: Array) -> list[onnx.NodeProto]:
    packed, scales, zeros = pack(matrix)
    name = node.name or node.output[0]
    for part, values in (("q4", packed), ("scales", scales), ("zeros", zeros)):
        graph.initializer.append(numpy_helper.from_array(values, f"{name}_{part}"))
    biased = node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]
    product = f"{name}_product" if biased else node.output[0]
    made = helper.make_node(
        "MatMulNBits",
        [node.input[0], f"{name}_q4", f"{name}_scales", f"{name}_zeros"],
        [product],
        name=f"{name}_int4",
        domain="com.microsoft",
        K=matrix.shape[0],
        N=matrix.shape[1],
        bits=4,
        block_size=BLOCK_N,
    )
    if not biased:
        return [made]
    return [made, helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{name}_bias")]


def pack(matrix: Array) -> tuple[Array, Array, Array]:
    """Return a weight as MatMulNBits stores it.

    Args:
        matrix: f32[inner, outer].

    Returns:
        Values u8[outer, blocks, 16] (two a byte, the first in the low half), scales f32[outer * blocks], and zero
        points u8[outer * ceil(blocks / 2)] (two a byte).
    """
    inner, outer = matrix.shape
    blocks_n = -(-inner // BLOCK_N)
    padded = np.zeros((outer, blocks_n * BLOCK_N), np.float32)
    padded[:, :inner] = matrix.T
    blocks = padded.reshape(outer, blocks_n, BLOCK_N)
    scales, zeros, levels = _search(blocks)
    values = levels[..., 0::2] | (levels[..., 1::2] << 4)
    pairs = np.full((outer, blocks_n + blocks_n % 2), 8, np.uint8)
    pairs[:, :blocks_n] = zeros
    return values.astype(np.uint8), scales.reshape(-1), (pairs[:, 0::2] | (pairs[:, 1::2] << 4)).reshape(-1)


def _search(blocks: Array) -> tuple[Array, Array, Array]:
    """Return scales, zero points and levels of least squared error over the shares of the range in `_SHRINK`."""
    low, high = np.minimum(blocks.min(axis=2), 0), np.maximum(blocks.max(axis=2), 0)
    best_error = np.full(low.shape, np.inf)
    best = (np.ones(low.shape, np.float32), np.zeros(low.shape, np.uint8), np.zeros(blocks.shape, np.uint8))
    for share in _SHRINK:
        scale = np.where(high > low, (high - low) * share / _LEVELS_N, 1.0).astype(np.float32)
        zero = np.clip(np.rint(-low * share / scale), 0, _LEVELS_N)
        levels = np.clip(np.rint(blocks / scale[..., None]) + zero[..., None], 0, _LEVELS_N)
        error = (((levels - zero[..., None]) * scale[..., None] - blocks) ** 2).sum(axis=2)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best = (
            np.where(better, scale, best[0]),
            np.where(better, zero, best[1]).astype(np.uint8),
            np.where(better[..., None], levels, best[2]).astype(np.uint8),
        )
    return best


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drop initializers that no node reads."""
    used = onnx_graph.names_read(graph) | {value.name for value in graph.output}
    left = [onnx.TensorProto.FromString(each.SerializeToString()) for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)
