"""Raw samples into model inputs, by the formula of `InputTransform`.

The agent has its own implementation for the device; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgefleet_contract.artifact import InputTransform, Layout, TensorSpec
from edgefleet_controller.compile.npz import Array, Arrays


def apply(array: Array, transform: InputTransform | None, dtype: str) -> Array:
    """Return samples as the model wants them: transposed, then `(x - mean) * scale / std` in float32, then cast."""
    if transform is None:
        return array
    array = _transpose(array, transform)
    mean, std = (_per_channel(value, array.ndim, transform.layout) for value in (transform.mean, transform.std))
    values = (array.astype(np.float32) - mean) * np.float32(transform.scale) / std
    return (np.rint(values) if np.dtype(dtype).kind in "iu" else values).astype(dtype)


def batches(
    arrays: Arrays, specs: tuple[TensorSpec, ...], preprocess: Mapping[str, InputTransform]
) -> Iterator[Arrays]:
    """Yield the feeds of one sample after the other: model input → array."""
    count = len(arrays[specs[0].name])
    for index in range(count):
        yield feed(arrays, specs, preprocess, index)


def feed(arrays: Arrays, specs: tuple[TensorSpec, ...], preprocess: Mapping[str, InputTransform], index: int) -> Arrays:
    """Return the feeds of one sample: model input → array."""
    return {spec.name: _one(arrays[spec.name], index, spec, preprocess.get(spec.name)) for spec in specs}


def _one(array: Array, index: int, spec: TensorSpec, transform: InputTransform | None) -> Array:
    made = apply(array[index : index + 1], transform, spec.dtype)
    return made if made.ndim == len(spec.shape) else np.asarray(made[0])


def _transpose(array: Array, transform: InputTransform) -> Array:
    given, wanted = transform.sample_layout or transform.layout, transform.layout
    if given is wanted or wanted is None:
        return array
    if given is Layout.NHW:
        return array[:, None] if wanted is Layout.NCHW else array[..., None]
    return array.transpose(0, 3, 1, 2) if given is Layout.NHWC else array.transpose(0, 2, 3, 1)


def _per_channel(value: float | tuple[float, ...], rank: int, layout: Layout | None) -> Array:
    values = np.asarray(value, dtype=np.float32)
    if values.ndim == 1 and layout is Layout.NCHW:
        return values.reshape(1, -1, *([1] * (rank - 2)))
    return values
