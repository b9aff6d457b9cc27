"""Sources in float16 are built for targets and quantisers that know float32 alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_controller.compile import npz
from edgefleet_controller.compile.__main__ import handle
from edgefleet_controller.compile.graph import halves
from edgefleet_controller.compile.ingest import onnx_check
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest
from edgefleet_controller.compile.tflite.interpreter import Interpreter

Ask = Callable[[onnx.ModelProto, str], BuildRequest]


def convolution(dtype: int = TensorProto.FLOAT16) -> onnx.ModelProto:
    """A convolution and a product in float16, with inputs and outputs of this type."""
    generator = np.random.default_rng(7)
    edges = [
        helper.make_tensor_value_info("x", dtype, [1, 3, 8, 8]),
        helper.make_tensor_value_info("y", dtype, [1, 16]),
    ]
    weights = {"w": (8, 3, 3, 3), "p": (8, 16)}
    half = dtype == TensorProto.FLOAT16
    first, last = ("x", "y") if half else ("x_half", "y_half")
    nodes = [
        helper.make_node("Conv", [first, "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "p"], [last]),
    ]
    if not half:
        nodes = [helper.make_node("Cast", ["x"], [first], to=TensorProto.FLOAT16), *nodes]
        nodes += [helper.make_node("Cast", [last], ["y"], to=TensorProto.FLOAT)]
    initializers = [
        numpy_helper.from_array(generator.normal(size=shape).astype(np.float16), name)
        for name, shape in weights.items()
    ]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    def request(model: onnx.ModelProto, variant: str) -> BuildRequest:
        dtype = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
        samples = {"x": np.random.default_rng(3).normal(size=(16, 3, 8, 8)).astype(dtype)}
        onnx.save(model, tmp_path / "m.onnx")
        for name in ("samples.npz", "calibration.npz"):
            npz.write(tmp_path / name, samples)
        paths = {"source": "m.onnx", "samples": "samples.npz", "calibration": "calibration.npz", "out": "out"}
        files = {key: str(tmp_path / name) for key, name in paths.items()}
        return BuildRequest(model="tiny", variant=variant, work_dir=str(tmp_path), **files)

    return request


def built(asked: BuildRequest) -> BuildAnswer:
    return BuildAnswer.model_validate_json(handle(asked.model_dump_json().encode()))


def halves_in(path: str) -> set[str]:
    model = onnx.load(path)
    return {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}


@pytest.mark.parametrize(("precision", "min_db"), [("fp32", 60.0), ("int8", 25.0), ("int8-dynamic", 25.0)])
def test_an_onnx_file_keeps_the_edges_and_computes_in_float32(ask: Ask, precision: str, min_db: float) -> None:
    asked = ask(convolution(), f"ort/cpu/{precision}")
    answer = built(asked)
    assert [spec.dtype for spec in (*answer.inputs, *answer.outputs)] == ["float16", "float16"]
    assert answer.rewrites[0] == halves.NAME
    assert not halves_in(asked.out)
    feed = {"x": npz.read(Path(asked.samples))["x"][:1]}
    wanted, got = (session.Session(Path(path)).run(feed) for path in (asked.source, asked.out))
    assert got[0].dtype == np.float16
    assert session.sqnr_db(wanted, got) >= min_db


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.FLOAT])
def test_a_tflite_file_takes_float32_and_says_so(ask: Ask, dtype: int) -> None:
    asked = ask(convolution(dtype), "tflite/xnnpack/fp32")
    answer = built(asked)
    assert [spec.dtype for spec in (*answer.inputs, *answer.outputs)] == ["float32", "float32"]
    feed = {"x": npz.read(Path(asked.samples))["x"][:1]}
    wanted = session.Session(Path(asked.source)).run(feed)
    file = Interpreter(Path(asked.out).read_bytes())
    image = feed["x"].astype(np.float32).transpose(answer.input_map["x"].axes)
    assert session.sqnr_db(wanted, file.run({file.inputs[0].name: image})) >= 60


@pytest.mark.parametrize("variant", ["ort/cpu/fp16", "tensorrt/gpu/fp16"])
def test_half_precision_is_built_of_the_source_itself(ask: Ask, variant: str) -> None:
    asked = ask(convolution(), variant)
    assert halves.widened(asked) is asked


def test_an_input_given_back_and_names_taken_already_stand_it(ask: Ask) -> None:
    model = convolution()
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "x_float32"
    model.graph.output.append(model.graph.input[0])
    asked = ask(model, "ort/cpu/fp32")
    built(asked)
    feed = {"x": npz.read(Path(asked.samples))["x"][:1]}
    _, same = session.Session(Path(asked.out)).run(feed)
    assert np.array_equal(same, feed["x"])


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.FLOAT])
def test_no_artifact_is_held_to_more_than_such_a_source_gives(dtype: int) -> None:
    assert onnx_check.rounds_to(convolution(dtype)) == "fp16"


def test_weights_that_are_only_stored_as_halves_round_nothing(make_classifier: Any) -> None:
    model = make_classifier()
    weight = model.graph.initializer[0]
    stored = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), "stored")
    name = weight.name
    model.graph.initializer.remove(weight)
    model.graph.initializer.append(stored)
    model.graph.node.insert(0, helper.make_node("Cast", ["stored"], [name], to=TensorProto.FLOAT))
    assert onnx_check.rounds_to(model) is None
