"""Reads an ONNX file's operators and weight types straight from its protobuf bytes, without the `onnx` package.

The agent has no `onnx`; to tell which precision a file claims, a walk over five fields is enough.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from edgefleet_contract.artifact import ClaimedPrecision

# Field numbers of onnx.proto: ModelProto.graph, GraphProto.node and .initializer, NodeProto.op_type,
# TensorProto.data_type.
_GRAPH, _NODE, _INITIALIZER, _OP_TYPE, _DATA_TYPE = 7, 1, 5, 4, 2
_ATTRIBUTE, _TENSOR, _BRANCH, _BRANCHES = 5, 5, 6, 11
"""NodeProto.attribute; AttributeProto.t, of Constant; .g and .graphs, the bodies of If, Loop and Scan."""
_MIN_CONSTANT_BYTES = 64
"""A Constant's tensor below this is a number beside the weights, not one of them."""
_MAX_DEPTH = 16
"""Bodies within bodies; deeper than any exporter nests them."""
_METADATA, _KEY, _VALUE = 14, 1, 2
"""ModelProto.metadata_props; StringStringEntryProto.key and .value."""
_FLOAT16, _BFLOAT16 = 10, 16
_UINT8, _INT8 = 2, 3
_DYNAMIC_OPS = frozenset({"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul"})
_STATIC_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm"})
_INT4_OPS = frozenset({"MatMulNBits"})
_MAX_VARINT_BYTES = 10

Field = tuple[int, int | tuple[int, int]]
"""Field number, and its value: an integer, or the (start, stop) of its bytes."""


class _DamagedError(Exception):
    """Not a protobuf message."""


def claimed_precision(path: Path) -> ClaimedPrecision:
    """Return the precision a model file claims by its operators and weights; `fp32` when nothing says otherwise.

    Operators of dynamic quantisation mean `int8-dynamic`, other quantisation `int8`, half-precision weights `fp16`
    or `bf16`; weights that are mostly 8-bit integers without any of these operators are dequantised as they are used,
    and as exact as `int8-dynamic`. Bodies of `If`, `Loop` and `Scan` count as the main graph does.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            ops, weight_types = _scan(data)
    except (_DamagedError, OSError, ValueError):
        return "fp32"
    return _by_operators(ops) or _by_weights(weight_types)


def _by_operators(ops: set[str]) -> ClaimedPrecision | None:
    if ops & _INT4_OPS:
        return "int4"
    if ops & _DYNAMIC_OPS:
        return "int8-dynamic"
    return "int8" if ops & _STATIC_OPS else None


def _by_weights(weight_types: Counter[int]) -> ClaimedPrecision:
    if weight_types[_INT8] + weight_types[_UINT8] > weight_types.total() // 2:
        return "int8-dynamic"
    if weight_types[_FLOAT16] or weight_types[_BFLOAT16]:
        return "fp16" if weight_types[_FLOAT16] >= weight_types[_BFLOAT16] else "bf16"
    return "fp32"


def _scan(data: mmap.mmap) -> tuple[set[str], Counter[int]]:
    """Return the names of operators, and bytes of weights by data type."""
    ops: set[str] = set()
    weight_types: Counter[int] = Counter()
    for number, graph in _fields(data, 0, len(data)):
        if number != _GRAPH or isinstance(graph, int):
            continue
        _scan_graph(data, graph, ops, weight_types, depth=0)
    return ops, weight_types


def _scan_graph(
    data: mmap.mmap, graph: tuple[int, int], ops: set[str], weight_types: Counter[int], *, depth: int
) -> None:
    """Add what a graph and the bodies inside it hold. Raises _DamagedError where bodies nest too deep."""
    if depth > _MAX_DEPTH:
        raise _DamagedError
    for kind, part in _fields(data, *graph):
        if isinstance(part, int):
            continue
        if kind == _NODE:
            ops.update(_texts(data, part, _OP_TYPE))
            for field, value in _attributes(data, part):
                if field == _TENSOR and value[1] - value[0] >= _MIN_CONSTANT_BYTES:
                    _count(data, value, weight_types)
                elif field in {_BRANCH, _BRANCHES}:
                    _scan_graph(data, value, ops, weight_types, depth=depth + 1)
        elif kind == _INITIALIZER:
            _count(data, part, weight_types)


def _count(data: mmap.mmap, tensor: tuple[int, int], weight_types: Counter[int]) -> None:
    for data_type in _numbers(data, tensor, _DATA_TYPE):
        weight_types[data_type] += tensor[1] - tensor[0]


def _attributes(data: mmap.mmap, node: tuple[int, int]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield what a node's attributes hold as messages: the field of AttributeProto and its bytes."""
    for number, attribute in _fields(data, *node):
        if number == _ATTRIBUTE and not isinstance(attribute, int):
            for field, value in _fields(data, *attribute):
                if not isinstance(value, int):
                    yield field, value


def _texts(data: mmap.mmap, span: tuple[int, int], wanted: int) -> Iterator[str]:
    for number, value in _fields(data, *span):
        if number == wanted and not isinstance(value, int):
            yield data[value[0] : value[1]].decode("utf-8", "replace")


def _numbers(data: mmap.mmap, span: tuple[int, int], wanted: int) -> Iterator[int]:
    return (value for number, value in _fields(data, *span) if number == wanted and isinstance(value, int))


def _fields(data: mmap.mmap, start: int, stop: int) -> Iterator[Field]:
    """Yield the fields of the message at `start` to `stop`; skips over bytes without reading them."""
    at = start
    while at < stop:
        key, at = _varint(data, at, stop)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, at = _varint(data, at, stop)
            yield number, value
            continue
        if wire_type == 2:
            length, at = _varint(data, at, stop)
        elif wire_type in {1, 5}:
            length = 8 if wire_type == 1 else 4
        else:
            raise _DamagedError
        if at + length > stop:
            raise _DamagedError
        yield number, (at, at + length)
        at += length


def _varint(data: mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if at + index >= stop:
            raise _DamagedError
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise _DamagedError


def metadata(path: Path) -> dict[str, str]:
    """Return a model file's notes (`metadata_props`) by key; none for a file that is damaged or no model.

    A TensorRT source carries its profiles in them.
    """
    notes: dict[str, str] = {}
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for number, part in _fields(data, 0, len(data)):
                if number == _METADATA and not isinstance(part, int):
                    notes.update(zip(_texts(data, part, _KEY), _texts(data, part, _VALUE), strict=False))
    except (_DamagedError, OSError, ValueError):
        return {}
    return notes
