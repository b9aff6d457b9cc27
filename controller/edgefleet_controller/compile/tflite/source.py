"""The source as the converter wants it: every shape fixed, constants folded, one opset it knows."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefleet_controller.compile.npz import Arrays

logger = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]

_CONSTANTS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
MAX_FOLDED_BYTES = "64MB"
"""Larger constants are not folded into the graph: a Tile or Expand of a constant would blow the file up."""


def shapes_of(feeds: Arrays) -> Shapes:
    """Return the shape of every input in one set of feeds: what a fixed-shape model is made for."""
    return {name: tuple(array.shape) for name, array in feeds.items()}


def fix(model: onnx.ModelProto, shapes: Shapes) -> onnx.ModelProto:
    """Return a copy with input shapes fixed to those of one sample, simplified, and with shapes inferred."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        if value.name in shapes:
            _set_shape(value, shapes[value.name])
    _forget_inner_shapes(fixed)
    return simplify(fixed)


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with constants folded and shapes inferred; as it is where the simplifier does not manage it."""
    import onnxsim

    model = with_plain_constants(model)
    try:
        simplified, same = onnxsim.simplify(model, tensor_size_threshold=MAX_FOLDED_BYTES, check_n=0)
    except (RuntimeError, ValueError, TypeError, onnx.checker.ValidationError) as error:
        logger.info("not simplified: %s", " ".join(str(error).split())[:300])
        return inferred(model)
    return simplified if same and _same_outputs(model, simplified) else inferred(model)


def with_plain_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with Constant nodes of scalars and lists as initializers: converters know tensors only."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kept = []
    for node in made.graph.node:
        kind = node.attribute[0].name if node.op_type == "Constant" and node.attribute else ""
        if kind in _CONSTANTS:
            value = np.asarray(helper.get_attribute_value(node.attribute[0]), dtype=_CONSTANTS[kind])
            made.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        else:
            kept.append(node)
    del made.graph.node[:]
    made.graph.node.extend(kept)
    return made


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with shapes inferred where they can be."""
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (RuntimeError, ValueError) as error:
        logger.info("shapes not inferred: %s", " ".join(str(error).split())[:300])
        return model


def _same_outputs(before: onnx.ModelProto, after: onnx.ModelProto) -> bool:
    return [value.name for value in before.graph.output] == [value.name for value in after.graph.output]


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    tensor = value.type.tensor_type
    tensor.ClearField("shape")
    tensor.shape.SetInParent()
    for size in shape:
        tensor.shape.dim.add().dim_value = size


def _forget_inner_shapes(model: onnx.ModelProto) -> None:
    """Drop shapes of inner tensors, and of outputs where dynamic: they contradict the fixed inputs or say less."""
    model.graph.ClearField("value_info")
    for value in model.graph.output:
        tensor = value.type.tensor_type
        if tensor.elem_type != TensorProto.UNDEFINED and not all(dim.dim_value > 0 for dim in tensor.shape.dim):
            tensor.ClearField("shape")
