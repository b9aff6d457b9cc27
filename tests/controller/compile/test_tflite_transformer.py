"""A small vision transformer through the int8 recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxsim
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.quantise.judge import Score
from edgefleet_controller.compile.tflite import floating, quantise, source, target
from edgefleet_controller.compile.tflite.interpreter import Interpreter

DIM, HEADS, DEPTH, SIZE, PATCH, CLASSES = 64, 4, 2, 32, 8, 10
TOKENS = (SIZE // PATCH) ** 2


class Writer:
    """Nodes and weights of a graph, with made-up names."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, values: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def matrix(self, rows: int, columns: int, gain: float = 1.0) -> str:
        values = self.generator.normal(size=(rows, columns)) * gain / np.sqrt(rows)
        return self.constant(values.astype(np.float32))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def norm(self, name: str) -> str:
        scale = 1 + 0.1 * self.generator.normal(size=DIM)
        weights = (self.constant(each.astype(np.float32)) for each in (scale, np.zeros(DIM)))
        return self.op("LayerNormalization", name, *weights, axis=-1)

    def heads(self, name: str) -> str:
        split = self.op("Reshape", name, self.constant(np.asarray([1, TOKENS, HEADS, DIM // HEADS])))
        return self.op("Transpose", split, perm=[0, 2, 1, 3])

    def attention(self, name: str) -> str:
        query, key, value = (self.heads(self.op("MatMul", name, self.matrix(DIM, DIM))) for _ in range(3))
        scores = self.op("MatMul", query, self.op("Transpose", key, perm=[0, 1, 3, 2]))
        scaled = self.op("Mul", scores, self.constant(np.float32((DIM // HEADS) ** -0.5)))
        mixed = self.op("MatMul", self.op("Softmax", scaled, axis=-1), value)
        joined = self.op("Transpose", mixed, perm=[0, 2, 1, 3])
        flat = self.op("Reshape", joined, self.constant(np.asarray([1, TOKENS, DIM])))
        return self.op("MatMul", flat, self.matrix(DIM, DIM, (2 * DEPTH) ** -0.5))

    def feed_forward(self, name: str) -> str:
        wide = self.op("MatMul", name, self.matrix(DIM, 2 * DIM))
        bent = self.op("Erf", self.op("Div", wide, self.constant(np.float32(2**0.5))))
        gate = self.op("Add", bent, self.constant(np.float32(1)))
        gelu = self.op("Mul", self.op("Mul", wide, gate), self.constant(np.float32(0.5)))
        return self.op("MatMul", gelu, self.matrix(2 * DIM, DIM, (2 * DEPTH) ** -0.5))


def transformer(seed: int) -> onnx.ModelProto:
    """Return `image` f32[1, 3, 32, 32] → patches, two blocks, mean, head → `logits` f32[1, 10]."""
    write = Writer(seed)
    kernel = write.constant((write.generator.normal(size=(DIM, 3, PATCH, PATCH)) * 0.07).astype(np.float32))
    patches = write.op("Conv", "image", kernel, kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH])
    flat = write.op("Reshape", patches, write.constant(np.asarray([1, DIM, TOKENS])))
    tokens = write.op("Transpose", flat, perm=[0, 2, 1])
    places = write.constant((write.generator.normal(size=(1, TOKENS, DIM)) * 0.3).astype(np.float32))
    stream = write.op("Add", tokens, places)
    for _ in range(DEPTH):
        stream = write.op("Add", stream, write.attention(write.norm(stream)))
        stream = write.op("Add", stream, write.feed_forward(write.norm(stream)))
    pooled = write.op("ReduceMean", write.norm(stream), axes=[1], keepdims=0)
    write.nodes.append(helper.make_node("MatMul", [pooled, write.matrix(DIM, CLASSES)], ["logits"]))
    edges = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("image", (1, 3, SIZE, SIZE)), ("logits", (1, CLASSES)))
    ]
    graph = helper.make_graph(write.nodes, "vit", edges[0], edges[1], write.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_int8_transformer_keeps_30_db(seed: int) -> None:
    generator = np.random.default_rng(7)
    coarse = generator.normal(size=(48, 3, 8, 8)).astype(np.float32)
    images = np.repeat(np.repeat(coarse, 4, axis=2), 4, axis=3)
    images += 0.2 * generator.normal(size=images.shape).astype(np.float32)
    feeds = [{"image": image[None]} for image in images]
    model = transformer(seed)
    made = floating.make(model, feeds[:32], for_integers=True)
    files = quantise.static(
        made.data, [made.feed(feed) for feed in feeds[:32]], activation_bits=8, float_sums=True
    ).files
    held_out = feeds[32:]
    wanted = session.Session(model.SerializeToString()).run_all(held_out)

    def sqnr_db(data: bytes) -> float:
        runs = made.run_all(Interpreter(data), held_out)
        return session.sqnr_db(wanted, [np.stack([run["logits"] for run in runs])])

    assert sqnr_db(made.data) > 100
    assert sqnr_db(files["minmax-products"]) > max(30.0, sqnr_db(files["minmax"]))
    assert sqnr_db(files["minmax-layers"]) > sqnr_db(files["minmax-products"])
    assert sqnr_db(files["layers-as-they-come"]) > sqnr_db(files["minmax-layers"])


def test_a_file_that_rounds_at_run_time_is_taken_only_where_no_other_is_exact_enough() -> None:
    def score(sqnr_db: float) -> Score:
        return Score(sqnr_db, sqnr_db, None, None, 0.0, 64)

    late = quantise.AS_THEY_COME
    assert target._best({"minmax": score(25.0), "minmax-layers": score(31.0), late: score(34.0)}) == "minmax-layers"
    assert target._best({"minmax": score(25.0), "minmax-layers": score(29.0), late: score(34.0)}) == late
    assert target._best({late: score(20.0)}) == late


def test_products_the_simplifier_would_fuse_beyond_the_converter_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxsim.simplify

    def fusing(model: onnx.ModelProto, *, perform_optimization: bool, **options: Any) -> tuple[onnx.ModelProto, bool]:
        made, same = real(model, perform_optimization=perform_optimization, **options)
        if perform_optimization:
            next(node for node in made.graph.node if node.op_type == "Softmax").op_type = "Attention"
        return made, same

    monkeypatch.setattr(onnxsim, "simplify", fusing)
    kinds = {node.op_type for node in source.simplify(transformer(0)).graph.node}
    assert "Softmax" in kinds
    assert "Attention" not in kinds
