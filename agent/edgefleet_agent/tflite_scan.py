"""Reads a TFLite file's tensors straight from its flatbuffer: which precision it claims, and whether it is whole.

Three tables of schema.fbs are followed: Model.subgraphs and .buffers, SubGraph.tensors, Tensor.type and .buffer.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from edgefleet_contract.artifact import ClaimedPrecision

IDENTIFIER = b"TFL3"

_SUBGRAPHS, _BUFFERS = 2, 4
_TENSORS = 0
_SHAPE, _TYPE, _BUFFER = 0, 1, 2
_DATA, _OUTSIDE_OFFSET = 0, 1
_FLOAT32, _FLOAT16, _INT8, _INT16, _INT4, _UINT8 = 0, 1, 9, 7, 17, 3
_MAX_TENSORS = 1_000_000


class _DamagedError(Exception):
    """An offset leads outside the file."""


def claimed_precision(path: Path) -> ClaimedPrecision:
    """Return the precision a TFLite file claims by its main graph; `fp32` when nothing says otherwise.

    Weights of 8 bits mean `int8` where activations are 8 bits wide too, `int16x8` where they are 16, and
    `int8-dynamic` where they are floating point; weights of 16-bit floats `fp16`, of 4 bits `int4`. A small share of
    such weights says nothing: the widest weights by number of elements decide.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            weights, activations = _scan(_Buffer(data))
    except (_DamagedError, OSError, ValueError):
        return "fp32"
    main = weights.most_common(1)[0][0] if weights else _FLOAT32
    if main == _INT4:
        return "int4"
    if main in {_INT8, _UINT8}:
        if activations[_INT16] > activations[_INT8] + activations[_UINT8]:
            return "int16x8"
        return "int8" if activations[_INT8] + activations[_UINT8] > activations[_FLOAT32] else "int8-dynamic"
    return "fp16" if main == _FLOAT16 else "fp32"


def is_whole(path: Path) -> bool:
    """Tell whether the file's graphs, tensors and weights all lie within it.

    tflite-runtime 2.14 does not look, and a file that was cut short crashes it.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _scan(_Buffer(data))
    except (_DamagedError, OSError, ValueError):
        return False
    return True


class _Buffer:
    """Little-endian reads with every offset checked."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data

    def number(self, at: int, size: int, *, signed: bool = False) -> int:
        if at < 0 or at + size > len(self._data):
            raise _DamagedError
        return int.from_bytes(self._data[at : at + size], "little", signed=signed)

    def follow(self, at: int) -> int:
        return at + self.number(at, 4)

    def field(self, table: int, index: int) -> int | None:
        """Return where a table's field lies; None when it has its default."""
        vtable = table - self.number(table, 4, signed=True)
        if 4 + 2 * index >= self.number(vtable, 2):
            return None
        offset = self.number(vtable + 4 + 2 * index, 2)
        return table + offset if offset else None

    def bytes_in(self, table: int, index: int) -> int:
        """Return the length of a vector of bytes, all of which must lie in the file; 0 when there is none."""
        at = self.field(table, index)
        if at is None:
            return 0
        vector = self.follow(at)
        n = self.number(vector, 4)
        if vector + 4 + n > len(self._data):
            raise _DamagedError
        return n

    def tables(self, table: int, index: int) -> Iterator[int]:
        """Yield where the tables of a vector field lie."""
        at = self.field(table, index)
        if at is None:
            return
        vector = self.follow(at)
        n = self.number(vector, 4)
        if n > _MAX_TENSORS:
            raise _DamagedError
        for item in range(n):
            yield self.follow(vector + 4 + 4 * item)

    def value(self, table: int, index: int, size: int) -> int:
        at = self.field(table, index)
        return 0 if at is None else self.number(at, size)

    def elements(self, table: int) -> int:
        at = self.field(table, _SHAPE)
        if at is None:
            return 1
        vector, n = self.follow(at), 1
        for item in range(min(8, self.number(vector, 4))):
            n *= max(1, self.number(vector + 4 + 4 * item, 4, signed=True))
        return n


def _scan(buffer: _Buffer) -> tuple[Counter[int], Counter[int]]:
    """Return elements of constant tensors by type, and the number of the others by type."""
    model = buffer.follow(0)
    filled = [
        buffer.bytes_in(each, _DATA) > 0 or buffer.value(each, _OUTSIDE_OFFSET, 8) > 1
        for each in buffer.tables(model, _BUFFERS)
    ]
    weights: Counter[int] = Counter()
    activations: Counter[int] = Counter()
    main = next(buffer.tables(model, _SUBGRAPHS), None)
    for tensor in () if main is None else buffer.tables(main, _TENSORS):
        kind, index = buffer.value(tensor, _TYPE, 1), buffer.value(tensor, _BUFFER, 4)
        if index < len(filled) and filled[index]:
            weights[kind] += buffer.elements(tensor)
        else:
            activations[kind] += 1
    return weights, activations
