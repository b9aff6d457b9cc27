"""The source as the converter wants it: every shape fixed, constants folded, one opset it knows."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

import onnx

from edgefleet_controller.compile.fault import one_line
from edgefleet_controller.compile.graph.onnx_graph import rename, with_plain_constants, with_shapes

logger = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
_FUSED = frozenset({"Attention"})
"""What the simplifier makes of plain products and the converter then lacks."""
MAX_FOLDED_BYTES = "64MB"
"""Larger constants are not folded into the graph: a Tile or Expand of a constant would blow the file up."""


def sized(model: onnx.ModelProto, shapes: Shapes) -> onnx.ModelProto:
    """Return a copy with the shapes of inputs and outputs fixed.

    Args:
        model: the source.
        shapes: sizes of inputs and outputs in one run of the source; what it declares may be dynamic, or wrong.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.ClearField("value_info")
    for value in (*fixed.graph.input, *fixed.graph.output):
        if value.name in shapes:
            _set_shape(value, shapes[value.name])
    return fixed


def simplify(model: onnx.ModelProto, *, fuse: bool = True) -> onnx.ModelProto:
    """Return the model with constants folded and shapes inferred; as it is where the simplifier does not manage it.

    Args:
        model: shapes of inputs fixed.
        fuse: whether operators may be fused; what was taken apart for a target must stay apart.
    """
    import onnxsim

    model = with_plain_constants(model)
    try:
        simplified, same = onnxsim.simplify(model, tensor_size_threshold=MAX_FOLDED_BYTES, perform_optimization=fuse)
    except (RuntimeError, ValueError, TypeError, onnx.checker.ValidationError) as error:
        logger.info("not simplified: %s", one_line(error))
        return with_shapes(model)
    if fuse and (_kinds(simplified) - _kinds(model)) & _FUSED:
        return simplify(model, fuse=False)
    return simplified if same and _same_outputs(model, simplified) else with_shapes(model)


def _kinds(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with constants folded and shapes inferred, and nothing fused."""
    return simplify(model, fuse=False)


def _same_outputs(before: onnx.ModelProto, after: onnx.ModelProto) -> bool:
    return [value.name for value in before.graph.output] == [value.name for value in after.graph.output]


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    tensor = value.type.tensor_type
    tensor.ClearField("shape")
    tensor.shape.SetInParent()
    for size in shape:
        tensor.shape.dim.add().dim_value = size


def with_safe_names(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a copy whose inputs and outputs have names the converter keeps, and safe name → the source's name.

    It rewrites `:`, blanks and the like its own way, and may then not find what it renamed.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    edges = {value.name for value in (*made.graph.input, *made.graph.output)}
    taken = {name for node in made.graph.node for name in (*node.input, *node.output)} | edges
    safe = {
        name: name if _SAFE_NAME.fullmatch(name) else _fresh(place, taken) for place, name in enumerate(sorted(edges))
    }
    rename(made.graph, {name: other for name, other in safe.items() if name != other})
    return made, {other: name for name, other in safe.items()}


def _fresh(place: int, taken: set[str]) -> str:
    return next(name for suffix in range(len(taken) + 1) if (name := f"edge_{place}_{suffix}") not in taken)
