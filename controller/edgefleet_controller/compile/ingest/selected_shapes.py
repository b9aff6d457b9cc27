"""Find the outputs of an ONNX model whose shape depends on values, and the operator that decides it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
from onnx import shape_inference

_SELECT = frozenset({"NonZero", "NonMaxSuppression", "Unique", "Compress"})
_DECIDING: Mapping[str, tuple[int, ...]] = {
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Expand": (1,),
    "ConstantOfShape": (0,),
    "Slice": (1, 2, 3, 4),
    "Tile": (1,),
    "TopK": (1,),
    "Pad": (1,),
    "Resize": (2, 3),
    "Upsample": (1,),
    "OneHot": (1,),
    "Split": (1,),
    "CenterCropPad": (1,),
}
"""Operator → the inputs whose values decide the shape of its output, by the operators' specifications (opset 23)."""
_MEASURING = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class _Trace:
    """What is known of one tensor: whether its values depend on the inputs', and the node its shape depends on."""

    varies: bool
    decided_by: str | None = None


_FIXED = _Trace(varies=False)


def outputs_by_values(
    model: onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]], constants: Collection[str] = ()
) -> dict[str, str]:
    """Return, by output, the node that makes its shape depend on values, as `'name' (Operator)`.

    An output whose shape follows all the same from the shapes of the inputs (a selection that is summed), or that the
    model declares with fixed sizes, is not among them.

    Args:
        model: a checked model.
        input_shapes: the sizes of the inputs as they are run.
        constants: inputs that always hold the same values.
    """
    known = {each.name: _Trace(varies=each.name not in constants) for each in model.graph.input}
    known |= {each.name: _FIXED for each in model.graph.initializer}
    _follow(model.graph, known)
    suspects = {each.name: by for each in model.graph.output if (by := known.get(each.name, _FIXED).decided_by)}
    if not suspects:
        return {}
    fixed = {each.name for each in model.graph.output if _is_fixed(each)} | _inferred(model, input_shapes)
    return {name: by for name, by in suspects.items() if name not in fixed}


def _follow(graph: onnx.GraphProto, known: dict[str, _Trace]) -> None:
    waiting = list(graph.node)
    made = {name for node in waiting for name in node.output}
    while waiting:  # nodes may come in any order
        later = []
        for node in waiting:
            if any(name in made and name not in known for name in node.input):
                later.append(node)
                continue
            _follow_node(node, known)
        if len(later) == len(waiting):
            return
        waiting = later


def _follow_node(node: onnx.NodeProto, known: dict[str, _Trace]) -> None:
    read = [known.get(name, _FIXED) for name in node.input]
    varies = any(each.varies for each in read)
    decided_by = next((each.decided_by for each in read if each.decided_by), None)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            inner = dict(known)
            inner |= {each.name: _Trace(varies=True) for each in attribute.g.input}
            inner |= {each.name: _FIXED for each in attribute.g.initializer}
            _follow(attribute.g, inner)
            ends = [inner.get(each.name, _FIXED) for each in attribute.g.output]
            varies = varies or any(each.varies for each in ends)
            decided_by = decided_by or next((each.decided_by for each in ends if each.decided_by), None)
    if node.op_type in _MEASURING:
        varies, decided_by = decided_by is not None, None
    elif decided_by is None and _decides(node, read):
        decided_by = f"{(node.name or node.output[0])!r} ({node.op_type})"
    known.update({name: _Trace(varies, decided_by) for name in node.output if name})


def _decides(node: onnx.NodeProto, read: list[_Trace]) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in _SELECT:
        return any(each.varies for each in read)
    return any(place < len(read) and read[place].varies for place in _DECIDING.get(node.op_type, ()))


def _is_fixed(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return kind.HasField("shape") and all(size.HasField("dim_value") for size in kind.shape.dim)


def _inferred(model: onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Return the outputs whose sizes follow from those of the inputs alone."""
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    for tensor in bound.graph.initializer:
        if len(tensor.raw_data) > 4096:
            tensor.ClearField("raw_data")  # weights say nothing of shapes, and the copy has a limit of 2 GiB
    del bound.graph.value_info[:]
    for each in bound.graph.input:
        if each.name in input_shapes:
            each.type.tensor_type.shape.CopyFrom(_sizes(input_shapes[each.name]))
    for each in bound.graph.output:
        each.type.tensor_type.ClearField("shape")
    try:
        known = shape_inference.infer_shapes(bound, data_prop=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError):
        return set()
    return {each.name for each in known.graph.output if _is_fixed(each)}


def _sizes(shape: tuple[int, ...]) -> onnx.TensorShapeProto:
    return onnx.TensorShapeProto(dim=[onnx.TensorShapeProto.Dimension(dim_value=size) for size in shape])
