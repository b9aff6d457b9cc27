"""Outputs that nothing computes: inputs given back, weights and constants, in precisions that change the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ort import target as ort
from edgefleet_controller.compile.ort.session import Session
from edgefleet_controller.compile.tensorrt import target as trt

OUTPUTS = {"y": ["n", 16], "x": ["n", 16], "w": [16, 16], "k": [2]}


def model(quantised: Any, outputs: dict[str, Any]) -> onnx.ModelProto:
    """Return x f32[n, 16] → y = x · w, with x, the weight w and a constant of a node as outputs too."""
    nodes = [
        helper.make_node("Constant", [], ["k"], value_floats=[1.5, 2.5]),
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Relu", ["product"], ["y"]),
    ]
    weights = [quantised.tensor("w", np.random.default_rng(3).normal(size=(16, 16)))]
    return quantised.model_of(nodes, {"x": ["n", 16]}, outputs, weights)  # type: ignore[no-any-return]


@pytest.mark.parametrize("variant", ["ort/cpu/fp16", "ort/cpu/int8", "ort/cpu/int8-dynamic", "tensorrt/gpu/int8"])
def test_they_stay_as_they_are_and_where_they_are(quantised: Any, tmp_path: Path, variant: str) -> None:
    source = model(quantised, OUTPUTS)
    samples = np.random.default_rng(0).normal(size=(24, 16)).astype(np.float32)
    build = trt.build if variant.startswith("tensorrt") else ort.build
    build(quantised.request_for(tmp_path, source, variant, {"x": samples}))
    made = onnx.load(tmp_path / "out.onnx")
    assert [value.name for value in made.graph.output] == list(OUTPUTS)
    assert any(tensor.data_type != TensorProto.FLOAT for tensor in made.graph.initializer)
    feed = {"x": samples[:1]}
    wanted, got = (Session(each.SerializeToString()).run(feed) for each in (source, made))
    for ours, theirs in zip(wanted[1:], got[1:], strict=True):
        np.testing.assert_array_equal(theirs, ours)
    np.testing.assert_allclose(got[0], wanted[0], atol=0.5)


def test_a_model_of_nothing_else_is_refused_for_that(quantised: Any, tmp_path: Path) -> None:
    source = model(quantised, {"x": ["n", 16], "w": [16, 16]})
    samples = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    with pytest.raises(CompileFaultError, match="every output is an input or a constant"):
        ort.build(quantised.request_for(tmp_path, source, "ort/cpu/fp16", {"x": samples}))
