"""Operators that ONNX itself defines by other operators are replaced by that definition.

Attention, LayerNormalization, RMSNormalization, GroupNormalization, Gelu, HardSwish, Elu, the losses and forty more
carry their meaning as a function body in the standard. That body is the reference, so nothing of it is repeated here.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import onnx
import onnx.inliner
import onnx.version_converter
from onnx import helper

from edgefleet_controller.compile.fault import one_line
from edgefleet_controller.compile.graph.onnx_graph import opset_of

logger = logging.getLogger(__name__)

NAME = "functions-inlined"
_OPSET = 21
_IR_VERSION = 8
"""Weights need not be inputs since version 4."""
_PASSES = 3
"""Bodies use operators that have bodies themselves: Attention uses Softmax, losses use LogSoftmax."""
_KEEP = frozenset({
    "BatchNormalization", "CastLike", "Clip", "DepthToSpace", "Dropout", "GreaterOrEqual", "HardSigmoid", "LeakyRelu",
    "LessOrEqual", "LogSoftmax", "PRelu", "Range", "Relu", "Softmax", "Softplus", "Softsign",
})  # fmt: skip
"""Operators whose body is worse than they are: every target has them."""


def apply(model: onnx.ModelProto, only: Collection[str] = ()) -> tuple[onnx.ModelProto, int]:
    """Return the model with function operators replaced, and how many were; untouched where there is none.

    Args:
        model: shapes inferred where a body depends on them.
        only: operator types to replace, even those kept otherwise; empty: all that have a body.
    """
    replaced_n, before = 0, model
    model = _with_bodies(model)
    for turn in range(1 if only else _PASSES):
        kinds = sorted({(node.domain, node.op_type) for node in model.graph.node if _wanted(node, model, only)})
        if not kinds:
            break
        try:
            told = _spelt_out(_typed(model), kinds)
            inlined = onnx.inliner.inline_selected_functions(told, kinds, inline_schema_functions=True)
        except RuntimeError as error:  # a body asks for the type of an input that was left out
            logger.info("not inlined: %s", one_line(error))
            break
        _forget_nameless(inlined)
        replaced_n += sum((node.domain, node.op_type) in kinds for node in model.graph.node) if turn == 0 else 0
        model = inlined
    return (model if replaced_n else before), replaced_n


def _with_bodies(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in an opset whose operators have bodies, where it converts: Elu has none before opset 18."""
    return raised(model, _OPSET)


def raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the model in at least this opset, or as it is where it does not convert."""
    given = opset_of(model)
    if given >= opset:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = max(made.ir_version, _IR_VERSION)
    if given == 0:
        made.opset_import.append(helper.make_opsetid("", opset))
        return made
    try:
        return onnx.version_converter.convert_version(made, opset)
    except (RuntimeError, onnx.version_converter.ConvertError, onnx.shape_inference.InferenceError) as error:
        logger.info("stays in opset %d: %s", given, one_line(error))
        return model


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a declared type for every weight: the inliner looks nowhere else."""
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    known = {value.name for value in (*typed.graph.value_info, *typed.graph.input)}
    typed.graph.value_info.extend(
        helper.make_tensor_value_info(each.name, each.data_type, list(each.dims))
        for each in typed.graph.initializer
        if each.name not in known
    )
    # Some bodies ask for the type of inputs that were left out, which are named by an empty text.
    typed.graph.value_info.append(helper.make_tensor_value_info("", onnx.TensorProto.FLOAT, None))
    return typed


def _spelt_out(model: onnx.ModelProto, kinds: Collection[tuple[str, str]]) -> onnx.ModelProto:
    """Return the model, changed: nodes to inline have every attribute that has a default.

    Where one node of a type sets an attribute and another leaves it out, the inliner leaves an empty Constant.
    """
    for node in model.graph.node:
        if (node.domain, node.op_type) not in kinds:
            continue
        given = {each.name for each in node.attribute}
        schema: Any = onnx.defs.get_schema(node.op_type, _opset_of_domain(model, node.domain), node.domain)
        for name, each in schema.attributes.items():
            if name not in given and each.default_value.name:
                node.attribute.append(each.default_value)
    return model


def _forget_nameless(model: onnx.ModelProto) -> None:
    kept = [value for value in model.graph.value_info if value.name]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def _wanted(node: onnx.NodeProto, model: onnx.ModelProto, only: Collection[str]) -> bool:
    opset = _opset_of_domain(model, node.domain)
    refused = node.op_type not in only if only else node.op_type in _KEEP
    if refused or not onnx.defs.has(node.op_type, opset, node.domain):
        return False
    schema: Any = onnx.defs.get_schema(node.op_type, opset, node.domain)
    return bool(schema.has_function or schema.has_context_dependent_function)


def _opset_of_domain(model: onnx.ModelProto, domain: str) -> int:
    return next((int(each.version) for each in model.opset_import if each.domain == domain), 0)
