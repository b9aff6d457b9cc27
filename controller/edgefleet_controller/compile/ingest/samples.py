"""Check a samples file against its model and read it as arrays named by model input."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from edgefleet_contract.artifact import InputTransform, TensorSpec
from edgefleet_controller.compile import archive, npz
from edgefleet_controller.compile.archive import ArchiveError
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ingest import shapes
from edgefleet_controller.compile.ingest.split import Indices
from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.protocol import FaultPlace, SamplesFile

LABELS = "labels"
SEQUENCES = "sequences"
_MAX_SCALE = 100.0
"""How much larger or smaller than the samples calibration samples may be: 0 to 255 against 0 to 1 is beyond."""
Role = Literal["samples", "calibration"]
Transforms = Mapping[str, InputTransform]


@dataclass(frozen=True)
class Samples:
    """Raw samples by model input, first axis = sample, class labels and sequence numbers where there are some."""

    arrays: Mapping[str, Array]
    labels: Indices | None
    sequences: Indices | None = None

    @property
    def count_n(self) -> int:
        """Return how many samples there are."""
        return len(next(iter(self.arrays.values())))

    @property
    def sample_bytes(self) -> int:
        """Return the raw size of one sample over all inputs, in bytes."""
        return sum(array.nbytes for array in self.arrays.values()) // max(self.count_n, 1)

    def take(self, indices: Indices) -> Samples:
        """Return some of the samples."""
        labels, sequences = (each if each is None else each[indices] for each in (self.labels, self.sequences))
        return Samples({name: array[indices] for name, array in self.arrays.items()}, labels, sequences)

    def write(self, path: Path) -> None:
        """Write the canonical `.npz`: arrays named by model input, `labels` and `sequences`."""
        beside = {LABELS: self.labels, SEQUENCES: self.sequences}
        npz.write(path, {**self.arrays, **{name: each for name, each in beside.items() if each is not None}})


def check_preprocess(inputs: tuple[TensorSpec, ...], preprocess: Transforms) -> None:
    """Raise CompileFaultError when a transform names no input of the model."""
    names = [spec.name for spec in inputs]
    for name in preprocess:
        if name not in names:
            raise CompileFaultError(
                "preprocess", f"names input {name!r}; the model has {_quoted(names)}{shapes.near(name, names)}"
            )


@dataclass(frozen=True)
class Made:
    """Inputs whose arrays need not be in a samples file.

    Attributes:
        state: inputs that take a state: zeros, or what the file has by their name.
        constants: input → the value of all its elements.
    """

    state: Collection[str] = ()
    constants: Mapping[str, int | float] = field(default_factory=dict)


def load(
    file: SamplesFile,
    inputs: tuple[TensorSpec, ...],
    preprocess: Transforms,
    role: Role,
    *,
    top1: bool,
    made: Made | None = None,
) -> Samples:
    """Return the samples of a file, checked against the model.

    Raises:
        CompileFaultError: not an `.npz` within bounds; names, shapes, dtypes or counts that do not fit; values that
            are not finite; labels that are no class numbers or of another length; sequences that are torn apart.
    """
    made, path = made or Made(), Path(file.path)
    sizes = _members(path, role)
    sampled = tuple(spec for spec in inputs if spec.name not in {*made.state, *made.constants})
    wanted = _names(file, inputs, list(sizes), role, sampled)
    labels_name = _named(file.labels, LABELS, file, list(sizes))
    sequences_name = _named(file.sequences, SEQUENCES, file, list(sizes))
    beside = {name for name in (labels_name, sequences_name) if name}
    try:
        arrays = npz.read(path, {*wanted.values(), *beside})
    except ArchiveError as error:
        raise CompileFaultError(role, f"cannot be read: {error}") from error
    by_input = {
        spec.name: _check(arrays[wanted[spec.name]], wanted[spec.name], spec, preprocess.get(spec.name), role)
        for spec in sampled
    }
    count_n = _count(by_input, role)
    for spec in inputs:
        if spec.name in made.constants:
            by_input[spec.name] = _repeated(spec, np.asarray(made.constants[spec.name]), count_n)
        elif spec.name in made.state:
            by_input[spec.name] = _state(arrays.get(wanted.get(spec.name, "")), spec, count_n, role)
    labels = _labels(arrays[labels_name], labels_name, count_n, top1=top1) if labels_name else None
    sequences = _sequences(arrays[sequences_name], sequences_name, count_n, role) if sequences_name else None
    return Samples(by_input, labels, sequences)


def _repeated(spec: TensorSpec, value: Array, count_n: int) -> Array:
    """Return a value for each sample, cast to the input's dtype; a dynamic axis has size 1."""
    shape = tuple(size if isinstance(size, int) else 1 for size in spec.shape) if value.ndim == 0 else value.shape
    return np.broadcast_to(value.astype(spec.dtype), (count_n, *shape))


def _state(array: Array | None, spec: TensorSpec, count_n: int, role: Role) -> Array:
    """Return the state each sample would begin a sequence with: zeros, the file's one, or the file's own a sample."""
    if array is None:
        return _repeated(spec, np.zeros(()), count_n)
    rank = len(spec.shape)
    rows = array[None] if array.ndim == rank else array
    fault = shapes.shape_fault(rows.shape, spec) or shapes.dtype_fault(str(array.dtype), spec.dtype, None)
    if fault is None and len(rows) not in {1, count_n}:
        fault = f"it has {len(rows)} states for {count_n} samples"
    if fault is not None or rows.ndim != rank + 1:
        text = f"initial state {spec.name!r} does not fit: {fault or f'got {shapes.shown(array.shape)}'}"
        raise CompileFaultError(role, text, next_step="give one state of the input's shape, for all sequences")
    _check_finite(rows, spec.name, role)
    return np.broadcast_to(_narrowed(rows, spec.name, spec, role), (count_n, *rows.shape[1:]))


def _sequences(array: Array, name: str, count_n: int, role: Role) -> Indices:
    if array.shape != (count_n,) or array.dtype.kind not in "iu":
        text = f"array {name!r} numbers the sequence of each of {count_n} samples in integers; "
        raise CompileFaultError(role, f"{text}got {array.dtype} {shapes.shown(array.shape)}")
    numbers = array.astype(np.int64)
    heads = numbers[[0, *(np.flatnonzero(np.diff(numbers)) + 1)]]
    if len(np.unique(heads)) != len(heads):
        found, counts = np.unique(heads, return_counts=True)
        text = f"array {name!r} comes back to sequence {found[counts > 1][0]} after another"
        raise CompileFaultError(role, text, next_step="put the samples of a sequence together, in their order")
    return numbers


def _members(path: Path, role: Role) -> dict[str, int]:
    try:
        return archive.members(path)
    except ArchiveError as error:
        step = "write it with numpy.savez(path, **{input_name: array})"
        raise CompileFaultError(role, f"cannot be read: {error}", next_step=step) from error


def _names(
    file: SamplesFile, inputs: tuple[TensorSpec, ...], has: list[str], role: Role, sampled: tuple[TensorSpec, ...]
) -> dict[str, str]:
    """Return model input → array name; inputs that are not sampled may have none."""
    names = [spec.name for spec in inputs]
    for mapped in file.inputs:
        if mapped not in names:
            raise CompileFaultError(
                role, f"maps input {mapped!r}; the model has {_quoted(names)}{shapes.near(mapped, names)}"
            )
    wanted = {name: file.inputs.get(name, name) for name in names}
    wanted = {name: array for name, array in wanted.items() if array in has or name in {s.name for s in sampled}}
    for name, array in wanted.items():
        if array not in has:
            raise CompileFaultError(
                role,
                f"has no array {array!r} for model input {name!r}; it has {_quoted(has)}{shapes.near(array, has)}",
                next_step="name the arrays as the model's inputs, or map them with `samples: {file: …, inputs: {…}}`",
            )
    if file.labels is not None and file.labels not in has:
        hint = shapes.near(file.labels, has)
        raise CompileFaultError("labels", f"has no array {file.labels!r}; it has {_quoted(has)}{hint}")
    if file.sequences is not None and file.sequences not in has:
        hint = shapes.near(file.sequences, has)
        raise CompileFaultError(role, f"has no array {file.sequences!r}; it has {_quoted(has)}{hint}")
    return wanted


def _named(given: str | None, default: str, file: SamplesFile, has: list[str]) -> str | None:
    if given is not None:
        return given
    return default if default in has and default not in file.inputs.values() else None


def _check(array: Array, name: str, spec: TensorSpec, transform: InputTransform | None, role: Role) -> Array:
    where = f"array {name!r} does not fit model input {spec.name!r}"
    if array.ndim == 0:
        raise CompileFaultError(role, f"{where}: it is a single value; the first axis counts samples")
    if len(array) == 0:
        raise CompileFaultError(role, f"array {name!r} holds no samples; at least one is needed")
    try:
        shape = shapes.transposed(array.shape, transform)
    except ValueError as error:
        raise CompileFaultError(role, f"{where}: {error}") from error
    place: FaultPlace = role
    fault = shapes.shape_fault(shape, spec) or shapes.dtype_fault(str(array.dtype), spec.dtype, transform)
    if fault is None and transform is not None:
        place, fault = "preprocess", shapes.channels_fault(shape, transform)
    if fault is not None:
        raise CompileFaultError(place, f"{where}: {fault}")
    _check_finite(array, name, role)
    return array if transform is not None else _narrowed(array, name, spec, role)


def _narrowed(array: Array, name: str, spec: TensorSpec, role: Role) -> Array:
    """Return samples of the input's own kind in its dtype, if it holds all of their values."""
    wanted = np.dtype(spec.dtype)
    bounds = np.iinfo(wanted) if wanted.kind in "iu" else np.finfo(wanted) if wanted.kind == "f" else None
    if bounds is not None and array.size and not bounds.min <= array.min() <= array.max() <= bounds.max:
        raise CompileFaultError(
            role,
            f"array {name!r} runs from {array.min()} to {array.max()}; {spec.dtype} holds {bounds.min} to {bounds.max}",
        )
    return array.astype(wanted, copy=False)


def _check_finite(array: Array, name: str, role: Role) -> None:
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        bad_n = int((~finite).sum())
        raise CompileFaultError(
            role,
            f"array {name!r} holds NaN or infinity in {bad_n} of {len(array)} samples, first in sample {first}",
            next_step="leave those samples out",
        )


def _count(arrays: Mapping[str, Array], role: Role) -> int:
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r}: {count_n}" for name, count_n in counts.items())
        raise CompileFaultError(role, f"holds unlike numbers of samples: {listed}")
    return next(iter(counts.values()))


def _labels(array: Array, name: str, count_n: int, *, top1: bool) -> Indices | None:
    if array.ndim == 0 or len(array) != count_n:
        got = "a single value" if array.ndim == 0 else f"{len(array)} labels"
        raise CompileFaultError("labels", f"array {name!r} has {got} for {count_n} samples")
    if not top1:
        return None
    flat = array.reshape(count_n, -1)
    if array.dtype.kind not in "iu" or flat.shape[1] != 1:
        got = f"{array.dtype} of shape {shapes.shown(array.shape)}"
        raise CompileFaultError(
            "labels", f"array {name!r} must hold one class number (integer) for each sample for top1; got {got}"
        )
    return flat[:, 0].astype(np.int64)


def check_calibration(given: Samples, calibration: Samples, made: Made) -> None:
    """Refuse calibration samples that are one single value, or of another scale than the samples.

    Raises:
        CompileFaultError: with both ranges.
    """
    sampled = {name: array for name, array in calibration.arrays.items() if name not in {*made.state, *made.constants}}
    for name, array in sampled.items():
        theirs = given.arrays[name]
        if array.dtype.kind != "f" and array.dtype != theirs.dtype:
            continue
        low, high = float(array.min()), float(array.max())
        wanted_low, wanted_high = float(theirs.min()), float(theirs.max())
        if low == high and wanted_low < wanted_high:
            raise CompileFaultError("calibration", f"array {name!r} holds the one value {low:g} everywhere")
        ours, wanted = max(abs(low), abs(high)), max(abs(wanted_low), abs(wanted_high))
        if array.dtype.kind == "f" and not wanted / _MAX_SCALE <= ours <= wanted * _MAX_SCALE:
            raise CompileFaultError(
                "calibration",
                f"array {name!r} runs from {low:g} to {high:g}, the samples from {wanted_low:g} to {wanted_high:g}: "
                "ranges measured on them would fit nothing",
                next_step="scale both alike; the declared preprocess is applied to both",
            )


def check_classes(labels: Indices | None, outputs: tuple[TensorSpec, ...]) -> None:
    """Raise CompileFaultError when labels lie outside the classes of the model's first output, where that is known."""
    classes_n = outputs[0].shape[-1] if len(outputs[0].shape) == 2 else None
    if labels is None or not isinstance(classes_n, int) or classes_n < 2:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes_n:
        raise CompileFaultError(
            "labels", f"run from {low} to {high}; output {outputs[0].name!r} has classes 0 to {classes_n - 1}"
        )


def _quoted(names: list[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:12])
    return listed + (", …" if len(names) > 12 else "") if names else "none"
