"""Rewrites of ONNX graphs for targets that lack an operator, each in its module, each with a test of its values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import onnx

from edgefleet_controller.compile.graph.onnx_graph import opset_of
from edgefleet_controller.compile.rewrite import functions, library
from edgefleet_controller.compile.rewrite.graph import named

Rewritten = tuple[tuple[str, ...], onnx.ModelProto]


def for_tflite(
    model: onnx.ModelProto,
    missing: Collection[str],
    fold: Callable[[onnx.ModelProto], onnx.ModelProto],
    refusals: list[str],
) -> Iterator[Rewritten]:
    """Yield rewritten graphs for the TFLite converter with the names of what was done, the least changed first.

    Args:
        model: shapes fixed and inferred.
        missing: operator types the converter named as those it lacks.
        fold: folds constants and infers shapes.
        refusals: gets why nodes were left as they are, where a limit of ours is the reason.
    """
    names: tuple[str, ...] = ()
    made = model
    seen: set[bytes] = {model.SerializeToString(deterministic=True)}
    for kinds in ([missing] if missing else []) + [()]:
        names, made = _rewritten(model, kinds, fold, refusals)
        opset, raised = opset_of(model), opset_of(made)
        if not names and not kinds and raised != opset:  # the conversion itself changed what nodes say
            names = (f"opset {opset} to {raised}",)
            made = fold(made)
        data = made.SerializeToString(deterministic=True)
        if names and data not in seen:
            seen.add(data)
            yield names, made
    last, more = library.apply(made, (), library.LAST_RULES)
    if more:
        yield (*names, *more), fold(last)


def _rewritten(
    model: onnx.ModelProto,
    kinds: Collection[str],
    fold: Callable[[onnx.ModelProto], onnx.ModelProto],
    refusals: list[str],
) -> Rewritten:
    """Return the graph with our rewrites and, for what is left, the standard's bodies; for `kinds` only, or all."""
    made, names = library.apply(functions.raised(model, library.OPSET), kinds, refusals=refusals)
    made, inlined_n = functions.apply(made, kinds)
    if inlined_n:
        names = (*names, named(functions.NAME, inlined_n))
        made, more = library.apply(fold(made), (), refusals=refusals)
        names += tuple(name for name in more if name not in names)
    return names, fold(made) if names else made
