"""What ONNX Runtime's optimiser fuses in transformers is taken apart into the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.rewrite import library
from edgefleet_controller.compile.tflite import floating
from edgefleet_controller.compile.tflite.interpreter import Interpreter

WIDTH = 6
SHAPE = (2, 3, WIDTH)
MODELS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], dict[str, Any]]] = {
    "gelu": ("Gelu", ("x",), ("y",), {}),
    "gelu of a sum": ("BiasGelu", ("x", "b"), ("y",), {}),
    "gelu by tanh": ("FastGelu", ("x", "b"), ("y",), {}),
    "gelu by tanh, alone": ("FastGelu", ("x",), ("y",), {}),
    "gelu by sigmoid": ("QuickGelu", ("x",), ("y",), {"alpha": 1.5}),
    "norm of a sum": ("SkipLayerNormalization", ("x", "s", "g", "c"), ("y",), {"epsilon": 1e-5}),
    "norm of three, and their sum": ("SkipLayerNormalization", ("x", "s", "g", "c", "b"), ("y", "", "", "z"), {}),
    "root mean square": ("SkipSimplifiedLayerNormalization", ("x", "s", "g"), ("y",), {"epsilon": 1e-5}),
    "root mean square of three": ("SkipSimplifiedLayerNormalization", ("x", "s", "g", "b"), ("y", "", "", "z"), {}),
    "product": ("FusedMatMul", ("x", "s"), ("y",), {"transB": 1, "alpha": 0.5}),
    "product of turned": ("FusedMatMul", ("x", "s"), ("y",), {"transA": 1, "alpha": 2.0}),
}


def model_of(kind: str, inputs: tuple[str, ...], outputs: tuple[str, ...], options: dict[str, Any]) -> onnx.ModelProto:
    """Return a model of one operator of `x` and skip `s`, gain `g` and biases `b` and `c` constant."""
    generator = np.random.default_rng(3)
    constants = {name: generator.normal(size=WIDTH).astype(np.float32) for name in inputs if name in "gbc"}
    graph = helper.make_graph(
        [helper.make_node(kind, list(inputs), list(outputs), domain="com.microsoft", **options)],
        "one",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in inputs if name in "xs"],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs if name],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def feeds_of(model: onnx.ModelProto, factor: float = 1.0) -> dict[str, Any]:
    generator = np.random.default_rng(4)
    shapes = ((value.name, SHAPE) for value in model.graph.input)
    return {name: (generator.normal(size=shape) * factor).astype(np.float32) for name, shape in shapes}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_fused_operator_is_taken_apart_into_the_same_numbers(name: str) -> None:
    model = model_of(*MODELS[name])
    rewritten, names = library.apply(model, ())
    assert names == ("fused-taken-apart",)
    assert {node.domain for node in rewritten.graph.node} == {""}
    for factor in (0.1, 1.0, 10.0):
        feeds = feeds_of(model, factor)
        before, after = (session.Session(each.SerializeToString()).run(feeds) for each in (model, rewritten))
        for ours, theirs in zip(before, after, strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=2e-5, atol=2e-6)


def test_a_fused_operator_becomes_a_tflite_file() -> None:
    model = model_of(*MODELS["norm of three, and their sum"])
    feeds = [feeds_of(model, factor) for factor in (1.0, 2.0)]
    made = floating.make(model, feeds)
    assert "fused-taken-apart" in made.rewrites
    wanted = session.Session(model.SerializeToString()).run(feeds[1])
    got = made.run_all(Interpreter(made.data), feeds[1:])[0]
    for ours, theirs in zip(wanted, got.values(), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)
