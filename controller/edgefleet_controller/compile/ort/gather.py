"""Embedding tables in int8, one scale a row: they hold half of a small language model's bytes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefleet_controller.compile.graph.onnx_graph import put_nodes

_LEAST_BYTES = 65_536
"""Smaller tables are not worth three more nodes."""


def quantize_tables(model: onnx.ModelProto) -> int:
    """Rewrite float32 tables read by Gather along axis 0, in place; return how many."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    tables = [
        name
        for name, tensor in tensors.items()
        if tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) == 2
        and 4 * int(np.prod(tensor.dims)) >= _LEAST_BYTES
        and readers.get(name)
        and all(_is_lookup(node, name) for node in readers[name])
    ]
    for name in tables:
        _write(graph, tensors[name])
    rebuilt: list[onnx.NodeProto] = []
    for node in graph.node:
        rebuilt += _lookup(node) if node.op_type == "Gather" and node.input[0] in tables else [node]
    put_nodes(graph, rebuilt)
    return len(tables)


def _is_lookup(node: onnx.NodeProto, table: str) -> bool:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return node.op_type == "Gather" and axis == 0 and node.input[0] == table and node.input[1] != table


def _write(graph: onnx.GraphProto, tensor: onnx.TensorProto) -> None:
    """Put rows in int8 and their scales in place of a table."""
    values = numpy_helper.to_array(tensor)
    scale = np.maximum(np.abs(values).max(axis=1, keepdims=True), 1e-30) / 127
    rows = numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{tensor.name}_int8")
    scales = numpy_helper.from_array(scale.astype(np.float32), f"{tensor.name}_scales")
    graph.initializer.remove(tensor)
    graph.initializer.extend([rows, scales])


def _lookup(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    table, places, out = node.input[0], node.input[1], node.output[0]
    return [
        helper.make_node("Gather", [f"{table}_int8", places], [f"{out}_rows"], name=f"{node.name}_rows"),
        helper.make_node("Cast", [f"{out}_rows"], [f"{out}_float"], name=f"{node.name}_float", to=TensorProto.FLOAT),
        helper.make_node("Gather", [f"{table}_scales", places], [f"{out}_scales"], name=f"{node.name}_scales"),
        helper.make_node("Mul", [f"{out}_float", f"{out}_scales"], [out], name=node.name or f"{out}_lookup"),
    ]
