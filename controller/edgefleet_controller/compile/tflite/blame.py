"""Which node a conversion gets wrong first: told by the values of every node, where the converter gives them all."""

from __future__ import annotations

import logging

import onnx
from onnx import TensorProto, helper

from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.tflite import convert, layout, prove
from edgefleet_controller.compile.tflite.convert import ConversionError
from edgefleet_controller.compile.tflite.interpreter import Interpreter, RefusedError

logger = logging.getLogger(__name__)

_ERRORS: tuple[type[Exception], ...] = (*session.RUNTIME_ERRORS, ConversionError, RefusedError)
MAX_NODES_N = 512
"""Larger graphs are not converted once more with every value given back."""


def first_wrong(model: onnx.ModelProto, feed: Arrays) -> str | None:
    """Return the first node whose float32 output a conversion computes wrongly, as `type 'name'`, or None.

    It is None too where the converter does not manage the graph with every value given back, or then errs nowhere.

    Args:
        model: shapes fixed and inferred.
        feed: its inputs, by its own names.
    """
    if len(model.graph.node) > MAX_NODES_N:
        return None
    shown = _with_every_output(model)
    try:
        runner = session.Session(shown.SerializeToString())
        wanted = dict(zip(runner.output_names, runner.run(feed), strict=True))
        file = Interpreter(convert.to_tflite(shown, list(feed)))
        found = dict(zip((port.name for port in file.outputs), file.run(_fed(file, feed)), strict=True))
    except _ERRORS as error:
        logger.info("no node can be blamed: %s", error)
        return None
    for node in model.graph.node:
        if any(name in wanted and name in found and _differs(wanted[name], found[name]) for name in node.output):
            return f"{node.op_type} {node.name or node.output[0]!r}"
    return None


def _with_every_output(model: onnx.ModelProto) -> onnx.ModelProto:
    given = {value.name for value in model.graph.output}
    floats = [
        value
        for value in model.graph.value_info
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in given
    ]
    made_here = {name for node in model.graph.node for name in node.output}
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    for value in floats:
        if value.name in made_here:
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            shown.graph.output.append(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape))
    return shown


def _fed(file: Interpreter, feed: Arrays) -> dict[str, Array]:
    return {
        port.name: layout.to_file(feed[port.name], next(iter(layout.candidates(feed[port.name].shape, port.shape)), ()))
        for port in file.inputs
    }


def _differs(wanted: Array, found: Array) -> bool:
    if wanted.dtype != found.dtype:
        return True
    orders = layout.candidates(wanted.shape, found.shape)
    return all(prove.difference(wanted, layout.to_source(found, axes)) is not None for axes in orders)
