"""Our rewrites by operator type. A rule takes one node and gives the nodes that stand for it, or None to leave it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

import onnx

from edgefleet_controller.compile.rewrite.graph import Builder

Rule = Callable[[onnx.NodeProto, Builder], bool]
"""Adds the nodes that stand for one to the builder and returns True, or returns False to leave it."""

RULES: Mapping[str, tuple[str, Rule]] = {}


def apply(model: onnx.ModelProto, only: Collection[str]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the model with the rules' rewrites, and their names; empty `only`: for every operator with a rule."""
    builder = Builder(model)
    done: Counter[str] = Counter()
    for node in model.graph.node:
        name, rule = RULES.get(node.op_type, ("", None)) if node.domain in {"", "ai.onnx"} else ("", None)
        if rule is not None and (not only or node.op_type in only) and rule(node, builder):
            done[name] += 1
        else:
            builder.keep(node)
    if not done:
        return model, ()
    return builder.finish(), tuple(name if n == 1 else f"{name} x{n}" for name, n in done.items())
