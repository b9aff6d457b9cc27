"""Operators that ONNX itself defines by other operators are replaced by that definition.

Attention, LayerNormalization, RMSNormalization, GroupNormalization, Gelu, HardSwish, Elu, the losses and some forty more
carry their meaning as a function body in the standard. The standard's own body is the reference, so nothing of it is
repeated here.
"""

from __future__ import annotations

import onnx
import onnx.inliner

NAME = "functions-inlined"
_PASSES = 3
"""Bodies use operators that have bodies themselves: Attention uses Softmax, losses use LogSoftmax."""
_KEEP = frozenset({
    "BatchNormalization", "CastLike", "Clip", "Constant", "Dropout", "Identity", "LogSoftmax", "PRelu", "Relu", "Softmax",
})  # fmt: skip
"""Operators that every target has, or whose body is worse than they are."""


def apply(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Return the model with function operators replaced, and how many were; untouched where there is none."""
    replaced_n = 0
    for _ in range(_PASSES):
        kinds = sorted({(node.domain, node.op_type) for node in model.graph.node if _has_body(node, model)})
        if not kinds:
            break
        replaced_n += sum((node.domain, node.op_type) in kinds for node in model.graph.node)
        model = onnx.inliner.inline_selected_functions(model, kinds, inline_schema_functions=True)
    return model, replaced_n


def _has_body(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    opset = next((each.version for each in model.opset_import if each.domain == node.domain), 0)
    if node.op_type in _KEEP or not onnx.defs.has(node.op_type, node.domain, opset):
        return False
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    return bool(schema.has_function or schema.has_context_dependent_function)
