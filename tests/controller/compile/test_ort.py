"""The `ort/cpu` target: what its quantised models hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_contract.options import provider_problem
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.ort import target as ort
from edgefleet_controller.compile.ort.engines import provider_options
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest

Build = Callable[[onnx.ModelProto, str], tuple[onnx.ModelProto, BuildAnswer]]


def convolutions() -> onnx.ModelProto:
    """Return `image` f32[n, 4, 8, 8] → depthwise Conv → 1×1 Conv → `y`."""
    generator = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(generator.normal(size=shape).astype(np.float32), name)
        for name, shape in (("depthwise", (4, 1, 3, 3)), ("pointwise", (6, 4, 1, 1)))
    ]
    nodes = [
        helper.make_node("Conv", ["image", "depthwise"], ["middle"], name="a", group=4, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["middle", "pointwise"], ["y"], name="b"),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6, 8, 8])],
        weights,
        doc_string="notes",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], doc_string="more notes")
    model.ir_version = 8
    helper.set_model_props(model, {"exported": "today"})
    return model


@pytest.fixture
def build(tmp_path: Path) -> Build:
    images = np.random.default_rng(2).normal(size=(12, 4, 8, 8)).astype(np.float32)
    for name in ("samples.npz", "calibration.npz"):
        npz.write(tmp_path / name, {"image": images})
    (tmp_path / "scratch").mkdir()

    def run(model: onnx.ModelProto, variant: str) -> tuple[onnx.ModelProto, BuildAnswer]:
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        paths = {"source": "m.onnx", "samples": "samples.npz", "calibration": "calibration.npz", "out": "out.onnx"}
        files = {key: str(tmp_path / name) for key, name in paths.items()}
        request = BuildRequest(model="tiny", variant=variant, work_dir=str(tmp_path / "scratch"), **files)
        answer = ort.build(request)
        return onnx.load(tmp_path / "out.onnx"), answer

    return run


def largest(model: onnx.ModelProto, name: str) -> int:
    weights = next(tensor for tensor in model.graph.initializer if tensor.name.startswith(f"{name}_quantized"))
    return int(np.abs(numpy_helper.to_array(weights).astype(np.int64)).max())


def test_fp32_is_the_source_without_its_notes(build: Build) -> None:
    made, answer = build(convolutions(), "ort/cpu/fp32")
    assert (made.doc_string, made.graph.doc_string, list(made.metadata_props)) == ("", "", [])
    assert [node.op_type for node in made.graph.node] == ["Conv", "Conv"]
    assert answer.options == {}


def test_int8_weights_saturate_on_no_cpu(build: Build) -> None:
    made, _ = build(convolutions(), "ort/cpu/int8")
    assert largest(made, "pointwise") <= 64
    assert largest(made, "depthwise") == 127


def test_int8_computes_the_same_fused_and_unfused(build: Build, tmp_path: Path) -> None:
    build(convolutions(), "ort/cpu/int8")
    feeds = [{"image": image[None]} for image in npz.read(tmp_path / "samples.npz")["image"]]
    fused, unfused = (session.Session(tmp_path / "out.onnx", optimise=each).run_all(feeds) for each in (True, False))
    assert session.sqnr_db(unfused, fused) > 40


def test_int8_keeps_the_best_method_with_the_figures_it_was_chosen_by(build: Build) -> None:
    _, answer = build(convolutions(), "ort/cpu/int8")
    scores = {name: answer.options[f"{name}_sqnr_db"] for name in ("minmax", "percentile", "entropy", "mse")}
    assert answer.options["calibration"] == max(scores, key=lambda name: float(scores[name]))
    assert answer.options["calibration_samples_n"] == answer.options["judged_on_samples_n"] == 12


@pytest.mark.parametrize(
    ("variant", "provider", "options"),
    [
        ("ort/cuda/fp16", "CUDAExecutionProvider", []),
        ("ort/tensorrt/fp16", "TensorrtExecutionProvider", ["trt_fp16_enable"]),
        ("ort/tensorrt/int8", "TensorrtExecutionProvider", ["trt_fp16_enable", "trt_int8_enable"]),
        ("ort/coreml/fp16", "CoreMLExecutionProvider", ["ModelFormat", "RequireStaticInputShapes"]),
        ("ort/qnn/int8", "QNNExecutionProvider", []),
        ("ort/openvino/fp32", "OpenVINOExecutionProvider", []),
        ("ort/xnnpack/int8", "XnnpackExecutionProvider", []),
    ],
)
def test_a_provider_gets_its_options_and_the_file_says_where_it_ran(
    build: Build, variant: str, provider: str, options: list[str]
) -> None:
    made, answer = build(convolutions(), variant)
    assert answer.options["provider"] == provider
    assert sorted(answer.provider_options) == options
    assert provider_problem(variant.rpartition("/")[0], answer.provider_options) is None
    assert "never run on its hardware by us" in str(answer.options["executed"])
    fixed = provider in {"CoreMLExecutionProvider", "QNNExecutionProvider"}
    assert (made.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1) == fixed
    assert answer.inputs[0].shape[0] == (1 if fixed else "n")


def test_what_the_manifest_sets_comes_before_our_own() -> None:
    assert provider_options("tensorrt", "fp16", {"trt_fp16_enable": "0", "trt_dla_core": "1"}) == {
        "trt_fp16_enable": "0", "trt_dla_core": "1",
    }  # fmt: skip


def test_what_preparing_the_source_changes_is_named(build: Build) -> None:
    old = convolutions()
    old.opset_import[0].version = 11
    made, answer = build(old, "ort/cpu/int8")
    assert answer.rewrites == ("opset 11 to 13", "onnxruntime basic optimisation")
    assert made.opset_import[0].version >= 13
    assert build(old, "ort/cpu/fp16")[1].rewrites == ("opset 11 to 13",)
    assert build(old, "ort/cpu/fp32")[1].rewrites == ()


def test_measured_speed_is_told_and_enters_no_artifact(build: Build) -> None:
    _, answer = build(convolutions(), "ort/cpu/int8")
    assert float(answer.notes["speedup_vs_fp32"]) > 0
    assert not set(answer.notes) & set(answer.options)
    assert int(answer.options["fused_integer_nodes_n"]) == 2
    assert build(convolutions(), "ort/cpu/int8")[1].options == answer.options


@pytest.mark.parametrize(
    "variant", ["ort/cpu/int8", "ort/cpu/fp16", "ort/cpu/int4", "ort/cpu/int8-dynamic", "ort/qnn/int8"]
)
def test_a_source_that_is_quantised_already_is_refused(build: Build, variant: str) -> None:
    made, _ = build(convolutions(), "ort/cpu/int8")
    with pytest.raises(CompileFaultError, match="quantised already") as caught:
        build(made, variant)
    assert "build ort/cpu/fp32," in str(caught.value.next_step)
    assert build(made, "ort/cpu/fp32")[1].rewrites == ()


def test_int8_dynamic_without_anything_to_quantise_is_unsupported(build: Build) -> None:
    with pytest.raises(CompileFaultError, match="it has none") as caught:
        build(convolutions(), "ort/cpu/int8-dynamic")
    assert caught.value.family == "unsupported"


@pytest.mark.parametrize("inside", [True, False])
def test_a_refusal_names_the_weights_a_loop_reads(build: Build, inside: bool) -> None:
    body_io = [(TensorProto.INT64, "i", []), (TensorProto.BOOL, "go", []), (TensorProto.FLOAT, "state", [1, 4, 8, 8])]
    values = {name: helper.make_tensor_value_info(name, kind, shape) for kind, name, shape in body_io}
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "weight")
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4, 8, 8])
    nodes = [
        helper.make_node("MatMul", ["state", "weight"], ["out"]),
        helper.make_node("Identity", ["go"], ["on"]),
    ]
    on = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    body = helper.make_graph(nodes, "body", list(values.values()), [on, out], [weight] if inside else [])
    count = numpy_helper.from_array(np.array(3), "count")
    graph = helper.make_graph(
        [helper.make_node("Loop", ["count", "", "image"], ["y"], body=body)],
        "looped",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [count] if inside else [count, weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    with pytest.raises(CompileFaultError, match="the 1 float32 tensors its If, Loop or Scan read inside stay float32"):
        build(model, "ort/cpu/int8")


def test_notes_do_not_change_the_bytes(build: Build) -> None:
    plain = convolutions()
    plain.ClearField("doc_string")
    assert build(plain, "ort/cpu/fp32")[0] == build(convolutions(), "ort/cpu/fp32")[0]


def test_attention_of_the_standard_is_not_quantised_as_the_runtimes_own(build: Build) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Attention", ["mean", "mean", "mean"], ["mixed"], name="attention"),
        helper.make_node("MatMul", ["image", "weights"], ["products"]),
        helper.make_node("Add", ["products", "mixed"], ["y"]),
    ]
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32), "weights")
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    made, answer = build(model, "ort/cpu/int8-dynamic")
    assert "Attention" in {node.op_type for node in made.graph.node}
    assert answer.options["quantised_nodes_n"] == 1
