"""Scalars at a file's edges: the converter gives them one axis, and callers know them without."""

from __future__ import annotations

import copy
from collections.abc import Collection

import numpy as np

from edgefleet_controller.compile.tflite import flatbuffer
from edgefleet_controller.compile.tflite.flatbuffer import FlatObject


def without_axis(data: bytes, names: Collection[str]) -> bytes:
    """Return the file whose inputs and outputs of these names, of shape [1], have no axis.

    A reshape behind each such input and a squeeze before each such output join them to the graph, which stays.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = flatbuffer.read(data)
    graph = model.subgraphs[0]
    graph.operators = list(graph.operators or ())
    model.operatorCodes = list(model.operatorCodes or ())
    graph.inputs, graph.outputs = (np.array(each, dtype=np.int32) for each in (graph.inputs, graph.outputs))
    for edges, entering in ((graph.inputs, True), (graph.outputs, False)):
        for place, index in enumerate(edges):
            if flatbuffer.text(graph.tensors[index].name) not in names:
                continue
            edge = _edge(model, int(index))
            edges[place] = edge
            code = flatbuffer.add_operator_code(
                model, schema.BuiltinOperator.RESHAPE if entering else schema.BuiltinOperator.SQUEEZE
            )
            if entering:
                graph.operators.insert(0, flatbuffer.reshape(model, code, edge, int(index), [1]))
            else:
                graph.operators.append(_squeeze(schema, code, int(index), edge))
            flatbuffer.point(model, int(index), edge, entering=entering)
    return flatbuffer.write(model)


def _edge(model: FlatObject, index: int) -> int:
    """Add a tensor without axes beside an inner one, whose name it takes; return its place."""
    graph = model.subgraphs[0]
    inner = graph.tensors[index]
    edge = copy.copy(inner)
    edge.shape, edge.shapeSignature = np.zeros(0, dtype=np.int32), None
    edge.hasRank = True
    edge.buffer = flatbuffer.add_buffer(model, None)
    inner.name = f"{flatbuffer.text(inner.name)}_one"
    graph.tensors.append(edge)
    return len(graph.tensors) - 1


def _squeeze(schema: FlatObject, code: int, inner: int, edge: int) -> FlatObject:
    operator = flatbuffer.operator(code, [inner], edge)
    operator.builtinOptionsType = schema.BuiltinOptions.SqueezeOptions
    operator.builtinOptions = schema.SqueezeOptionsT()
    operator.builtinOptions.squeezeDims = np.zeros(1, dtype=np.int32)
    return operator
