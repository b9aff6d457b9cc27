"""Our rewrites by operator type. A rule takes one node and gives the nodes that stand for it, or None to leave it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

import onnx

from edgefleet_controller.compile.onnx_graph import STANDARD_DOMAINS
from edgefleet_controller.compile.rewrite import pooling, recurrent, resize, scan, simple
from edgefleet_controller.compile.rewrite.graph import Builder, named

Rule = Callable[[onnx.NodeProto, Builder], bool]
"""Adds the nodes that stand for one to the builder and returns True, or returns False to leave it."""

RULES: Mapping[str, tuple[str, Rule]] = {
    "AveragePool": ("pool-by-slices", pooling.pool),
    "BatchNormalization": ("batch-statistics-decomposed", simple.batch_statistics),
    "Conv": ("pads-written-out", pooling.explicit_pads),
    "GRU": ("recurrent-unrolled", recurrent.unrolled),
    "LpNormalization": ("lp-normalization-decomposed", simple.lp_normalization),
    "LpPool": ("pool-by-slices", pooling.pool),
    "LSTM": ("recurrent-unrolled", recurrent.unrolled),
    "Max": ("one-input-removed", simple.one_input),
    "MaxPool": ("pool-by-slices", pooling.pool),
    "Mean": ("one-input-removed", simple.one_input),
    "Min": ("one-input-removed", simple.one_input),
    "OneHot": ("one-hot-compared", simple.one_hot),
    "Pad": ("pad-all-axes", simple.pad_axes),
    "ReduceMax": ("bool-extreme-as-number", simple.bool_extreme),
    "ReduceMin": ("bool-extreme-as-number", simple.bool_extreme),
    "Resize": ("resize-by-matrices", resize.by_matrices),
    "RNN": ("recurrent-unrolled", recurrent.unrolled),
    "Scan": ("scan-unrolled", scan.unrolled),
    "Sum": ("one-input-removed", simple.one_input),
}
"""Operator → the rewrite's name in records, and the rule."""
INTEGER_RULES: Mapping[str, tuple[str, Rule]] = {
    "MatMul": ("constant-matmul-as-gemm", simple.constant_product),
    "ReduceMean": ("spatial-mean-pooled", simple.spatial_mean),
}
"""The same for operators that convert, and whose rewrite has a better integer kernel, or one at all."""


def apply(
    model: onnx.ModelProto,
    only: Collection[str],
    rules: Mapping[str, tuple[str, Rule]] = RULES,
    refusals: list[str] | None = None,
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the model with the rules' rewrites, and their names.

    Args:
        model: shapes inferred.
        only: operator types to rewrite; empty: every one that has a rule.
        rules: by operator type.
        refusals: gets why nodes were left as they are, where a limit of ours is the reason.
    """
    builder = Builder(model)
    done: Counter[str] = Counter()
    for node in model.graph.node:
        name, rule = rules.get(node.op_type, ("", None)) if node.domain in STANDARD_DOMAINS else ("", None)
        if rule is not None and (not only or node.op_type in only) and rule(node, builder):
            done[name] += 1
        else:
            builder.keep(node)
    if refusals is not None:
        refusals += builder.refusals
    if not done:
        return model, ()
    return builder.finish(), tuple(named(name, n) for name, n in done.items())
