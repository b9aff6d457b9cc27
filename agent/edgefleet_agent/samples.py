"""Samples files and output files: bounded reading, reproducible writing.

Both are `.npz` archives, one array per tensor, member `<tensor name>.npy`, first axis = sample; a samples file may
also hold labels, and the number of the sequence each sample belongs to. Files are written uncompressed, members sorted
by name with a fixed timestamp, so equal arrays give equal bytes and equal digests on every machine.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgefleet_agent.runtimes.base import Array
from edgefleet_contract.errors import UserInputError

LABELS = "labels"
SEQUENCES = "sequences"
MAX_ARRAYS = 64
MAX_OUTPUT_ARRAYS = 256
MAX_BYTES = 1024**3
"""Uncompressed size of one file's arrays together: what a small device can hold beside a model."""

_MAX_NAME_CHARS = 512
_SUFFIX = ".npy"
_ALLOWED_KINDS = "biuf"
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)


class SamplesError(UserInputError):
    """A samples or outputs file cannot be used."""


@dataclass(frozen=True)
class Samples:
    """Raw samples of a file.

    Attributes:
        inputs: by model input name, first axis = sample.
        labels: true answers, first axis = sample; None where the file has none.
        sequences: the number of each sample's sequence; None where all are one sequence.
        initial: arrays of inputs that hold state, as they are in the file, where those were asked for.
    """

    inputs: Mapping[str, Array]
    labels: Array | None
    sequences: Array | None = None
    initial: Mapping[str, Array] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Return the number of samples."""
        return len(next(iter(self.inputs.values())))

    @property
    def starts(self) -> frozenset[int]:
        """Return the samples that begin a sequence."""
        if self.sequences is None:
            return frozenset({0})
        return frozenset({0, *(np.flatnonzero(np.diff(self.sequences)) + 1).tolist()})

    def slice(self, start: int, stop: int) -> dict[str, Array]:
        """Return samples `start` up to, not including, `stop`."""
        return {name: value[start:stop] for name, value in self.inputs.items()}


def load_samples(path: Path, *, labels_key: str = LABELS, state: Collection[str] = ()) -> Samples:
    """Read a samples file.

    Args:
        path: the file.
        labels_key: the array of true answers.
        state: inputs that hold state: their arrays may hold one state for all, and go into `initial` as they are.

    Raises:
        SamplesError: not an `.npz`, too large, no or uneven samples, NaN or infinity among them, labels of another
            length, or sequences that are no runs of one number.
    """
    arrays = load_arrays(path, max_arrays=MAX_ARRAYS)
    labels, sequences = arrays.pop(labels_key, None), arrays.pop(SEQUENCES, None)
    initial = {name: arrays.pop(name) for name in state if name in arrays}
    if not arrays:
        msg = f"{path.name}: no samples; it needs one array per model input, first axis = sample"
        raise SamplesError(msg)
    n = _common_length(path, arrays)
    for name, value in (*arrays.items(), *initial.items()):
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            msg = f"{path.name}: {name!r} holds NaN or infinity in sample {_first_bad(value)}"
            raise SamplesError(msg)
    if labels is not None and (labels.ndim == 0 or len(labels) != n):
        msg = f"{path.name}: labels {labels_key!r} have shape {labels.shape}; {n} samples need {n} labels"
        raise SamplesError(msg)
    if sequences is not None:
        _check_sequences(path, sequences, n)
    return Samples(arrays, labels, sequences, initial)


def _check_sequences(path: Path, sequences: Array, n: int) -> None:
    if sequences.shape != (n,) or sequences.dtype.kind not in "iu":
        msg = (
            f"{path.name}: {SEQUENCES!r} is {sequences.dtype}{list(sequences.shape)}; "
            f"it numbers the sequence of each of {n} samples, in integers"
        )
        raise SamplesError(msg)
    heads = sequences[[0, *(np.flatnonzero(np.diff(sequences)) + 1)]]
    numbers, counts = np.unique(heads, return_counts=True)
    if (counts > 1).any():
        msg = (
            f"{path.name}: {SEQUENCES!r} comes back to number {numbers[counts > 1][0]} after another; "
            "samples of one sequence lie together, in their order"
        )
        raise SamplesError(msg)


def _common_length(path: Path, arrays: Mapping[str, Array]) -> int:
    scalars = [name for name, value in arrays.items() if value.ndim == 0]
    if scalars:
        msg = f"{path.name}: {scalars[0]!r} is one number; its first axis must be the sample"
        raise SamplesError(msg)
    lengths = {name: len(value) for name, value in arrays.items()}
    if len(set(lengths.values())) != 1:
        msg = f"{path.name}: arrays differ in their number of samples: {lengths}"
        raise SamplesError(msg)
    n = next(iter(lengths.values()))
    if n == 0:
        msg = f"{path.name}: holds no samples"
        raise SamplesError(msg)
    return n


def _first_bad(value: Array) -> int:
    rows = np.atleast_1d(value)
    bad = ~np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
    return int(np.argmax(bad))


def load_arrays(path: Path, *, max_arrays: int = MAX_OUTPUT_ARRAYS) -> dict[str, Array]:
    """Return the arrays of an `.npz` by name. NaN is allowed here: outputs may hold it.

    Nothing is allocated before the archive's own headers show that it fits.

    Raises:
        SamplesError: missing, not an `.npz`, damaged, over `max_arrays` or `MAX_BYTES`, or of objects or text.
    """
    if not path.is_file():
        msg = f"{path}: no such file"
        raise SamplesError(msg)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked_members(path, archive, max_arrays)
            return {name: _read_member(path, archive, info) for name, info in members.items()}
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        # zipfile raises NotImplementedError for unknown compression and RuntimeError for encrypted members.
        msg = f"{path.name}: not a sound .npz file: {error}"
        raise SamplesError(msg) from error


def _checked_members(path: Path, archive: zipfile.ZipFile, max_arrays: int) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    total_bytes = sum(info.file_size for info in infos)
    if len(infos) > max_arrays or total_bytes > MAX_BYTES:
        msg = (
            f"{path.name}: {len(infos)} arrays of {total_bytes} bytes; "
            f"allowed: {max_arrays} arrays, {MAX_BYTES} bytes together"
        )
        raise SamplesError(msg)
    members = {info.filename.removesuffix(_SUFFIX): info for info in infos}
    wrong = [name for name in members if not 0 < len(name) <= _MAX_NAME_CHARS]
    if wrong or len(members) != len(infos):
        msg = f"{path.name}: an array's name is empty, too long or doubled; allowed: 1 to {_MAX_NAME_CHARS} characters"
        raise SamplesError(msg)
    return members


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    with archive.open(info) as member:
        shape, fortran, dtype = _read_header(member)
        name = info.filename.removesuffix(_SUFFIX)
        if dtype.hasobject or dtype.kind not in _ALLOWED_KINDS:
            msg = f"{path.name}: {name!r} is of type {dtype}; allowed: numbers and booleans"
            raise SamplesError(msg)
        expected_bytes = math.prod(shape) * dtype.itemsize
        # The header's shape is not trusted with an allocation: the bytes that are there decide.
        data = member.read()
    if len(data) != expected_bytes:
        msg = f"{path.name}: {name!r} says {expected_bytes} bytes and holds {len(data)}"
        raise SamplesError(msg)
    flat = np.frombuffer(data, dtype=dtype.newbyteorder("="))
    flat = flat if dtype.isnative else np.frombuffer(data, dtype=dtype).astype(dtype.newbyteorder("="))
    return flat.reshape(shape, order="F" if fortran else "C")


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(member)
    msg = f"array format version {version}; allowed: 1.0 and 2.0"
    raise ValueError(msg)


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays as a reproducible `.npz`: beside, then renamed, so a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            info = zipfile.ZipInfo(name + _SUFFIX, date_time=_FIXED_TIME)
            with archive.open(info, "w", force_zip64=True) as member:
                # An array that is not C-ordered would be written in its own order and digest differently.
                np.lib.format.write_array(member, np.asarray(arrays[name], order="C"), allow_pickle=False)
    partial.replace(path)
