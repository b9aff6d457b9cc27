"""TFLite files as objects: read, written, and what our passes change in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.sources.formats import TFLITE_MARK

FlatObject: TypeAlias = Any
"""An object of the generated schema, which has no types."""


class DamagedFileError(ValueError):
    """Not a TFLite file, or cut short."""


@cache
def operator_names() -> Mapping[int, str]:
    """Return the name of every builtin operator code."""
    from ai_edge_litert import schema_py_generated as schema

    return {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


@cache
def type_names() -> Mapping[int, str]:
    """Return the name of every tensor type, in lower case: `int8`, `float32`."""
    from ai_edge_litert import schema_py_generated as schema

    return {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}


def read(data: bytes) -> FlatObject:
    """Return the `ModelT` of a file.

    Raises:
        DamagedFileError: it is none.
    """
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != TFLITE_MARK:
        raise DamagedFileError(f"is not a TFLite file: it does not hold {TFLITE_MARK.decode()} at byte 4")
    try:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
    except Exception as error:  # generated readers follow offsets wherever damage leads them
        raise DamagedFileError(f"is a damaged TFLite file: {type(error).__name__}: {error}") from error
    if not model.subgraphs:
        raise DamagedFileError("is a TFLite file without a graph")
    for buffer in model.buffers or ():
        _take_in(buffer, data)
    return model


def _take_in(buffer: FlatObject, data: bytes) -> None:
    """Give a buffer its data where the file keeps it behind the flatbuffer: offsets do not survive being written."""
    offset, size = int(buffer.offset or 0), int(buffer.size or 0)
    if offset > 1:
        if offset + size > len(data):
            raise DamagedFileError(f"is a damaged TFLite file: a buffer ends at byte {offset + size} of {len(data)}")
        buffer.data = np.frombuffer(data, dtype=np.uint8, count=size, offset=offset)
        buffer.offset = buffer.size = 0


def write(model: FlatObject) -> bytes:
    """Return the bytes of a `ModelT`; the same model gives the same bytes."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=TFLITE_MARK)
    return bytes(builder.Output())


def builtin_code(operator_code: FlatObject) -> int:
    """Return an operator code, wherever the file's age puts it."""
    return max(int(operator_code.builtinCode), int(operator_code.deprecatedBuiltinCode))


def operator_type(model: FlatObject, operator: FlatObject) -> str:
    """Return an operator's type as the schema names it; a custom one by its own name."""
    code = model.operatorCodes[operator.opcodeIndex]
    name = operator_names().get(builtin_code(code), f"UNKNOWN_{builtin_code(code)}")
    return text(code.customCode) if name == "CUSTOM" and code.customCode else name


def add_operator_code(model: FlatObject, builtin: int) -> int:
    """Add the code of a builtin operator, in its first version; return its place."""
    from ai_edge_litert import schema_py_generated as schema

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def add_buffer(model: FlatObject, values: Array | None) -> int:
    """Add a buffer with the bytes of an array, or an empty one; return its place."""
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    if values is not None:
        buffer.data = np.frombuffer(values.tobytes(), dtype=np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def add_integers(model: FlatObject, name: str, values: Sequence[int]) -> int:
    """Add a constant int32 vector, such as the axes or sizes an operator reads; return its place."""
    from ai_edge_litert import schema_py_generated as schema

    held = np.asarray(values, dtype=np.int32)
    tensor = schema.TensorT()
    tensor.name, tensor.type = name, schema.TensorType.INT32
    tensor.shape, tensor.buffer = np.asarray([len(held)], dtype=np.int32), add_buffer(model, held)
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def operator(code: int, inputs: Sequence[int], output: int) -> FlatObject:
    """Return an operator of one output without options, which the caller puts into a graph."""
    from ai_edge_litert import schema_py_generated as schema

    made = schema.OperatorT()
    made.opcodeIndex = code
    made.inputs, made.outputs = (np.asarray(each, dtype=np.int32) for each in (inputs, [output]))
    return made


def reshape(model: FlatObject, code: int, source: int, target: int, sizes: Sequence[int]) -> FlatObject:
    """Return a RESHAPE, at this place among the operator codes, of one tensor to another of these sizes."""
    from ai_edge_litert import schema_py_generated as schema

    name = f"{text(model.subgraphs[0].tensors[target].name)}_sizes"
    made = operator(code, [source, add_integers(model, name, sizes)], target)
    made.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    made.builtinOptions = schema.ReshapeOptionsT()
    made.builtinOptions.newShape = np.asarray(sizes, dtype=np.int32)
    return made


def point(model: FlatObject, before: int, after: int, *, entering: bool = False) -> None:
    """Let every signature's outputs (its inputs where `entering`) that named one tensor name another."""
    for signature in model.signatureDefs or ():
        for edge in (signature.inputs if entering else signature.outputs) or ():
            if edge.tensorIndex == before:
                edge.tensorIndex = after


def custom_operators(data: bytes) -> tuple[str, ...]:
    """Return the names of operators that are none of the format's own."""
    model = read(data)
    custom = next(code for code, name in operator_names().items() if name == "CUSTOM")
    return tuple(sorted({text(each.customCode) for each in model.operatorCodes or () if builtin_code(each) == custom}))


def text(value: bytes | str | None) -> str:
    """Return a name that may be bytes, or missing."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def with_names_of(data: bytes, original: bytes) -> bytes:
    """Return a file whose inputs and outputs, in their order, are named as those of the file it was made from.

    The quantiser names the tensors it puts at the edges after the inner ones, which keep the names callers know.
    """
    made, before = read(data), read(original)
    _give_floats(made, before)
    graph, names = made.subgraphs[0], before.subgraphs[0]
    for places, wanted in ((graph.inputs, names.inputs), (graph.outputs, names.outputs)):
        for place, original_place in zip(places, wanted, strict=True):
            _rename(graph.tensors, int(place), text(names.tensors[original_place].name))
    return write(made)


def _give_floats(made: FlatObject, before: FlatObject) -> None:
    """Let outputs that were float be float: where other operators read one too, the quantiser may give the integers."""
    graph, types = made.subgraphs[0], [before.subgraphs[0].tensors[place].type for place in before.subgraphs[0].outputs]
    outputs = [int(index) for index in graph.outputs]
    for place, wanted in enumerate(types):
        if graph.tensors[outputs[place]].type != wanted:
            outputs[place] = _unquantised(made, outputs[place], wanted)
    for signature in made.signatureDefs or ():
        moved = dict(zip(map(int, graph.outputs), outputs, strict=True))
        for edge in signature.outputs or ():
            edge.tensorIndex = moved.get(int(edge.tensorIndex), edge.tensorIndex)
    graph.outputs = np.asarray(outputs, dtype=np.int32)


def _unquantised(made: FlatObject, index: int, wanted: int) -> int:
    """Return the tensor of the wanted type that a tensor was quantised from, or is dequantised into; else itself."""
    graph = made.subgraphs[0]
    steps = [
        (operator_type(made, op), int(op.inputs[0]), int(op.outputs[0])) for op in graph.operators if len(op.inputs)
    ]
    chain = [index]
    while (
        maker := next((read for kind, read, out in steps if kind == "QUANTIZE" and out == chain[-1]), None)
    ) is not None:
        chain.append(maker)
    if graph.tensors[chain[-1]].type == wanted:
        return chain[-1]
    found = [
        out for kind, read, out in steps if kind == "DEQUANTIZE" and read in chain and graph.tensors[out].type == wanted
    ]
    return found[0] if found else index


def _rename(tensors: list[FlatObject], place: int, name: str) -> None:
    given = text(tensors[place].name)
    for tensor in tensors:
        if text(tensor.name) == name:
            tensor.name = given
    tensors[place].name = name
