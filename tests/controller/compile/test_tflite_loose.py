"""What the converter leaves loose in a file, which runtimes bear and the quantiser does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

from edgefleet_controller.compile.tflite import convert, flatbuffer, floating, lost, quantise

GENERATOR = np.random.default_rng(0)


def model(signature: str, nodes: str, weights: dict[str, Any]) -> onnx.ModelProto:
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {signature} {{ {nodes} }}')
    for name, value in weights.items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return onnx.shape_inference.infer_shapes(made)


def floats(*shape: int) -> Any:
    return GENERATOR.normal(size=shape).astype(np.float32)


def gru() -> onnx.ModelProto:
    """Return `x` f32[3, 1, 4] → GRU, its last state → `y` f32[1, 1, 5]."""
    return model(
        "(float[3, 1, 4] x) => (float[1, 1, 5] y)",
        "all, y = GRU <hidden_size = 5, linear_before_reset = 1> (x, w, r, b)",
        {"w": floats(1, 15, 4), "r": floats(1, 15, 5), "b": floats(1, 30)},
    )


def test_a_recurrent_net_begins_with_zeros_and_holds_nothing_that_nobody_reads() -> None:
    feeds = [{"x": floats(3, 1, 4)} for _ in range(4)]
    made = floating.make(gru(), feeds)
    graph = flatbuffer.read(made.data).subgraphs[0]
    assert not any(tensor.isVariable for tensor in graph.tensors)
    assert lost._unread(graph, graph.operators) is None
    assert quantise.static(made.data, [made.feed(feed) for feed in feeds], activation_bits=8).files


def test_a_reshape_to_a_scalar_becomes_a_squeeze() -> None:
    source = model(
        "(float[1, 4] x) => (float y)",
        "a = MatMul (x, w) s = Constant <value = int64[0] {}> () b = Reshape (a, s) y = Relu (b)",
        {"w": floats(4, 1)},
    )
    data = convert.to_tflite(source, ("x",))
    kinds = {flatbuffer.operator_type(m, op) for m in [flatbuffer.read(data)] for op in m.subgraphs[0].operators}
    made = lost.without_loose_ends(data)
    after = {flatbuffer.operator_type(m, op) for m in [flatbuffer.read(made)] for op in m.subgraphs[0].operators}
    assert not any(lost._is_to_scalar(m, op) for m in [flatbuffer.read(made)] for op in m.subgraphs[0].operators)
    assert "SQUEEZE" in after - kinds


def test_a_scatter_that_adds_has_integers_too() -> None:
    source = model(
        "(float[4, 3] x) => (float[4, 3] y)",
        'a = MatMul (x, w) y = ScatterElements <axis = 0, reduction = "add"> (x, rows, a)',
        {"w": floats(3, 3), "rows": np.asarray([[0, 0, 0], [2, 2, 2], [1, 1, 1], [2, 2, 2]])},
    )
    source.opset_import[0].version = 18
    feeds = [{"x": floats(4, 3)} for _ in range(4)]
    made = floating.make(source, feeds)
    assert quantise.static(made.data, [made.feed(feed) for feed in feeds], activation_bits=8).files
