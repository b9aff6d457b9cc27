"""Which order of axes a file's tensors have against the source's. Pure.

The converter puts channels last, but not everywhere: outputs keep the order its passes left them in. So inputs are
known from its rule, and outputs are found by their values: the order in which the file's output equals the source's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefleet_controller.compile.npz import Array

Axes = tuple[int, ...]

_CHANNELS_LAST: dict[int, Axes] = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}


def channels_last(rank: int) -> Axes:
    """Return the axes that put the second axis last, for tensors of rank 3 to 5; `()` for others: unchanged."""
    return _CHANNELS_LAST.get(rank, ())


def inverse(axes: Axes) -> Axes:
    """Return the axes that undo a transposition."""
    return tuple(int(axis) for axis in np.argsort(axes))


def candidates(source: Sequence[int], file: Sequence[int]) -> list[Axes]:
    """Return the orders of axes the converter uses that turn the source's shape into the file's; `()` is unchanged."""
    last = channels_last(len(source))
    known: list[Axes] = [tuple(range(len(source))), *([last, inverse(last)] if last else [])]
    if len(source) != len(file):
        return []
    fitting = [axes for axes in dict.fromkeys(known) if tuple(source[axis] for axis in axes) == tuple(file)]
    return [() if axes == known[0] else axes for axes in fitting]


def to_file(array: Array, axes: Axes) -> Array:
    """Return a source tensor in the file's order."""
    return array.transpose(axes) if axes else array


def to_source(array: Array, axes: Axes) -> Array:
    """Return a file's tensor in the source's order."""
    return array.transpose(inverse(axes)) if axes else array
