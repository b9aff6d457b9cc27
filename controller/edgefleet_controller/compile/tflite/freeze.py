"""Inputs that only say shapes and axes, or choose branches, become constants of a fixed-shape file. Pure.

A TFLite file for delegates has fixed shapes and no branches, so an input that decides them (the target of a Reshape,
the axes of a reduction, the sampling rate that an If asks for) cannot vary in it. Where all samples agree on its value,
the file is made for that value, the input leaves its contract, and the artifact says which value it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from edgefleet_controller.compile.graph.onnx_graph import reads_of
from edgefleet_controller.compile.npz import Array, Arrays

MAX_ELEMENTS = 64
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
PARAMETERS: Mapping[str, frozenset[int]] = {
    **{name: frozenset({1}) for name in _REDUCTIONS},
    "AffineGrid": frozenset({1}),
    "BlackmanWindow": frozenset({0}),
    "CenterCropPad": frozenset({1}),
    "Col2Im": frozenset({1, 2}),
    "ConstantOfShape": frozenset({0}),
    "CumProd": frozenset({1}),
    "CumSum": frozenset({1}),
    "DFT": frozenset({1, 2}),
    "Dropout": frozenset({1, 2}),
    "Expand": frozenset({1}),
    "HammingWindow": frozenset({0}),
    "HannWindow": frozenset({0}),
    "MaxUnpool": frozenset({2}),
    "MelWeightMatrix": frozenset({0, 1, 2, 3, 4}),
    "OneHot": frozenset({1}),
    "Pad": frozenset({1, 2, 3}),
    "Range": frozenset({0, 1, 2}),
    "Reshape": frozenset({1}),
    "Resize": frozenset({1, 2, 3}),
    "Slice": frozenset({1, 2, 3, 4}),
    "Split": frozenset({1}),
    "Squeeze": frozenset({1}),
    "STFT": frozenset({1, 3}),
    "Tile": frozenset({1}),
    "TopK": frozenset({1}),
    "Trilu": frozenset({1}),
    "Unsqueeze": frozenset({1}),
    "Upsample": frozenset({1}),
}
"""Operator → places of inputs that say shapes, axes or modes, as ONNX's operator documentation names them."""
_CONDITIONS = frozenset({
    "And", "Cast", "Equal", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Not", "Or", "Reshape",
    "Squeeze", "Unsqueeze", "Xor",
})  # fmt: skip
"""Operators between an input and the If it chooses a branch of."""


def parameters(model: onnx.ModelProto, feeds: Sequence[Arrays]) -> dict[str, Array]:
    """Return the inputs that only say shapes and axes or choose branches, with the value all feeds agree on."""
    found = {}
    for value in model.graph.input:
        if value.name not in feeds[0]:
            continue
        first = feeds[0][value.name]
        same = first.size <= MAX_ELEMENTS and all(np.array_equal(first, feed[value.name]) for feed in feeds)
        if same and (_says_shapes(value.name, model.graph) or _chooses_branches(value.name, model.graph)):
            found[value.name] = first
    return found


def _uses(name: str, graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, int]] | None:
    """Return the nodes that read a tensor with the places they do it at; None where a graph inside one reads it."""
    readers = [node for node in graph.node if name in reads_of(node)]
    if any(name not in node.input for node in readers) or name in {value.name for value in graph.output}:
        return None
    return [(node, place) for node in readers for place, each in enumerate(node.input) if each == name]


def _says_shapes(name: str, graph: onnx.GraphProto) -> bool:
    uses = _uses(name, graph)
    return bool(uses) and all(place in PARAMETERS.get(node.op_type, frozenset()) for node, place in uses or ())


def _chooses_branches(name: str, graph: onnx.GraphProto) -> bool:
    """Return whether a tensor is read by comparisons only, whose results decide If nodes and nothing else."""
    waiting, seen = [name], set()
    while waiting:
        each = waiting.pop()
        uses = _uses(each, graph) if each not in seen else []
        seen.add(each)
        if uses is None or (not uses and each == name):
            return False
        if any(node.op_type not in _CONDITIONS | {"If"} for node, _ in uses):
            return False
        waiting += [made for node, _ in uses if node.op_type != "If" for made in node.output]
    return True
