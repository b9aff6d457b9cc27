"""What the converter leaves loose: outputs behind a dropped Transpose, first states, operators nobody reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import permutations

import numpy as np
import onnx

from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.tflite import flatbuffer
from edgefleet_controller.compile.tflite.flatbuffer import FlatObject
from edgefleet_controller.compile.tflite.layout import Axes

_STATEFUL = frozenset({
    "BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN", "CALL_ONCE", "LSTM", "RNN", "SVDF",
    "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN",
})  # fmt: skip
"""Operators that write to variables among their inputs."""


def with_constant_states(data: bytes) -> bytes:
    """Return the file with zeros for variables that no operator writes.

    An unrolled GRU begins so; the quantiser cannot read a variable, and runtimes would keep a state that never changes.
    """
    model = flatbuffer.read(data)
    graph = model.subgraphs[0]
    written = _written(graph)
    for operator in graph.operators or ():
        if flatbuffer.operator_type(model, operator) in _STATEFUL:
            written |= dict.fromkeys(_indices(operator.inputs), 0)
    still = [t for index, t in enumerate(graph.tensors) if t.isVariable and index not in written]
    still = [t for t in still if flatbuffer.type_names()[t.type] == "float32"]
    if not still:
        return data
    for tensor in still:
        tensor.buffer = flatbuffer.add_buffer(model, np.zeros(tensor.shape, dtype=np.float32))
        tensor.isVariable = False
    return flatbuffer.write(model)


def without_loose_ends(data: bytes) -> bytes:
    """Return the file without operators whose results nothing reads, and with a Squeeze for a Reshape to a scalar.

    The quantiser asks XNNPACK for every tensor's values, which it does not compute where nothing reads them, and takes
    the empty shape of a scalar for no constant.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = flatbuffer.read(data)
    graph = model.subgraphs[0]
    operators = list(graph.operators or ())
    while (dead := _unread(graph, operators)) is not None:
        operators.remove(dead)
        for index in map(int, dead.outputs):
            graph.tensors[index].shape = np.zeros(1, dtype=np.int32)
    scalars = [each for each in operators if _is_to_scalar(model, each)]
    if len(operators) == len(graph.operators or ()) and not scalars:
        return data
    for operator in scalars:
        rank = len(graph.tensors[operator.inputs[0]].shape)
        operator.opcodeIndex = flatbuffer.add_operator_code(model, schema.BuiltinOperator.SQUEEZE)
        operator.inputs = operator.inputs[:1]
        operator.builtinOptionsType = schema.BuiltinOptions.SqueezeOptions
        operator.builtinOptions = schema.SqueezeOptionsT()
        operator.builtinOptions.squeezeDims = np.arange(rank, dtype=np.int32)
    graph.operators = operators
    return flatbuffer.write(model)


def _unread(graph: FlatObject, operators: Sequence[FlatObject]) -> FlatObject | None:
    read = {index for each in operators for index in _indices(each.inputs)} | set(map(int, graph.outputs))
    return next((each for each in operators if len(each.outputs) and not read & set(map(int, each.outputs))), None)


def _is_to_scalar(model: FlatObject, operator: FlatObject) -> bool:
    tensors = model.subgraphs[0].tensors
    if flatbuffer.operator_type(model, operator) != "RESHAPE" or len(operator.inputs) < 2:
        return False
    given, shape = tensors[operator.inputs[0]], tensors[operator.inputs[1]]
    return list(map(int, shape.shape)) == [0] and given.shape is not None and len(given.shape) > 0


def outputs(data: bytes) -> tuple[str, ...]:
    """Return the names of outputs with elements that no operator writes, and that are neither inputs nor constants."""
    model = flatbuffer.read(data)
    graph = model.subgraphs[0]
    made = _written(graph)
    return tuple(
        flatbuffer.text(graph.tensors[index].name)
        for index in map(int, graph.outputs)
        if index not in made and not _is_constant(model, index) and not _is_empty(graph.tensors[index])
    )


def relatives(model: onnx.ModelProto, name: str) -> frozenset[str]:
    """Return the tensors of a graph that hold the same elements as one of it: over Transpose and Identity nodes."""
    seen, pending = {name}, [name]
    while pending:
        here = pending.pop()
        for node in model.graph.node:
            if node.op_type in {"Transpose", "Identity"} and here in (node.input[0], node.output[0]):
                new = {node.input[0], node.output[0]} - seen
                seen |= new
                pending += new
    return frozenset(seen - {name})


def candidates(data: bytes, output: Array) -> dict[str, int]:
    """Return the tensors a file writes that may hold a lost output's elements in another order: name → index."""
    graph = flatbuffer.read(data).subgraphs[0]
    return {
        flatbuffer.text(tensor.name): index
        for index in _written(graph)
        if (tensor := graph.tensors[index]) is not None
        and flatbuffer.type_names()[tensor.type] == output.dtype.name
        and sorted(map(int, () if tensor.shape is None else tensor.shape)) == sorted(output.shape)
    }


def orders(given: Sequence[int], wanted: Sequence[int]) -> Iterator[Axes]:
    """Yield the orders of axes that turn one shape into another."""
    for axes in permutations(range(len(given))):
        if [given[axis] for axis in axes] == list(wanted):
            yield axes


def showing(data: bytes, places: Mapping[str, int]) -> bytes:
    """Return the file with these tensors as its outputs."""
    model = flatbuffer.read(data)
    model.subgraphs[0].outputs = np.asarray(list(places.values()), dtype=np.int32)
    model.signatureDefs = None
    return flatbuffer.write(model)


def with_transpose(data: bytes, name: str, source: int, axes: Axes) -> bytes:
    """Return the file with an output written by a Transpose of another tensor, given by its index."""
    from ai_edge_litert import schema_py_generated as schema

    model = flatbuffer.read(data)
    graph = model.subgraphs[0]
    target = next(index for index in map(int, graph.outputs) if flatbuffer.text(graph.tensors[index].name) == name)
    tensor = graph.tensors[target]
    tensor.shape = np.asarray([graph.tensors[source].shape[axis] for axis in axes], dtype=np.int32)
    tensor.shapeSignature = None
    graph.operators.insert(_written(graph)[source] + 1, _transpose(model, schema, source, target, axes))
    return flatbuffer.write(model)


def _transpose(model: FlatObject, schema: FlatObject, source: int, target: int, axes: Axes) -> FlatObject:
    order = flatbuffer.add_integers(model, f"{flatbuffer.text(model.subgraphs[0].tensors[target].name)}_axes", axes)
    code = flatbuffer.add_operator_code(model, schema.BuiltinOperator.TRANSPOSE)
    operator = flatbuffer.operator(code, [source, order], target)
    operator.builtinOptionsType = schema.BuiltinOptions.TransposeOptions
    operator.builtinOptions = schema.TransposeOptionsT()
    return operator


def _written(graph: FlatObject) -> dict[int, int]:
    """Return the tensors that hold something when an operator is done: index → its place; -1 for inputs."""
    made = dict.fromkeys(_indices(graph.inputs), -1)
    for place, operator in enumerate(graph.operators or ()):
        made |= dict.fromkeys(_indices(operator.outputs), place)
    return made


def _indices(found: Iterable[int] | None) -> list[int]:
    """Return indices as the schema holds them: an array, or None where there are none."""
    return [] if found is None else [int(index) for index in found]


def _is_empty(tensor: FlatObject) -> bool:
    return tensor.shape is not None and 0 in tensor.shape


def _is_constant(model: FlatObject, index: int) -> bool:
    data = model.buffers[model.subgraphs[0].tensors[index].buffer].data
    return data is not None and len(data) > 0
