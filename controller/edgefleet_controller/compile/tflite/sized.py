"""Which tensors of a graph have a size that is only known once the model runs. Pure.

A delegate for fixed sizes refuses a whole graph that has one. Sizes left open in the file's signature are none: an
interpreter allocates them before it asks a delegate.
Source: LiteRT 2.2.0 (145c7523), ModifyGraphWithDelegate in tflite/core/subgraph.cc and SetTensorToDynamic and
SetTensorToPersistentRo in tflite/kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgefleet_controller.compile.tflite.graph import Op, Tensor

_REDUCTIONS = ("MEAN", "SUM", "REDUCE_ALL", "REDUCE_ANY", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")
_GIVES_SIZES: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(_REDUCTIONS, (1,)),
    **dict.fromkeys(
        ("ARG_MAX", "ARG_MIN", "BROADCAST_TO", "EXPAND_DIMS", "MIRROR_PAD", "ONE_HOT", "PAD", "PADV2"), (1,)
    ),
    **dict.fromkeys(("RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "TILE", "TOPK_V2", "TRANSPOSE"), (1,)),
    **dict.fromkeys(("BATCH_TO_SPACE_ND", "SLICE", "SPACE_TO_BATCH_ND", "SPLIT_V"), (1, 2)),
    **dict.fromkeys(("FILL", "RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM", "SPLIT", "TRANSPOSE_CONV", "UNIQUE"), (0,)),
    "RANGE": (0, 1, 2),
    "SCATTER_ND": (2,),
    "SPARSE_TO_DENSE": (1,),
    "STRIDED_SLICE": (1, 2, 3),
    "WHERE": (0,),
}
"""Operator → inputs whose values its output's size follows."""
_KNOWN_EARLY = frozenset({"RANK", "SHAPE"})
_KEEPS_KNOWN = frozenset(
    {"BROADCAST_ARGS", "CONCATENATION", "GATHER", "MUL", "RANGE", "REDUCE_PROD", "RESHAPE", "STRIDED_SLICE", "TILE"}
)
"""Operators that an interpreter computes before the model runs, the latter where all their inputs are known."""


def first_open(operators: Sequence[Op]) -> Tensor | None:
    """Return the first tensor whose size depends on what the model computes, or None.

    Text is such a tensor always: how long it is, an interpreter does not ask beforehand.
    """
    known: set[int] = set()
    for op in operators:
        text = next((tensor for tensor in op.outputs if tensor.dtype == "string"), None)
        if text is not None:
            return text
        places = _GIVES_SIZES.get(op.type, ())
        if op.outputs and any(not _is_known(op.input(place), known) for place in places):
            return op.outputs[0]
        early = op.type in _KNOWN_EARLY or (
            op.type in _KEEPS_KNOWN and all(_is_known(each, known) for each in op.inputs)
        )
        if early:
            known.update(tensor.index for tensor in op.outputs)
    return None


def _is_known(tensor: Tensor | None, known: set[int]) -> bool:
    return tensor is None or tensor.is_constant or tensor.index in known
