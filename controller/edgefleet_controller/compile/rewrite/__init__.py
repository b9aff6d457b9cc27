"""Rewrites of ONNX graphs for targets that lack an operator, each in its module, each with a test of its values."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from edgefleet_controller.compile.rewrite import functions

Rewritten = tuple[tuple[str, ...], onnx.ModelProto]


def for_tflite(model: onnx.ModelProto) -> Iterator[Rewritten]:
    """Yield rewritten graphs for the TFLite converter with the names of what was done, the least changed first."""
    inlined, replaced_n = functions.apply(model)
    if replaced_n:
        yield (named(functions.NAME, replaced_n),), inlined


def named(name: str, places_n: int) -> str:
    """Return how a rewrite is written in an artifact's record."""
    return name if places_n == 1 else f"{name} x{places_n}"
