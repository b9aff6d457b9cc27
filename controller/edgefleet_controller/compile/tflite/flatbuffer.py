"""TFLite files as objects: read, written, and what our passes change in them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias

FlatObject: TypeAlias = Any
"""An object of the generated schema, which has no types."""
FILE_IDENTIFIER = b"TFL3"
MAX_OFFSET_BYTES = 2**31 - 1


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

    if data[4:8] != FILE_IDENTIFIER:
        raise DamagedFileError(f"is not a TFLite file: it does not hold {FILE_IDENTIFIER.decode()} at byte 4")
    try:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
    except Exception as error:  # generated readers follow offsets wherever damage leads them
        raise DamagedFileError(f"is a damaged TFLite file: {type(error).__name__}: {error}") from error
    if not model.subgraphs:
        raise DamagedFileError("is a TFLite file without a graph")
    return model


def write(model: FlatObject) -> bytes:
    """Return the bytes of a `ModelT`; the same model gives the same bytes."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
    return bytes(builder.Output())


def builtin_code(operator_code: FlatObject) -> int:
    """Return an operator code, wherever the file's age puts it."""
    return max(int(operator_code.builtinCode), int(operator_code.deprecatedBuiltinCode))


def operator_type(model: FlatObject, operator: FlatObject) -> str:
    """Return an operator's type as the schema names it; a custom one by its own name."""
    code = model.operatorCodes[operator.opcodeIndex]
    name = operator_names().get(builtin_code(code), f"UNKNOWN_{builtin_code(code)}")
    return text(code.customCode) if name == "CUSTOM" and code.customCode else name


def custom_operators(data: bytes) -> tuple[str, ...]:
    """Return the names of operators that are none of the format's own."""
    model = read(data)
    custom = next(code for code, name in operator_names().items() if name == "CUSTOM")
    return tuple(sorted({text(each.customCode) for each in model.operatorCodes or () if builtin_code(each) == custom}))


def text(value: bytes | str | None) -> str:
    """Return a name that may be bytes, or missing."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
