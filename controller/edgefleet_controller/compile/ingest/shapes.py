"""Shapes and types of samples against a model's inputs: pure rules over plain values.

How one sample reaches a model input follows from ranks (the worker does the same): after the declared transposition, an
array of the input's own rank is cut along its first axis and keeps it (batch of one); an array of one rank more
gives its elements whole, for inputs without a batch axis.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from edgefleet_contract.artifact import Dim, InputTransform, Layout, TensorSpec

Shape = tuple[int, ...]

_RANK = {Layout.NHW: 3, Layout.NCHW: 4, Layout.NHWC: 4}
_NUMBERS = frozenset(
    {"float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"}
)


def shown(shape: Sequence[Dim]) -> str:
    """Return a shape as people write it: `[batch, 1, 28, 28]`."""
    return "[" + ", ".join(str(dim) for dim in shape) + "]"


def near(name: str, allowed: Iterable[str]) -> str:
    """Return a hint for a mistyped name: what was probably meant, or an empty text."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def transposed(shape: Shape, transform: InputTransform | None) -> Shape:
    """Return the shape samples have after their transform.

    Raises:
        ValueError: the samples do not have the rank of their declared layout.
    """
    if transform is None or transform.layout is None:
        return shape
    given, wanted = transform.sample_layout or transform.layout, transform.layout
    if len(shape) != _RANK[given]:
        raise ValueError(f"layout {given.value} has {_RANK[given]} axes, the samples have {len(shape)}: {shown(shape)}")
    if given is wanted:
        return shape
    if given is Layout.NHW:
        n, height, width = shape
        return (n, 1, height, width) if wanted is Layout.NCHW else (n, height, width, 1)
    if given is Layout.NHWC:
        n, height, width, channels = shape
        return (n, channels, height, width)
    n, channels, height, width = shape
    return (n, height, width, channels)


def channels_fault(shape: Shape, transform: InputTransform) -> str | None:
    """Return what is wrong with the number of `mean` or `std` values for samples already transposed, or None."""
    listed = {
        name: value for name, value in (("mean", transform.mean), ("std", transform.std)) if isinstance(value, tuple)
    }
    axis = {Layout.NCHW: 1, Layout.NHWC: 3}.get(transform.layout) if transform.layout else None
    for name, value in listed.items():
        if axis is None:
            return f"{name} is given per channel; say with `layout` (nchw or nhwc) which axis that is"
        if len(value) != shape[axis]:
            return f"{name} has {len(value)} values, the input has {shape[axis]} channels"
    return None


def dtype_fault(given: str, wanted: str, transform: InputTransform | None) -> str | None:
    """Return what is wrong with samples of dtype `given` for an input of dtype `wanted`, or None.

    With a transform any numbers will do: they become the input's dtype at its end. Without one they must be it, or
    of its kind (another width of float or of integer).
    """
    if wanted == "bfloat16":
        return "the model wants bfloat16, for which no samples can be written in this version"
    if given == wanted or _kind(given) == _kind(wanted) != "other" or (transform is not None and given in _NUMBERS):
        return None
    step = "; declare a `preprocess` for this input if that conversion is meant" if given in _NUMBERS else ""
    return f"got {given}, the model wants {wanted}{step}"


def _kind(dtype: str) -> str:
    return next((kind for kind in ("float", "uint", "int") if dtype.startswith(kind)), "other").removeprefix("u")


def dynamic_fault(
    specs: Sequence[TensorSpec],
    sizes: Mapping[str, Shape],
    dynamic: Mapping[str, Mapping[str, tuple[int, int, int]]],
) -> str | None:
    """Return what is wrong with the sizes a manifest gives for dynamic axes, or None.

    Args:
        specs: the model's inputs.
        sizes: the shape one sample has as a model input, by input.
        dynamic: input → axis name → smallest, usual and largest size.
    """
    by_name = {spec.name: spec for spec in specs}
    for name, axes in dynamic.items():
        if name not in by_name:
            return f"names input {name!r}; the model has {', '.join(map(repr, by_name))}{near(name, by_name)}"
        named = {dim: size for dim, size in zip(by_name[name].shape, sizes[name], strict=True) if isinstance(dim, str)}
        for axis, (smallest, _, largest) in axes.items():
            if axis not in named:
                has = ", ".join(map(repr, named)) or "none"
                return f"names axis {axis!r} of input {name!r}; its dynamic axes are {has}{near(axis, named)}"
            if not smallest <= named[axis] <= largest:
                return (
                    f"gives axis {axis!r} of input {name!r} sizes {smallest} to {largest}; samples have {named[axis]}"
                )
    return None


def shape_fault(shape: Shape, spec: TensorSpec) -> str | None:
    """Return what is wrong with samples of `shape` (transposed, first axis = sample) for an input, or None."""
    rank = len(spec.shape)
    if len(shape) == rank + 1:
        wanted, given = spec.shape, shape[1:]
    elif len(shape) == rank and rank > 0:
        wanted, given = spec.shape[1:], shape[1:]
        if isinstance(spec.shape[0], int) and spec.shape[0] != 1:
            return f"the model's batch axis is fixed at {spec.shape[0]}; export it with a dynamic or single batch"
    else:
        return f"got rank {len(shape)} ({shown(shape)}), the model wants rank {rank} ({shown(spec.shape)})"
    fits = all(not isinstance(want, int) or want == got for want, got in zip(wanted, given, strict=True))
    if fits:
        return None
    return f"got {shown(shape)}, the model wants {shown(spec.shape)} (first axis = sample)"
