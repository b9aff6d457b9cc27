"""Inputs and outputs without axes stay so in TFLite files, in every precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_contract.artifact import TensorMap
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.tflite import floating, quantise
from edgefleet_controller.compile.tflite.floating import FloatFile
from edgefleet_controller.compile.tflite.interpreter import Interpreter

GENERATOR = np.random.default_rng(0)
WEIGHTS = GENERATOR.normal(size=(8, 16)).astype(np.float32)
FEEDS = [
    {"x": GENERATOR.normal(size=(4, 8)).astype(np.float32), "gain": np.asarray(gain, dtype=np.float32)}
    for gain in np.linspace(0.5, 2.0, 8)
]


def loudness() -> onnx.ModelProto:
    """Return `x` f32[4, 8], `gain` f32[] → Gemm, times gain, Relu, mean of all → `y` f32[]."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "gain"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("ReduceMean", ["c"], ["y"], keepdims=0),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", (4, 8)), ("gain", ()), ("y", ()))
    ]
    graph = helper.make_graph(nodes, "loudness", values[:2], values[2:], [numpy_helper.from_array(WEIGHTS, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def made() -> FloatFile:
    return floating.make(loudness(), FEEDS)


def outputs(made: FloatFile, data: bytes) -> Any:
    return [run["y"] for run in made.run_all(Interpreter(data), FEEDS)]


def test_a_scalar_has_no_axis_and_the_names_are_the_sources(made: FloatFile) -> None:
    interpreter = Interpreter(made.data)
    assert {port.name: port.shape for port in interpreter.inputs} == {"x": (4, 8), "gain": ()}
    assert [(port.name, port.shape) for port in interpreter.outputs] == [("y", ())]
    assert made.inputs["gain"] == TensorMap(name="gain")
    assert made.outputs["y"] == TensorMap(name="y")
    source = session.Session(loudness().SerializeToString())
    np.testing.assert_allclose(outputs(made, made.data), [source.run(feed)[0] for feed in FEEDS], rtol=1e-5)


def test_every_precision_keeps_scalars(made: FloatFile) -> None:
    wanted = outputs(made, made.data)
    calibration = [made.feed(feed) for feed in FEEDS]
    files = {
        "fp16": quantise.fp16(made.data),
        "int8-dynamic": quantise.int8_dynamic(made.data),
        **{
            f"int{bits}": quantise.static(made.data, calibration, activation_bits=bits, float_sums=False).files[
                "minmax"
            ]
            for bits in (8, 16)
        },
    }
    for data in files.values():
        got = outputs(made, data)
        assert {value.shape for value in got} == {()}
        np.testing.assert_allclose(got, wanted, rtol=0.05)
