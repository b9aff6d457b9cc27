"""Integer outputs given back as int64, where the converter computes them as int32 and nothing can exceed it."""

from __future__ import annotations

import copy
from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto

from edgefleet_controller.compile.tflite import flatbuffer


def is_bounded(model: onnx.ModelProto) -> bool:
    """Return whether every int64 in a graph counts or indexes elements: none comes from outside or from a float."""
    given = any(value.type.tensor_type.elem_type == TensorProto.INT64 for value in model.graph.input)
    cast = any(
        node.op_type == "Cast" and any(each.name == "to" and each.i == TensorProto.INT64 for each in node.attribute)
        for node in model.graph.node
    )
    return not given and not cast


def as_int64(data: bytes, names: Collection[str]) -> bytes:
    """Return the file with these int32 outputs cast to int64, under the same names."""
    from ai_edge_litert import schema_py_generated as schema

    model = flatbuffer.read(data)
    graph = model.subgraphs[0]
    code = flatbuffer.add_operator_code(model, schema.BuiltinOperator.CAST)
    outputs = list(graph.outputs)
    for place, index in enumerate(outputs):
        narrow = graph.tensors[index]
        name = flatbuffer.text(narrow.name)
        if name not in names:
            continue
        wide = copy.copy(narrow)
        wide.type, wide.buffer = schema.TensorType.INT64, flatbuffer.add_buffer(model, None)
        narrow.name = f"{name}_int32"
        graph.tensors.append(wide)
        graph.operators.append(_cast(schema, code, int(index), len(graph.tensors) - 1))
        outputs[place] = len(graph.tensors) - 1
        flatbuffer.point(model, int(index), outputs[place])
    graph.outputs = np.asarray(outputs, dtype=np.int32)
    return flatbuffer.write(model)


def _cast(schema: flatbuffer.FlatObject, code: int, source: int, target: int) -> flatbuffer.FlatObject:
    operator = flatbuffer.operator(code, [source], target)
    operator.builtinOptionsType = schema.BuiltinOptions.CastOptions
    operator.builtinOptions = schema.CastOptionsT()
    operator.builtinOptions.inDataType, operator.builtinOptions.outDataType = (
        schema.TensorType.INT32,
        schema.TensorType.INT64,
    )
    return operator
