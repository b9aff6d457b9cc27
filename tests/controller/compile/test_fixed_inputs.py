"""Weights that are listed among a source's inputs, as IR version 3 asks for, are constants of every artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgefleet_controller.compile import fixed_inputs, npz
from edgefleet_controller.compile.__main__ import handle
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
    assert fixed_inputs.fixed(asked) is asked
