"""If whose condition is constant once shapes are fixed: the branch that is taken replaces it.

Exporters write such branches for ranks, batches and sampling rates. A condition is constant where it follows from
constants and from shapes that inference knows; what depends on a value of an input stays an If.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import onnx
from onnx import helper, numpy_helper

from edgefleet_controller.compile.graph.onnx_graph import definitions, inner_graphs, put_nodes, rename, with_shapes
from edgefleet_controller.compile.rewrite.graph import attribute
from edgefleet_controller.compile.rewrite.known import Known

NAME = "constant-branches-taken"
MAX_PASSES_N = 16
"""How deep branches may lie in branches."""


def taken(model: onnx.ModelProto, parameters: Mapping[str, Collection[int]]) -> tuple[onnx.ModelProto, int]:
    """Return the model with the branches of decided If nodes in their place, and how many were decided.

    Args:
        model: shapes of its inputs fixed; the model itself comes back where nothing is decided.
        parameters: operator → places of inputs that decide its output's shape.
    """
    done_n, before = 0, model
    for _ in range(MAX_PASSES_N):
        if not any(node.op_type == "If" for node in model.graph.node):
            break
        shaped = with_shapes(model)
        known = Known(shaped)
        decided = _decided(shaped, known)
        model, stated_n = _stated(_with_branches(shaped, decided), known, parameters)
        if not decided and not stated_n:
            break
        done_n += len(decided)
    return (model if done_n else before), done_n


def _decided(model: onnx.ModelProto, known: Known) -> dict[str, bool]:
    """Return first output of an If → its condition, where that is constant."""
    values = {node.output[0]: known.value(node.input[0]) for node in model.graph.node if node.op_type == "If"}
    return {name: bool(value.reshape(-1)[0]) for name, value in values.items() if value is not None and value.size == 1}


def _stated(
    model: onnx.ModelProto, known: Known, parameters: Mapping[str, Collection[int]]
) -> tuple[onnx.ModelProto, int]:
    """Return the model with computed shapes and axes as constants, without which inference ends there."""
    made = {name for node in model.graph.node if node.op_type != "Constant" for name in node.output}
    wanted = {
        name
        for node in model.graph.node
        for place, name in enumerate(node.input)
        if name in made and place in parameters.get(node.op_type, ())
    }
    values = {name: value for name in sorted(wanted) if (value := known.value(name)) is not None}
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name in values:
                node.output[place] = f"{name}_computed"
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    return model, len(values)


def _with_branches(model: onnx.ModelProto, decided: Mapping[str, bool]) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    defined = Counter(name for graph in (made.graph, *inner_graphs(made.graph)) for name in definitions(graph))
    nodes: list[onnx.NodeProto] = []
    for node in made.graph.node:
        if node.op_type != "If" or node.output[0] not in decided:
            nodes.append(node)
            continue
        branch = attribute(node, "then_branch" if decided[node.output[0]] else "else_branch")
        rename(branch, {name: _fresh(name, defined) for name in definitions(branch) if defined[name] > 1})
        made.graph.initializer.extend(branch.initializer)
        nodes += branch.node
        pairs = zip(branch.output, node.output, strict=True)
        nodes += [helper.make_node("Identity", [inner.name], [outer]) for inner, outer in pairs if outer]
    put_nodes(made.graph, nodes)
    made.graph.ClearField("value_info")
    return made


def _fresh(name: str, defined: Counter[str]) -> str:
    number = next(number for number in range(1, len(defined) + 2) if f"{name}_{number}" not in defined)
    defined[f"{name}_{number}"] += 1
    return f"{name}_{number}"
