"""Weights fitted to their grid: less noise at the outputs than the nearest levels leave, and the same grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgefleet_controller.compile.quantise import calibrate, rounding


def inputs(seed: int) -> Any:
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(8, 48))
    return generator.normal(size=(600, 8)) @ mixing + 0.1 * generator.normal(size=(600, 48))


@pytest.mark.parametrize("limit", [64, 127])
def test_channels_that_go_together_take_back_what_rounding_did(limit: int) -> None:
    weight = np.random.default_rng(0).normal(size=(48, 20)).astype(np.float32)
    step = np.abs(weight).max(axis=0) / limit
    made = rounding.round_rows(weight, inputs(1).T @ inputs(1), limit)
    nearest = np.rint(weight / step) * step
    unseen = inputs(2)
    noise = [float(np.sum((unseen @ (each - weight)) ** 2)) for each in (made, nearest)]
    assert noise[0] < noise[1] / 10
    levels = made / step
    assert np.allclose(levels, np.rint(levels), atol=1e-3)
    assert np.allclose(np.abs(made).max(axis=0), np.abs(weight).max(axis=0))


def test_layers_in_float_get_their_exact_weights_back(quantised: Any) -> None:
    generator = np.random.default_rng(0)
    weights = {name: generator.normal(size=(6, 6)).astype(np.float32) for name in ("v", "w")}
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "v"], ["h"], name="first"),
        onnx.helper.make_node("MatMul", ["h", "w"], ["y"], name="second"),
    ]
    tensors = [quantised.tensor(name, values) for name, values in weights.items()]
    model = quantised.model_of(nodes, {"x": ["n", 6]}, {"y": ["n", 6]}, tensors)
    feeds = [{"x": generator.normal(size=(4, 6)).astype(np.float32)} for _ in range(8)]
    made = rounding.fitted(model, rounding.second_moments(model, feeds), 64)
    back = rounding.restored(made.model, made.exact, {"second"})
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in back.graph.initializer}
    assert np.array_equal(held["w"], weights["w"])
    assert not np.array_equal(held["v"], weights["v"])


def test_names_the_runtime_made_up_are_made_up_anew() -> None:
    nodes = [
        onnx.helper.make_node("Reshape", ["x", "gemm_shape_token_0"], ["gemm_token_1"]),
        onnx.helper.make_node("Relu", ["gemm_token_1"], ["y"]),
    ]
    shape = numpy_helper.from_array(np.asarray([-1, 3]), "gemm_shape_token_0")
    edges = [onnx.helper.make_tensor_value_info(name, 1, [None, 3]) for name in ("x", "y")]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", edges[:1], edges[1:], [shape]))
    calibrate._rename_made(model, {"x", "y"})
    onnx.checker.check_model(model)
    names = {name for node in model.graph.node for name in (*node.input, *node.output)}
    assert {"x", "y"} < names
    assert not any("token" in name for name in names)
