"""DFT and STFT of a fixed length as products with constant matrices: real and imaginary parts are linear in both."""

from __future__ import annotations

import numpy as np
import onnx

from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.rewrite.graph import Builder, attribute, given

MAX_MATRIX_ELEMENTS = 4_000_000
"""16 MB of float32: a transform of 1,400 complex points."""


def transform(node: onnx.NodeProto, builder: Builder) -> bool:
    """DFT along one axis; forward or inverse, of real or complex numbers, one-sided or whole."""
    shape = builder.shape(node.input[0])
    axis, length = _axis(node, builder), builder.value(given(node, 1) or "")
    if shape is None or axis is None or (given(node, 1) and length is None):
        return False
    rank = len(shape)
    axis %= rank
    if axis == rank - 1:
        return False
    inverse, one_sided = (bool(attribute(node, name, 0)) for name in ("inverse", "onesided"))
    points_n = (
        int(length.reshape(-1)[0])
        if length is not None
        else 2 * (shape[axis] - 1)
        if inverse and one_sided
        else shape[axis]
    )
    matrix = _matrix(shape[axis], shape[-1], points_n, inverse=inverse, one_sided=one_sided)
    if matrix is None:
        builder.refuse(node, f"a transform of {points_n} points takes a matrix of more than {MAX_MATRIX_ELEMENTS:,}")
        return False
    order = [*(place for place in range(rank - 1) if place != axis), axis, rank - 1]
    moved = builder.add("Transpose", [node.input[0]], perm=order)
    others = [shape[place] for place in order[:-2]]
    parts_n = 1 if inverse and one_sided else 2
    made = _multiply(builder, moved, matrix, (others, parts_n))
    builder.add("Transpose", [made], node.output, perm=[order.index(place) for place in range(rank)])
    return True


def short_time(node: onnx.NodeProto, builder: Builder) -> bool:
    """STFT: frames of the signal, each transformed."""
    shape, step = builder.shape(node.input[0]), builder.value(node.input[1])
    window, length = (builder.value(given(node, place) or "") for place in (2, 3))
    missing = (given(node, 2) and window is None) or (given(node, 3) and length is None)
    if shape is None or step is None or missing or (window is None and length is None):
        return False
    size = int(length.reshape(-1)[0]) if length is not None else len(window if window is not None else ())
    hop, parts_n = int(step.reshape(-1)[0]), shape[2] if len(shape) == 3 else 1
    frames_n = (shape[1] - size) // hop + 1
    matrix = _matrix(size, parts_n, size, inverse=False, one_sided=bool(attribute(node, "onesided", 1)))
    if matrix is None or frames_n < 1:
        return False
    if window is not None:
        matrix = matrix * np.repeat(window, parts_n)[:, None]
    places = np.arange(frames_n)[:, None] * hop + np.arange(size)[None]
    frames = builder.add("Gather", [node.input[0], builder.constant(places.astype(np.int64))], axis=1)
    _multiply(builder, frames, matrix, ([shape[0], frames_n], 2), node.output[0])
    return True


def _axis(node: onnx.NodeProto, builder: Builder) -> int | None:
    """Return the axis: an attribute up to opset 19 (1 if left out), an input since (-2 if left out)."""
    if builder.opset < 20:
        return int(attribute(node, "axis", 1))
    if given(node, 2) is None:
        return -2
    value = builder.value(node.input[2])
    return None if value is None else int(value.reshape(-1)[0])


def _matrix(given_n: int, parts_n: int, points_n: int, *, inverse: bool, one_sided: bool) -> Array | None:
    """Return `[given * parts, made * parts]` that transforms numbers whose parts lie side by side; None: too large."""
    if given_n * parts_n * points_n * 2 > MAX_MATRIX_ELEMENTS:
        return None
    basis = np.eye(given_n).astype(np.complex128)
    units = np.stack([basis, 1j * basis][:parts_n], axis=1).reshape(given_n * parts_n, given_n)
    if inverse and one_sided:
        return np.fft.irfft(units, n=points_n, axis=1)
    made = (np.fft.ifft if inverse else np.fft.fft)(units, n=points_n, axis=1)
    if one_sided:
        made = made[:, : points_n // 2 + 1]
    return np.stack([made.real, made.imag], axis=2).reshape(len(units), -1)


def _multiply(
    builder: Builder, name: str, matrix: Array, sizes: tuple[list[int], int], output: str | None = None
) -> str:
    """Add the product over the last two axes, point and part; `sizes` are those before them, and the parts made."""
    others, parts_n = sizes
    flat = builder.add("Reshape", [name, builder.constant([*others, matrix.shape[0]])])
    product = builder.add("MatMul", [flat, builder.constant(matrix.astype(np.float32))])
    whole = builder.constant([*others, matrix.shape[1] // parts_n, parts_n])
    return builder.add("Reshape", [product, whole], [output] if output else 1)
