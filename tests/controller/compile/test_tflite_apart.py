"""Integer files of graphs whose outputs are read inside, and files that would be called what they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ort.session import Session
from edgefleet_controller.compile.tflite import apart, flatbuffer, target
from edgefleet_controller.compile.tflite.interpreter import Interpreter


def drawn(quantised: Any, *shape: int, seed: int = 3) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def two_heads(quantised: Any) -> Any:
    """Return `x` f32[1, 16] → `features` f32[1, 12], `logits` f32[1, 5] and `prob`, each made of the one before."""
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["dense"], name="dense"),
        helper.make_node("Relu", ["dense"], ["features"], name="features"),
        helper.make_node("Gemm", ["features", "w1", "b1"], ["logits"], name="logits"),
        helper.make_node("Softmax", ["logits"], ["prob"], name="prob", axis=1),
    ]
    weights = [
        quantised.tensor("w0", drawn(quantised, 16, 12) * 0.5),
        quantised.tensor("b0", np.zeros(12)),
        quantised.tensor("w1", drawn(quantised, 12, 5, seed=4)),
        quantised.tensor("b1", np.zeros(5)),
    ]
    outputs = {"features": [1, 12], "logits": [1, 5], "prob": [1, 5]}
    return quantised.model_of(nodes, {"x": [1, 16]}, outputs, weights)


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_outputs_that_the_graph_reads_too_are_quantised_rightly_under_their_names(
    quantised: Any, tmp_path: Path, precision: str
) -> None:
    model, arrays = two_heads(quantised), {"x": drawn(quantised, 128, 16, seed=5)}
    request = quantised.request_for(tmp_path, model, f"tflite/cpu/{precision}", arrays)
    answer = target.build(request)
    assert [each.name for each in answer.outputs] == ["features", "logits", "prob"]
    file = Interpreter(Path(request.out).read_bytes())
    feed = {file.inputs[0].name: arrays["x"][:1]}
    wanted = dict(
        zip(("features", "logits", "prob"), Session(model.SerializeToString()).run({"x": arrays["x"][:1]}), strict=True)
    )
    got = dict(zip((port.name for port in file.outputs), file.run(feed), strict=True))
    for name, each in wanted.items():
        place = answer.output_map[name].name if name in answer.output_map else name
        assert np.abs(got[place] - each).max() < 0.05 * np.ptp(each), name


def test_a_file_whose_outputs_nothing_reads_stays_as_it_is(quantised: Any, tmp_path: Path) -> None:
    model, arrays = two_heads(quantised), {"x": drawn(quantised, 8, 16)}
    request = quantised.request_for(tmp_path, model, "tflite/cpu/fp32", arrays)
    target.build(request)
    data = Path(request.out).read_bytes()
    once = apart.outputs_apart(data)
    assert once != data
    assert apart.outputs_apart(once) == once
    names = [[flatbuffer.text(each.tensors[place].name) for place in each.outputs]
             for each in (flatbuffer.read(file).subgraphs[0] for file in (data, once))]  # fmt: skip
    assert names[0] == names[1]


def volume(quantised: Any) -> Any:
    """Return a 3-D convolution, of which TFLite has no form but float32."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1] * 6)]
    shape = [1, 2, 4, 4, 4]
    return quantised.model_of(
        nodes, {"x": shape}, {"y": shape}, [quantised.tensor("w", drawn(quantised, 2, 2, 3, 3, 3))]
    )


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("tflite/xnnpack/fp16", "halves the weights of"),
        ("tflite/xnnpack/int8", "integer form"),
        ("tflite/edgetpu/int8", "integer form"),
    ],
)
def test_a_file_that_would_stay_float32_is_not_called_anything_else(
    quantised: Any, tmp_path: Path, variant: str, said: str
) -> None:
    request = quantised.request_for(tmp_path, volume(quantised), variant, {"x": drawn(quantised, 8, 2, 4, 4, 4)})
    with pytest.raises(CompileFaultError, match=said) as caught:
        target.build(request)
    assert caught.value.family == "unsupported"


def test_a_file_of_which_the_edge_tpu_runs_nothing_is_refused_with_the_first_reason(
    quantised: Any, tmp_path: Path
) -> None:
    nodes = [helper.make_node("MatMul", ["x", "y"], ["z"], name="product")]
    model = quantised.model_of(nodes, {"x": [1, 4, 8], "y": [1, 8, 4]}, {"z": [1, 4, 4]}, [])
    arrays = {"x": drawn(quantised, 16, 4, 8), "y": drawn(quantised, 16, 8, 4, seed=6)}
    request = quantised.request_for(tmp_path, model, "tflite/edgetpu/int8", arrays)
    with pytest.raises(
        CompileFaultError, match=r"none of its \d operators runs on the Edge TPU; the first, BATCH_MATMUL"
    ):
        target.build(request)
