"""Arrays in and out of `.npz` files, within bounds and without pickle."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from edgefleet_controller.compile import archive
from edgefleet_controller.compile.archive import ArchiveError

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = Mapping[str, Array]
_HEADER_BYTES = 16_384


def read(path: Path, names: Iterable[str] | None = None) -> dict[str, Array]:
    """Return all arrays of an `.npz`, or those named.

    Raises:
        ArchiveError: as `archive.members`; or an array is damaged, pickled, or claims a size it does not have.
    """
    contents = archive.unpack(path, None if names is None else frozenset(names))
    return {name: _parse(name, data) for name, data in contents.items()}


def write(path: Path, arrays: Arrays) -> None:
    """Write arrays in canonical form: the same arrays give the same bytes."""
    path.write_bytes(archive.pack({name: _serialise(array) for name, array in arrays.items()}))


def _serialise(array: Array) -> bytes:
    buffer = io.BytesIO()
    npy.write_array(buffer, np.ascontiguousarray(array).reshape(array.shape), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _parse(name: str, data: bytes) -> Array:
    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(stream, max_header_size=_HEADER_BYTES)
        if dtype.hasobject:
            raise ArchiveError(f"array {name!r} holds Python objects, which are never loaded")
        # A header may claim any size, and memory would be taken for it before the data is read.
        claimed_bytes, has_bytes = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
        if claimed_bytes != has_bytes:
            raise ArchiveError(f"array {name!r} claims {claimed_bytes} bytes and has {has_bytes}")
        stream.seek(0)
        array: Array = npy.read_array(stream, allow_pickle=False)
    except (ValueError, TypeError, EOFError, SyntaxError, MemoryError, RecursionError, OverflowError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(f"array {name!r} is damaged: {error}") from error
    return array
