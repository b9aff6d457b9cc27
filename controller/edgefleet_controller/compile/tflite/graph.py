"""A TFLite file's main graph as plain values: what tables of rules are asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.tflite import flatbuffer
from edgefleet_controller.compile.tflite.flatbuffer import FlatObject

_NUMPY = {
    "float32": np.float32, "float16": np.float16, "int32": np.int32, "uint8": np.uint8, "int64": np.int64,
    "bool": np.bool_, "int16": np.int16, "int8": np.int8, "float64": np.float64, "uint32": np.uint32,
}  # fmt: skip
_SAME_SCALE = frozenset({
    "CONCATENATION", "EXPAND_DIMS", "GATHER", "PACK", "PAD", "RESHAPE", "SLICE", "SPLIT", "SQUEEZE", "STRIDED_SLICE",
    "TRANSPOSE", "UNPACK",
})  # fmt: skip
"""Operators whose output has the scale of their input."""


@dataclass(frozen=True)
class Tensor:
    """One tensor.

    Attributes:
        index: its place in the graph.
        name: as the file spells it.
        shape: sizes, as an interpreter allocates them that is not told others.
        dtype: `int8`, `float32`, …
        data: raw bytes of a constant, else None.
        signature: sizes, -1 where one changes at run time; empty where none does.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    data: bytes | None = None
    signature: tuple[int, ...] = ()

    @property
    def is_constant(self) -> bool:
        """Return whether the file holds its values."""
        return self.data is not None

    @property
    def is_static(self) -> bool:
        """Return whether every size is known."""
        return all(size >= 0 for size in self.signature)

    def values(self) -> Array | None:
        """Return a constant's values; None where it is none, of a type numpy lacks, or cut short."""
        dtype = _NUMPY.get(self.dtype)
        if self.data is None or dtype is None or len(self.data) % np.dtype(dtype).itemsize:
            return None
        values: Array = np.frombuffer(self.data, dtype=dtype)
        return values.reshape(self.shape) if values.size == int(np.prod(self.shape)) else values


@dataclass(frozen=True)
class Op:
    """One operator: inputs left out are None; options by the schema's field names; the version its file asks for."""

    index: int
    type: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1

    @property
    def name(self) -> str:
        """Return what people know it by: its first output's name."""
        return self.outputs[0].name if self.outputs else f"operator {self.index}"

    def input(self, place: int) -> Tensor | None:
        """Return an input, or None where it was left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def option(self, name: str) -> FlatObject:
        """Return an option, or None where the operator has none of this name."""
        return self.options.get(name)


@dataclass(frozen=True)
class Graph:
    """The main graph, operators in the file's order."""

    operators: tuple[Op, ...]
    inputs: frozenset[int]
    outputs: frozenset[int]


def read(data: bytes) -> Graph:
    """Return the main graph of a TFLite file.

    Raises:
        DamagedFileError: it is no TFLite file, or damaged.
    """
    model = flatbuffer.read(data)
    graph = model.subgraphs[0]
    try:
        tensors = [_tensor(index, each, model.buffers) for index, each in enumerate(_list(graph.tensors))]
        operators = tuple(_operator(index, each, model, tensors) for index, each in enumerate(_list(graph.operators)))
    except (IndexError, TypeError) as error:
        raise flatbuffer.DamagedFileError(f"is a damaged TFLite file: {error}") from error
    return Graph(operators, frozenset(map(int, _list(graph.inputs))), frozenset(map(int, _list(graph.outputs))))


def output_chain(graph: Graph) -> frozenset[str]:
    """Return the names of output tensors, and of those they are only another view of (one scale holds for both)."""
    wanted = set(graph.outputs)
    for op in reversed(graph.operators):
        if op.type in _SAME_SCALE and any(tensor.index in wanted for tensor in op.outputs):
            wanted.update(tensor.index for tensor in op.inputs if tensor is not None and not tensor.is_constant)
    named = (tensor for op in graph.operators for tensor in op.outputs)
    return frozenset(tensor.name for tensor in named if tensor.index in wanted)


def _tensor(index: int, tensor: FlatObject, buffers: FlatObject) -> Tensor:
    held = buffers[tensor.buffer].data if tensor.buffer else None
    return Tensor(
        index=index,
        name=flatbuffer.text(tensor.name),
        shape=tuple(map(int, _list(tensor.shape))),
        dtype=flatbuffer.type_names().get(tensor.type, f"type {tensor.type}"),
        data=None if held is None or not len(held) else bytes(np.asarray(held, dtype=np.uint8)),
        signature=tuple(map(int, _list(tensor.shapeSignature))),
    )


def _operator(index: int, operator: FlatObject, model: FlatObject, tensors: list[Tensor]) -> Op:
    return Op(
        index=index,
        type=flatbuffer.operator_type(model, operator),
        inputs=tuple(tensors[place] if place >= 0 else None for place in map(int, _list(operator.inputs))),
        outputs=tuple(tensors[place] for place in map(int, _list(operator.outputs))),
        options=dict(vars(operator.builtinOptions)) if operator.builtinOptions is not None else {},
        version=max(int(model.operatorCodes[operator.opcodeIndex].version), 1),
    )


def _list(values: FlatObject) -> list[FlatObject]:
    return [] if values is None else list(values)
