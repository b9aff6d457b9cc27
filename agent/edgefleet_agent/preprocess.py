"""Makes raw samples into model inputs, as the artifact declares it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgefleet_agent.runtimes.base import Array
from edgefleet_contract.artifact import InputTransform, Layout, TensorSpec
from edgefleet_contract.errors import UserInputError

_CHANNEL_AXIS = {Layout.NCHW: 1, Layout.NHWC: 3}
_RANK = {Layout.NCHW: 4, Layout.NHWC: 4, Layout.NHW: 3}
_PERMUTATIONS = {
    (Layout.NCHW, Layout.NHWC): (0, 2, 3, 1),
    (Layout.NHWC, Layout.NCHW): (0, 3, 1, 2),
}


class InputMismatchError(UserInputError):
    """Samples do not fit the model's inputs."""


def check_names(
    raw: Mapping[str, Array], specs: Sequence[TensorSpec], transforms: Mapping[str, InputTransform]
) -> None:
    """Check that samples and transforms name exactly the model's inputs.

    Raises:
        InputMismatchError: an input has no samples, or something names no input; says what the model takes.
    """
    known = {spec.name for spec in specs}
    takes = ", ".join(describe(spec) for spec in specs)
    if missing := sorted(known - set(raw)):
        msg = f"samples hold no array {missing[0]!r}; the model takes {takes}; the samples have {sorted(raw)}"
        raise InputMismatchError(msg)
    if surplus := sorted(set(raw) - known):
        msg = f"samples hold an array {surplus[0]!r} that is no input; the model takes {takes}"
        raise InputMismatchError(msg, next_step="name arrays as the inputs, and true answers `labels`")
    if stray := sorted(set(transforms) - known):
        msg = f"preprocess names {stray[0]!r}, which is no input; the model takes {takes}"
        raise InputMismatchError(msg)


def describe(spec: TensorSpec) -> str:
    """Return an input as people read it: `image float32[batch,1,28,28]`."""
    return f"{spec.name} {spec.dtype}[{','.join(str(size) for size in spec.shape)}]"


def prepare(raw: Array, spec: TensorSpec, transform: InputTransform | None) -> Array:
    """Return raw samples of one input as the model takes them, the sample axis still first.

    Transposes, computes `(x - mean) * scale / std` in float32, then casts to the input's dtype. Without a transform
    only the dtype changes, and only where no value can be lost.

    Args:
        raw: samples, shape (n, …).
        spec: the input as the model declares it.
        transform: how to preprocess; None takes samples as they are.

    Raises:
        InputMismatchError: shape, layout or dtype do not fit.
    """
    if transform is None:
        return _cast_unchanged(raw, spec)
    moved = _transpose(raw, spec, transform).astype(np.float32)
    mean = _per_channel(transform.mean, moved, spec, transform)
    std = _per_channel(transform.std, moved, spec, transform)
    return _cast_computed((moved - mean) * np.float32(transform.scale) / std, spec)


def _transpose(raw: Array, spec: TensorSpec, transform: InputTransform) -> Array:
    if transform.layout is None:
        return raw
    given = transform.sample_layout or transform.layout
    if raw.ndim != _RANK[given]:
        msg = f"samples of {spec.name!r} have shape {raw.shape}; layout {given.value} needs {_RANK[given]} axes"
        raise InputMismatchError(msg)
    if given is transform.layout:
        return raw
    if given is Layout.NHW:
        return np.expand_dims(raw, _CHANNEL_AXIS[transform.layout])
    return np.transpose(raw, _PERMUTATIONS[given, transform.layout])


def _per_channel(
    value: float | tuple[float, ...], moved: Array, spec: TensorSpec, transform: InputTransform
) -> Array | np.float32:
    if not isinstance(value, tuple):
        return np.float32(value)
    axis = _CHANNEL_AXIS.get(transform.layout) if transform.layout else None
    if axis is None:
        msg = f"{spec.name!r} has mean or std per channel; say with `layout` (nchw or nhwc) which axis that is"
        raise InputMismatchError(msg)
    if len(value) != moved.shape[axis]:
        msg = f"{spec.name!r} has {moved.shape[axis]} channels and {len(value)} values of mean or std"
        raise InputMismatchError(msg)
    shape = [1] * moved.ndim
    shape[axis] = len(value)
    return np.asarray(value, np.float32).reshape(shape)


def _cast_unchanged(raw: Array, spec: TensorSpec) -> Array:
    target = np.dtype(spec.dtype)
    if raw.dtype == target:
        return raw
    if target.kind == "f" and raw.dtype.kind in "iuf":
        return raw.astype(target)
    if target.kind in "iu" and raw.dtype.kind in "iu":
        return _checked_integers(raw, target, spec)
    msg = f"samples of {spec.name!r} are {raw.dtype}; the model takes {spec.dtype}"
    raise InputMismatchError(msg, next_step="convert the samples, or declare `preprocess`")


def _cast_computed(values: Array, spec: TensorSpec) -> Array:
    target = np.dtype(spec.dtype)
    return _checked_integers(np.rint(values), target, spec) if target.kind in "iu" else values.astype(target)


def _checked_integers(values: Array, target: np.dtype[Any], spec: TensorSpec) -> Array:
    bounds = np.iinfo(target)
    if values.size and (values.min() < bounds.min or values.max() > bounds.max):
        reach = f"from {values.min()} to {values.max()}"
        msg = f"values of {spec.name!r} reach {reach}; {target} holds {bounds.min} to {bounds.max}"
        raise InputMismatchError(msg)
    return values.astype(target)
