"""Our rewrites by operator type. A rule takes one node and gives the nodes that stand for it, or None to leave it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

import onnx

from edgefleet_controller.compile.graph.onnx_graph import STANDARD_DOMAINS
from edgefleet_controller.compile.rewrite import (
    classical,
    einsum,
    fourier,
    fused,
    indexing,
    ngrams,
    pooling,
    recurrent,
    resize,
    running,
    scan,
    scatter,
    simple,
)
from edgefleet_controller.compile.rewrite.graph import Builder, named

Rule = Callable[[onnx.NodeProto, Builder], bool]
"""Adds the nodes that stand for one to the builder and returns True, or returns False to leave it."""

OPSET = 17
"""What rules write: older graphs are raised to it first, where they convert."""
RULES: Mapping[str, tuple[tuple[str, Rule], ...]] = {
    "AveragePool": (("pool-by-slices", pooling.pool),),
    "BatchNormalization": (("batch-statistics-decomposed", simple.batch_statistics),),
    "Conv": (("pads-written-out", pooling.explicit_pads),),
    "CumProd": (("running-product-masked", running.cumulative_product),),
    "DFT": (("fourier-by-matrices", fourier.transform),),
    "GatherElements": (("indices-from-start", indexing.counted_from_start),),
    "GRU": (("recurrent-unrolled", recurrent.unrolled),),
    "Hardmax": (("hardmax-compared", running.hardmax),),
    "LogSoftmax": (("log-softmax-decomposed", running.log_softmax),),
    "LpNormalization": (("lp-normalization-decomposed", simple.lp_normalization),),
    "LpPool": (("pool-by-slices", pooling.pool),),
    "LSTM": (("recurrent-unrolled", recurrent.unrolled),),
    "Max": (("one-input-removed", simple.one_input),),
    "MaxPool": (("pool-by-slices", pooling.pool),),
    "Mean": (("one-input-removed", simple.one_input),),
    "Min": (("one-input-removed", simple.one_input),),
    "OneHot": (("one-hot-compared", simple.one_hot),),
    "Mod": (("fmod-by-truncation", simple.truncated_modulo),),
    "Pad": (("wrap-gathered", indexing.wrapped_pad), ("pad-all-axes", simple.pad_axes)),
    "ReduceMax": (("bool-extreme-as-number", simple.bool_extreme),),
    "ReduceMin": (("bool-extreme-as-number", simple.bool_extreme),),
    "Resize": (("resize-by-matrices", resize.by_matrices),),
    "RNN": (("recurrent-unrolled", recurrent.unrolled),),
    "Scan": (("scan-unrolled", scan.unrolled),),
    "ScatterElements": (("scatter-by-matrix", scatter.combined),),
    "ScatterND": (("scatter-by-matrix", scatter.combined),),
    "Slice": (("backward-slice-gathered", indexing.backward_slice),),
    "Split": (("split-sizes-written-out", indexing.uneven_split),),
    "STFT": (("fourier-by-matrices", fourier.short_time),),
    "Sum": (("one-input-removed", simple.one_input),),
    "TfIdfVectorizer": (("n-grams-compared", ngrams.counted),),
    "ai.onnx.ml:ArrayFeatureExtractor": (("features-gathered", classical.feature_extractor),),
    "ai.onnx.ml:Binarizer": (("threshold-compared", classical.binarizer),),
    "com.microsoft:BiasGelu": (("fused-taken-apart", fused.gelu),),
    "com.microsoft:FastGelu": (("fused-taken-apart", fused.fast_gelu),),
    "com.microsoft:FusedMatMul": (("fused-taken-apart", fused.matrix_product),),
    "com.microsoft:Gelu": (("fused-taken-apart", fused.gelu),),
    "com.microsoft:QuickGelu": (("fused-taken-apart", fused.quick_gelu),),
    "com.microsoft:SkipLayerNormalization": (("fused-taken-apart", fused.skip_layer_norm),),
    "com.microsoft:SkipSimplifiedLayerNormalization": (("fused-taken-apart", fused.skip_rms_norm),),
}
"""Operator, after its domain where that is not ONNX's own → the names of rewrites in records with their rules; the
first rule that takes a node replaces it."""
LAST_RULES: Mapping[str, tuple[tuple[str, Rule], ...]] = {
    "Slice": (("slice-gathered", indexing.gathered_slice),),
}
"""The same for operators that convert, but not everywhere: onnx2tf takes a Slice behind a Transpose along the wrong
axis where channels are as many as rows or columns."""
PRODUCT_RULES: Mapping[str, tuple[tuple[str, Rule], ...]] = {
    "Einsum": (("einsum-as-matmul", einsum.constant_product),),
}
"""The same for operators that are products with a constant matrix, which quantisers do not see."""
INTEGER_RULES: Mapping[str, tuple[tuple[str, Rule], ...]] = {
    "MatMul": (("constant-matmul-as-gemm", simple.constant_product),),
    "ReduceMean": (("spatial-mean-pooled", simple.spatial_mean),),
}
"""The same for operators that convert, and whose rewrite has a better integer kernel, or one at all."""


def apply(
    model: onnx.ModelProto,
    only: Collection[str],
    rules: Mapping[str, tuple[tuple[str, Rule], ...]] = RULES,
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
        kind = node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}:{node.op_type}"
        tried = rules.get(kind, ()) if not only or node.op_type in only else ()
        name = next((name for name, rule in tried if rule(node, builder)), None)
        if name is None:
            builder.keep(node)
        else:
            done[name] += 1
    if refusals is not None:
        refusals += builder.refusals
    if not done:
        return model, ()
    return builder.finish(), tuple(named(name, n) for name, n in done.items())
