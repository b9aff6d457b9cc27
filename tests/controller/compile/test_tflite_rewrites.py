"""Each rewrite computes what it replaces: source against rewritten through ONNX Runtime, on random and edge values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.rewrite import functions, library
from edgefleet_controller.compile.tflite import floating, source

GENERATOR = np.random.default_rng(5)
F32 = TensorProto.FLOAT


def weights(*shape: int) -> Any:
    return (GENERATOR.normal(size=shape) * 0.5).astype(np.float32)


def one(
    kind: str,
    shape: tuple[int, ...],
    constants: Mapping[str, Any] | None = None,
    outputs: int = 1,
    opset: int = 17,
    dtype: int = F32,
    inputs: tuple[str, ...] = (),
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one node: `x` of `shape`, then constants; `inputs` names all where some are left out."""
    given = constants or {}
    names = [f"y{place}" for place in range(outputs)]
    node = helper.make_node(kind, list(inputs or ("x", *given)), names, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [onnx.ValueInfoProto(name=name) for name in names],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in given.items()],
    )
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    )


def scan_of_sums() -> onnx.ModelProto:
    """Return a Scan that adds up `x` [4, 3] and gives every partial sum."""
    vector = [helper.make_tensor_value_info(name, F32, (3,)) for name in ("sum", "row", "next", "partial")]
    body = helper.make_graph(
        [helper.make_node("Add", ["sum", "row"], ["next"]), helper.make_node("Identity", ["next"], ["partial"])],
        "body",
        vector[:2],
        vector[2:],
    )
    return one(
        "Scan",
        (4, 3),
        {"start": np.zeros(3, np.float32)},
        outputs=2,
        inputs=("start", "x"),
        body=body,
        num_scan_inputs=1,
    )


def recurrent(kind: str, gates: int, **attributes: Any) -> onnx.ModelProto:
    ways = 2 if attributes.get("direction") == "bidirectional" else 1
    constants = {"W": weights(ways, gates * 4, 3), "R": weights(ways, gates * 4, 4), "B": weights(ways, 2 * gates * 4)}
    return one(kind, (5, 2, 3), constants, outputs=3 if kind == "LSTM" else 2, hidden_size=4, **attributes)


IMAGE = (1, 2, 9, 7)
CASES: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "average pool, dilated": lambda: one("AveragePool", IMAGE, opset=19, kernel_shape=[2, 3], dilations=[2, 2]),
    "average pool, padded": lambda: one(
        "AveragePool", IMAGE, opset=19, kernel_shape=[3, 3], dilations=[2, 1], pads=[1, 1, 1, 1], ceil_mode=1
    ),
    "average pool, counting pads": lambda: one(
        "AveragePool", IMAGE, opset=19, kernel_shape=[3, 3], pads=[1, 0, 1, 2], strides=[2, 2], count_include_pad=1
    ),
    "max pool, dilated": lambda: one("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[3, 2], pads=[1, 0, 1, 0]),
    "Lp pool of order 3": lambda: one("LpPool", IMAGE, kernel_shape=[2, 2], strides=[2, 1], p=3),
    "Lp pool, same": lambda: one("LpPool", IMAGE, kernel_shape=[2, 2], auto_pad="SAME_LOWER"),
    "conv, same lower": lambda: one("Conv", IMAGE, {"w": weights(3, 2, 2, 4)}, auto_pad="SAME_LOWER", strides=[2, 1]),
    "L1 normalisation": lambda: one("LpNormalization", (3, 4), p=1, axis=1),
    "L2 normalisation": lambda: one("LpNormalization", (3, 4), p=2, axis=0),
    "one-hot": lambda: one(
        "OneHot",
        (2, 3),
        {"depth": np.int64(4), "values": np.asarray([2, 5], np.float32)},
        dtype=TensorProto.INT64,
        axis=1,
    ),
    "pad of one axis": lambda: one(
        "Pad", IMAGE, {"pads": np.asarray([1, 2]), "value": np.float32(3), "axes": np.asarray([-1])}, opset=18
    ),
    "max of one": lambda: one("Max", (3, 4)),
    "any of booleans": lambda: one("ReduceMax", (3, 4), {"axes": np.asarray([1])}, opset=20, dtype=TensorProto.BOOL),
    "batch statistics": lambda: one(
        "BatchNormalization",
        IMAGE,
        {name: np.abs(weights(2)) for name in ("scale", "bias", "mean", "var")},
        outputs=3,
        training_mode=1,
    ),
    "resize, cubic": lambda: one(
        "Resize", (1, 1, 4, 5), {"sizes": np.asarray([1, 1, 7, 3])}, inputs=("x", "", "", "sizes"), mode="cubic"
    ),
    "resize, antialiased": lambda: one(
        "Resize",
        (1, 1, 8, 8),
        {"scales": np.asarray([1, 1, 0.4, 0.6], np.float32)},
        inputs=("x", "", "scales"),
        opset=18,
        mode="linear",
        antialias=1,
    ),
    "resize, nearest from the corner": lambda: one(
        "Resize",
        (1, 1, 4, 4),
        {"sizes": np.asarray([1, 1, 9, 6])},
        inputs=("x", "", "", "sizes"),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="ceil",
    ),
    "LSTM": lambda: recurrent("LSTM", 4),
    "LSTM, both ways": lambda: recurrent("LSTM", 4, direction="bidirectional"),
    "GRU, reversed": lambda: recurrent("GRU", 3, direction="reverse"),
    "GRU, reset after": lambda: recurrent("GRU", 3, linear_before_reset=1),
    "RNN": lambda: recurrent("RNN", 1),
    "scan": scan_of_sums,
}
INTEGER_CASES: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "spatial mean": lambda: one("ReduceMean", IMAGE, axes=[2, 3], keepdims=0),
    "spatial mean, kept": lambda: one("ReduceMean", IMAGE, axes=[-1, -2]),
    "constant product": lambda: one("MatMul", (2, 3, 4), {"w": weights(4, 5)}),
}
EDGES = np.asarray([0.0, -0.0, 1.0, -1.0, 6.0, -6.0, 1e-6, -1e-6, 30.0, -30.0], dtype=np.float32)


def feeds_of(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """Return inputs of random values, of edge values, and of zeros."""
    value = model.graph.input[0].type.tensor_type
    shape = [dim.dim_value for dim in value.shape.dim]
    size = int(np.prod(shape))
    if value.elem_type == TensorProto.INT64:
        return [{"x": GENERATOR.integers(-4, 4, size=shape)}]
    if value.elem_type == TensorProto.BOOL:
        return [{"x": GENERATOR.integers(0, 2, size=shape).astype(bool)}, {"x": np.zeros(shape, bool)}]
    arrays = (GENERATOR.normal(size=shape), np.resize(EDGES, size).reshape(shape), np.zeros(shape))
    return [{"x": np.asarray(array, dtype=np.float32)} for array in arrays]


def require_same(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    left, right = (session.Session(model.SerializeToString()) for model in (before, after))
    assert left.output_names == right.output_names
    for feed in feeds_of(before):
        for ours, theirs in zip(left.run(feed), right.run(feed), strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", list(CASES))
def test_a_rewrite_computes_what_it_replaces(name: str) -> None:
    model = CASES[name]()
    rewritten, names = library.apply(model, ())
    assert len(names) == 1
    require_same(model, rewritten)


@pytest.mark.parametrize("name", list(INTEGER_CASES))
def test_a_rewrite_for_integers_computes_what_it_replaces(name: str) -> None:
    model = INTEGER_CASES[name]()
    rewritten, names = library.apply(model, (), library.INTEGER_RULES)
    assert len(names) == 1
    require_same(model, rewritten)


@pytest.mark.parametrize(
    "model",
    [
        one("Elu", (3, 4), alpha=2.5),
        one("Gelu", (3, 4), opset=20),
        one("HardSwish", (3, 4)),
        one("LayerNormalization", (3, 4), {"scale": weights(4), "bias": weights(4)}),
        one("RMSNormalization", (3, 4), {"scale": weights(4)}, opset=23),
        one("GroupNormalization", IMAGE, {"scale": weights(2), "bias": weights(2)}, opset=21, num_groups=2),
        one("Mish", (3, 4), opset=18),
    ],
    ids=lambda model: str(model.graph.node[0].op_type),
)
def test_the_standards_own_body_computes_what_the_operator_does(model: onnx.ModelProto) -> None:
    kind = model.graph.node[0].op_type
    inlined, replaced_n = functions.apply(model)
    assert replaced_n == 1
    assert kind not in {node.op_type for node in inlined.graph.node}
    require_same(model, source.folded(inlined))


def test_rules_leave_alone_what_they_do_not_know() -> None:
    for model in (
        one("MaxPool", IMAGE, outputs=2, kernel_shape=[2, 2]),  # its second output is the indices
        one("Max", (3, 4), {"other": weights(3, 4)}),
    ):
        same, names = library.apply(model, ())
        assert (same is model, names) == (True, ())


def test_only_what_was_asked_for_is_rewritten() -> None:
    model = CASES["L1 normalisation"]()
    assert library.apply(model, ["Conv"])[1] == ()
    assert library.apply(model, ["LpNormalization"])[1] == ("lp-normalization-decomposed",)


@pytest.mark.parametrize("sizes", [(8, 8, 8), (8, 6, 8), (6, 8, 8)])
def test_a_slice_behind_a_transpose_is_right_where_channels_are_as_many_as_rows_or_columns(
    sizes: tuple[int, int, int],
) -> None:
    rows, columns, channels = sizes
    generator = np.random.default_rng(0)
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3, {rows}, {columns}] x) => (float r) {{'
        " y = Conv <pads = [1, 1, 1, 1]> (x, w) z = Transpose <perm = [0, 2, 3, 1]> (y)"
        " a = Slice (z, one, end, one) b = Slice (z, zero, one, one) r = Concat <axis = 1> (a, b) }"
    )
    model.graph.output[0].type.CopyFrom(
        helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, [1, rows, columns, channels]).type
    )
    weights = {"w": generator.normal(size=(channels, 3, 3, 3)).astype(np.float32)}
    weights |= {name: np.asarray([value]) for name, value in (("one", 1), ("zero", 0), ("end", rows))}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    feeds = [{"x": generator.normal(size=(1, 3, rows, columns)).astype(np.float32)} for _ in range(2)]
    made = floating.make(model, feeds)
    assert made.rewrites == ("slice-gathered x2",)
