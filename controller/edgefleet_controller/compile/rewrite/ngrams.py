"""TfIdfVectorizer over numbers: every n-gram compared with every place of the text, counted and weighed."""

from __future__ import annotations

import numpy as np
import onnx

from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.rewrite.graph import Builder, attribute

MAX_ELEMENTS = 1_000_000
"""Size of an intermediate tensor: texts times places times n-grams."""


def counted(node: onnx.NodeProto, builder: Builder) -> bool:
    """TfIdfVectorizer of int32 or int64 texts of fixed length."""
    shape, dtype = builder.shape(node.input[0]), builder.dtype(node.input[0])
    pool, starts = attribute(node, "pool_int64s"), [*attribute(node, "ngram_counts")]
    if shape is None or dtype not in {"int32", "int64"} or not pool or builder.opset < 13 or 0 in shape:
        return False
    texts_n, length = (1, shape[0]) if len(shape) == 1 else shape
    if texts_n * length * len(pool) > MAX_ELEMENTS:
        builder.refuse(node, f"its n-grams and places take more than {MAX_ELEMENTS:,} elements")
        return False
    text = builder.add("Reshape", [node.input[0], builder.constant([texts_n, length])])
    parts = []
    for size, (start, end) in enumerate(zip(starts, [*starts[1:], len(pool)], strict=True), start=1):
        grams = np.asarray(pool[start:end], dtype=dtype).reshape(-1, size)
        if len(grams):
            wanted = attribute(node, "min_gram_length") <= size <= attribute(node, "max_gram_length")
            skips = range(1, attribute(node, "max_skip_count") + 2) if size > 1 else range(1, 2)
            usable = [skip for skip in skips if wanted and skip * (size - 1) < length]
            parts.append(_counts(builder, text, grams, usable, (texts_n, length)))
    _weighed(node, builder, parts, [] if len(shape) == 1 else [texts_n])
    return True


def _counts(builder: Builder, text: str, grams: Array, skips: list[int], sizes: tuple[int, int]) -> str:
    """Return how often each n-gram stands in each text, `[texts, n-grams]`, its numbers any of `skips` apart."""
    texts_n, length = sizes
    total = builder.constant(np.zeros((texts_n, len(grams)), dtype=np.float32))
    for skip in skips:
        places_n, hit = length - skip * (grams.shape[1] - 1), ""
        for place in range(grams.shape[1]):
            bounds = [builder.constant([place * skip]), builder.constant([place * skip + places_n])]
            part = builder.add("Slice", [text, *bounds, builder.constant([1])])
            column = builder.add("Reshape", [part, builder.constant([texts_n, places_n, 1])])
            equal = builder.add("Equal", [column, builder.constant(grams[None, None, :, place])])
            hit = builder.add("And", [hit, equal]) if hit else equal
        number = builder.add("Cast", [hit], to=onnx.TensorProto.FLOAT)
        total = builder.add("Add", [total, builder.add("ReduceSum", [number, builder.constant([1])], keepdims=0)])
    return total


def _weighed(node: onnx.NodeProto, builder: Builder, parts: list[str], texts: list[int]) -> None:
    """Add the output: counts, or whether there are any, times weights, at the places the model gives n-grams."""
    mode, places = attribute(node, "mode"), attribute(node, "ngram_indexes")
    counts = builder.add("Concat", parts, axis=1)
    if mode == "IDF":
        some = builder.add("Greater", [counts, builder.constant(np.asarray(0, dtype=np.float32))])
        counts = builder.add("Cast", [some], to=onnx.TensorProto.FLOAT)
    weights = attribute(node, "weights") if mode != "TF" else None
    matrix = np.zeros((len(places), max(places) + 1), dtype=np.float32)
    matrix[np.arange(len(places)), places] = weights or 1.0
    product = builder.add("MatMul", [counts, builder.constant(matrix)])
    builder.add("Reshape", [product, builder.constant([*texts, matrix.shape[1]])], node.output)
