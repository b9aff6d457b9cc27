"""Outputs that operators read too: the quantiser hands those a float where it promised integers."""

from __future__ import annotations

import copy

import numpy as np

from edgefleet_controller.compile.tflite import flatbuffer
from edgefleet_controller.compile.tflite.flatbuffer import FlatObject


def outputs_apart(data: bytes) -> bytes:
    """Return the fp32 file whose float outputs no operator reads: each that one did is a copy, under the same name."""
    from ai_edge_litert import schema_py_generated as schema

    model = flatbuffer.read(data)
    graph = model.subgraphs[0]
    read = {int(index) for operator in graph.operators or () for index in operator.inputs}
    outputs = [int(index) for index in graph.outputs]
    shared = [
        index
        for index in dict.fromkeys(outputs)
        if index in read
        and graph.tensors[index].type == schema.TensorType.FLOAT32
        and graph.tensors[index].shape is not None
        and len(graph.tensors[index].shape)
        and index not in {int(each) for each in graph.inputs}
    ]
    if not shared:
        return data
    code = flatbuffer.add_operator_code(model, schema.BuiltinOperator.RESHAPE)
    for index in shared:
        edge = _copied(model, code, index)
        outputs = [edge if each == index else each for each in outputs]
        flatbuffer.point(model, index, edge)
    graph.outputs = np.asarray(outputs, dtype=np.int32)
    return flatbuffer.write(model)


def _copied(model: FlatObject, code: int, index: int) -> int:
    """Add a copy of a tensor, which takes its name, and the reshape that makes it; return its place."""
    graph = model.subgraphs[0]
    inner = graph.tensors[index]
    edge = copy.copy(inner)
    edge.buffer = flatbuffer.add_buffer(model, None)
    graph.tensors.append(edge)
    place = len(graph.tensors) - 1
    inner.name = f"{flatbuffer.text(inner.name)}_inside"
    graph.operators.append(flatbuffer.reshape(model, code, index, place, inner.shape))
    return place
