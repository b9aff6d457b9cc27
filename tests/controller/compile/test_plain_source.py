"""What ONNX Runtime takes in a source and other tools do not is put right before any variant is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgefleet_controller.compile import npz
from edgefleet_controller.compile.__main__ import handle
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph import plain_source
from edgefleet_controller.compile.ingest import onnx_check
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest


def listed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model as IR version 3 writes it: each weight is an input too."""
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.ir_version = 3
    return model


@pytest.fixture
def ask(tmp_path: Path) -> Callable[[onnx.ModelProto, str], BuildRequest]:
    samples = {"x": np.random.default_rng(3).normal(size=(40, 4)).astype(np.float32)}
    for name in ("samples.npz", "calibration.npz"):
        npz.write(tmp_path / name, samples)

    def request(model: onnx.ModelProto, variant: str) -> BuildRequest:
        onnx.save(model, tmp_path / "m.onnx")
        paths = {"source": "m.onnx", "samples": "samples.npz", "calibration": "calibration.npz", "out": "out.onnx"}
        files = {key: str(tmp_path / name) for key, name in paths.items()}
        return BuildRequest(model="tiny", variant=variant, work_dir=str(tmp_path), **files)

    return request


@pytest.mark.parametrize("variant", ["ort/cpu/fp16", "ort/cpu/int8", "ort/cpu/int8-dynamic", "ort/qnn/int8"])
def test_such_weights_are_quantised_as_any_other(ask: Any, make_classifier: Any, variant: str) -> None:
    asked = ask(listed(make_classifier(opset=11)), variant)
    answer = BuildAnswer.model_validate_json(handle(asked.model_dump_json().encode()))
    assert [spec.name for spec in answer.inputs] == ["x"]
    feed = {"x": npz.read(Path(asked.samples))["x"][:1]}
    wanted, got = (onnxruntime.InferenceSession(path).run(None, feed)[0] for path in (asked.source, asked.out))
    np.testing.assert_allclose(got, wanted, atol=0.1)


def test_a_source_that_lists_none_is_taken_as_it_is(ask: Any, make_classifier: Any) -> None:
    asked = ask(make_classifier(), "ort/cpu/fp32")
    assert plain_source.plain(asked) is asked


def test_nodes_in_any_order_are_taken(ask: Any, make_classifier: Any) -> None:
    model = make_classifier()
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    asked = ask(model, "ort/cpu/int8")
    assert [node.name for node in onnx_check.load(Path(asked.source)).graph.node] == ["gemm", "last"]
    BuildAnswer.model_validate_json(handle(asked.model_dump_json().encode()))
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(onnx.load(asked.source))


def test_nodes_that_wait_for_each_other_are_named(ask: Any, make_classifier: Any) -> None:
    model = make_classifier()
    model.graph.node[0].input[0] = "logits"
    with pytest.raises(CompileFaultError, match="wait for each other, among them gemm"):
        onnx_check.load(Path(ask(model, "ort/cpu/fp32").source))


@pytest.mark.parametrize("variant", ["ort/cpu/int8", "ort/cpu/fp16", "tensorrt/gpu/fp16", "tflite/xnnpack/fp32"])
def test_functions_of_the_model_itself_are_replaced_by_their_bodies(
    ask: Any, make_classifier: Any, variant: str
) -> None:
    model = make_classifier()
    body = [onnx.helper.make_node("Sigmoid", ["v"], ["s"]), onnx.helper.make_node("Mul", ["v", "s"], ["r"])]
    opsets = [onnx.helper.make_opsetid("", 17)]
    model.functions.append(onnx.helper.make_function("own", "Swish", ["v"], ["r"], body, opsets))
    model.opset_import.append(onnx.helper.make_opsetid("own", 1))
    last = model.graph.node[-1]
    given = last.input[0]
    last.input[0] = "swished"
    model.graph.node.insert(
        len(model.graph.node) - 1, onnx.helper.make_node("Swish", [given], ["swished"], domain="own")
    )
    asked = ask(model, variant)
    BuildAnswer.model_validate_json(handle(asked.model_dump_json().encode()))
    assert not onnx.load(plain_source.plain(asked).source).functions
