"""Targets `tensorrt` and `tensorrt-rtx`: sources a device makes plans of, and plans made without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_contract.artifact import EvidenceLevel, InputTransform, Layout, TensorSpec
from edgefleet_contract.trt_plan import read_header
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.compile import npz, registry
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest
from edgefleet_controller.compile.tensorrt import plan as trt_plan
from edgefleet_controller.compile.tensorrt import profile as trt_profile
from edgefleet_controller.compile.tensorrt import rtx as trt_rtx
from edgefleet_controller.compile.tensorrt import target as trt
from edgefleet_controller.compile.tensorrt import vendor as trt_vendor
from edgefleet_controller.compile.tensorrt.coverage import refused_nodes

pytest.importorskip("tensorrt_rtx_bindings")

Build = Callable[..., tuple[Path, BuildAnswer]]
node = helper.make_node


def weight(name: str, shape: tuple[int, ...], scale: float = 1.0) -> onnx.TensorProto:
    values = np.random.default_rng(len(name)).normal(size=shape) * scale
    return numpy_helper.from_array(values.astype(np.float32), name)


def network(*, scale: float = 1.0, axis: str = "n") -> onnx.ModelProto:
    """Return `image` f32[n, 3, 16, 16] → Conv → HardSwish by Add and Clip → pool → Gemm → `y` f32[n, 5]."""
    weights = [weight("kernel", (8, 3, 3, 3), scale), weight("bias", (8,)), weight("last", (8, 5))]
    weights += [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in CONSTANTS.items()]
    nodes = [
        node("Conv", ["image", "kernel", "bias"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        node("Add", ["a", "three"], ["b"], name="add"),
        node("Clip", ["b", "zero", "six"], ["c"], name="clip"),
        node("Mul", ["a", "c"], ["d"], name="mul"),
        node("GlobalAveragePool", ["d"], ["e"], name="pool"),
        node("Flatten", ["e"], ["f"], name="flatten"),
        node("Gemm", ["f", "last"], ["y"], name="gemm"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [axis, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [axis, 5])],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    return made


CONSTANTS = {"three": 3.0, "zero": 0.0, "six": 6.0}


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., BuildRequest]:
    images = np.random.default_rng(2).normal(size=(12, 3, 16, 16)).astype(np.float32)
    for name in ("samples.npz", "calibration.npz"):
        npz.write(tmp_path / name, {"image": images})

    def make(variant: str, model: onnx.ModelProto | None = None, out: str = "out", **options: str) -> BuildRequest:
        (tmp_path / "m.onnx").write_bytes((model or network()).SerializeToString())
        (tmp_path / out).mkdir(exist_ok=True)
        paths = {"source": "m.onnx", "samples": "samples.npz", "calibration": "calibration.npz", "out": f"{out}/model"}
        files = {key: str(tmp_path / name) for key, name in paths.items()}
        return BuildRequest(model="tiny", variant=variant, work_dir=str(tmp_path / out), options=options, **files)

    return make


@pytest.fixture
def build(request_of: Callable[..., BuildRequest]) -> Build:
    def run(
        variant: str, model: onnx.ModelProto | None = None, out: str = "out", **options: str
    ) -> tuple[Path, BuildAnswer]:
        request = request_of(variant, model, out, **options)
        target = trt_rtx if variant.startswith("tensorrt-rtx") else trt
        return Path(request.out), target.build(request)

    return run


def sqnr_db(tmp_path: Path, made: Path) -> float:
    feeds = [{"image": image[None]} for image in npz.read(tmp_path / "samples.npz")["image"]]
    return session.sqnr_db(session.Session(tmp_path / "m.onnx").run_all(feeds), session.Session(made).run_all(feeds))


@pytest.mark.parametrize(
    ("variant", "least_db"),
    [
        ("tensorrt/gpu/fp32", 100),
        ("tensorrt/gpu/fp16", 50),
        ("tensorrt/gpu/int8", 25),
        ("tensorrt/dla/fp16", 50),
        ("tensorrt/dla/int8", 25),
    ],
)
def test_a_source_is_taken_by_nvidias_parser_and_computes_what_its_model_does(
    build: Build, tmp_path: Path, variant: str, least_db: float
) -> None:
    path, answer = build(variant)
    assert sqnr_db(tmp_path, path) >= least_db
    assert answer.level is EvidenceLevel.PARSED_ONLY
    assert answer.coverage is not None
    assert refused_nodes(answer.coverage) == []
    assert answer.min_runtime == {"tensorrt": "10.3"}
    assert "never run on hardware by us" in str(answer.options["plan"])
    assert answer.options["rtx_builder"] == "builds it for SM 86"


def test_inputs_and_outputs_keep_the_types_and_names_of_the_model(build: Build) -> None:
    path, answer = build("tensorrt/gpu/fp16")
    graph = onnx.load(path).graph
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    assert answer.inputs == (TensorSpec(name="image", dtype="float32", shape=("n", 3, 16, 16)),)
    assert TensorProto.FLOAT16 in {tensor.data_type for tensor in graph.initializer}


def test_int8_sources_are_symmetric_with_float_biases_and_summands(build: Build) -> None:
    path, _ = build("tensorrt/gpu/int8")
    graph = onnx.load(path).graph
    points = [tensor for tensor in graph.initializer if "zero_point" in tensor.name]
    assert points
    assert all(tensor.data_type == TensorProto.INT8 and not numpy_helper.to_array(tensor).any() for tensor in points)
    assert TensorProto.INT32 not in {tensor.data_type for tensor in graph.initializer}
    dequantised = {output for each in graph.node if each.op_type == "DequantizeLinear" for output in each.output}
    summands = {name for each in graph.node if each.op_type == "Add" for name in each.input}
    assert "three_DequantizeLinear_Output" not in summands & dequantised


def test_int8_weights_read_by_a_cast_are_folded_and_the_rewrite_is_named(build: Build, tmp_path: Path) -> None:
    model = network()
    kernel = model.graph.initializer[0]
    numbers = np.random.default_rng(0).integers(-100, 100, size=(8, 3, 3, 3)).astype(np.int8)
    kernel.CopyFrom(numpy_helper.from_array(numbers, "kernel8"))
    model.graph.node.insert(0, node("Cast", ["kernel8"], ["kernel"], name="cast", to=TensorProto.FLOAT))
    path, answer = build("tensorrt/gpu/fp32", model)
    assert answer.rewrites == ("fold-int8-weights",)
    assert answer.options["rtx_builder"] == "builds it for SM 86"
    assert sqnr_db(tmp_path, path) > 100


def test_sizes_that_never_change_are_written_into_the_model(build: Build) -> None:
    """Axes named alike are one size to TensorRT, and some exporters name every axis `?`; DLA takes no dynamic one."""
    path, answer = build("tensorrt/dla/fp16", network(axis="?"))
    assert [dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim] == [1, 3, 16, 16]
    assert answer.options["profiles"] == "{}"
    assert onnx.load(path).metadata_props[0].key == trt.PROFILES_KEY


def test_sizes_of_the_manifest_become_profiles(request_of: Callable[..., BuildRequest]) -> None:
    request = request_of("tensorrt/gpu/fp32").model_copy(update={"dynamic": {"image": {"n": (1, 4, 8)}}})
    spec = TensorSpec(name="image", dtype="float32", shape=("n", 3, 16, 16))
    made = trt_profile.profiles_of(request, (spec,))
    assert made == {"image": ((1, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16))}
    assert trt_profile.fix_sizes(network(), made) == made
    assert json.loads(trt_profile.as_json(made)) == {"image": [[1, 3, 16, 16], [4, 3, 16, 16], [8, 3, 16, 16]]}


def test_a_source_with_sizes_keeps_its_axis_dynamic_and_carries_the_profile(
    request_of: Callable[..., BuildRequest],
) -> None:
    for variant in ("tensorrt/gpu/fp16", "tensorrt-rtx/gpu/fp16"):
        request = request_of(variant).model_copy(update={"dynamic": {"image": {"n": (1, 4, 8)}}})
        target = trt_rtx if "rtx" in variant else trt
        assert json.loads(str(target.build(request).options["profiles"]))["image"][2] == [8, 3, 16, 16]
        if target is trt:
            (note,) = onnx.load(request.out).metadata_props
            assert json.loads(note.value) == {"image": [[1, 3, 16, 16], [4, 3, 16, 16], [8, 3, 16, 16]]}


def test_sizes_of_the_manifest_that_leave_the_samples_out_are_the_users_mistake(
    request_of: Callable[..., BuildRequest],
) -> None:
    spec = TensorSpec(name="image", dtype="float32", shape=("n", 3, 16, 16))
    request = request_of("tensorrt/gpu/fp32").model_copy(update={"dynamic": {"image": {"n": (2, 4, 8)}}})
    with pytest.raises(CompileFaultError, match="has size 1 in the samples; the manifest's `dynamic` allows 2 to 8"):
        trt_profile.profiles_of(request, (spec,))


def test_a_model_with_nothing_to_quantise_is_unsupported(build: Build) -> None:
    model = network()
    del model.graph.node[:]
    model.graph.node.append(node("ReduceMean", ["image"], ["y"], axes=[2, 3], keepdims=0))
    with pytest.raises(CompileFaultError, match="it has none") as caught:
        build("tensorrt/gpu/int8", model)
    assert caught.value.family == "unsupported"


def test_a_refused_model_is_refused_for_every_variant(build: Build) -> None:
    model = network()
    model.graph.node[4].output[0] = "before"
    model.graph.node.insert(5, node("Bernoulli", ["before"], ["e"], name="dice"))
    for variant in ("tensorrt/gpu/fp16", "tensorrt/dla/int8", "tensorrt-rtx/gpu/fp16"):
        with pytest.raises(CompileFaultError, match=r"1 of 8 operators .* 'dice'"):
            build(variant, model)


@pytest.mark.parametrize("variant", ["tensorrt-rtx/gpu/fp16", "tensorrt-rtx/gpu/int8"])
def test_rtx_plans_are_built_without_a_gpu_alike_twice_and_say_which_library_wrote_them(
    build: Build, variant: str
) -> None:
    first, answer = build(variant)
    second, again = build(variant, out="again")
    assert first.read_bytes() == second.read_bytes()
    assert answer == again
    header = read_header(first.read_bytes())
    assert (header.runtime, header.version) == ("tensorrt-rtx", trt_vendor.load().__version__)
    assert answer.options["sm"] == "86,89,120"
    assert answer.level is EvidenceLevel.BUILT_NOT_EXECUTED
    assert answer.min_runtime == {"tensorrt-rtx": header.version}


def test_a_generation_that_refuses_the_model_is_left_out_with_its_reason(build: Build) -> None:
    _, answer = build("tensorrt-rtx/gpu/fp32", sm="86,75")
    assert answer.options["sm"] == "86"
    assert "FP32 GEMM is not supported" in str(answer.options["sm75_refused"])


def test_generations_are_chosen_by_the_manifest_whatever_their_order(build: Build) -> None:
    first, answer = build("tensorrt-rtx/gpu/fp16", sm="120,86")
    second, _ = build("tensorrt-rtx/gpu/fp16", out="again", sm="86,120,86")
    assert answer.options["sm"] == "86,120"
    assert first.read_bytes() == second.read_bytes()


def test_a_generation_the_builder_does_not_know_is_named_with_those_it_does(build: Build) -> None:
    with pytest.raises(CompileFaultError, match=r"builds no plan for SM 87, SM 110; it knows: SM 75, SM 80") as caught:
        build("tensorrt-rtx/gpu/fp16", sm="86,87,110")
    assert "sm: '86,89,120'" in str(caught.value.next_step)


def test_float32_plans_do_not_round_to_tf32(build: Build) -> None:
    plan = build("tensorrt-rtx/gpu/fp32")[0].read_bytes()
    assert (b"tf32=0" in plan, b"tf32=1" in plan) == (True, False)


def test_a_plan_can_be_asked_for_single_generations(tmp_path: Path) -> None:
    model = network(axis="1")
    trt_profile.fix_sizes(model, {"image": ((1, 3, 16, 16),) * 3})
    onnx.save(model, tmp_path / "m.onnx")
    made = {sm: trt_plan.build_plan(tmp_path / "m.onnx", {}, tmp_path, (sm,)) for sm in (86, 89, 120)}
    assert [plan.sms for plan in made.values()] == [(86,), (89,), (120,)]
    assert len({plan.data for plan in made.values()}) == 3


def test_a_builder_that_crashes_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(trt_plan, "CHILD_ARGV", (sys.executable, "-c", crash))
    with pytest.raises(CompileFaultError, match="its builder was killed by signal 11"):
        trt_plan.build_plan(tmp_path / "m.onnx", {}, tmp_path)


def test_a_model_the_builder_refuses_is_refused_with_its_words(tmp_path: Path) -> None:
    onnx.save(network(axis="?"), tmp_path / "m.onnx")
    with pytest.raises(CompileFaultError, match=r"builds it for no GPU: .*profile"):
        trt_plan.build_plan(tmp_path / "m.onnx", {}, tmp_path)


def test_without_tensorrt_rtx_its_plans_are_unsupported_and_sources_are_still_made(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Any:
        raise trt_vendor.VendorMissingError("TensorRT-RTX is not installed; install edgefleet[trt-rtx]")

    for module in (trt, trt_vendor, sys.modules["edgefleet_controller.compile.tensorrt.coverage"]):
        monkeypatch.setattr(module, "load", missing)
    with pytest.raises(CompileFaultError, match=r"install edgefleet\[trt-rtx\]") as caught:
        build("tensorrt-rtx/gpu/fp16")
    assert caught.value.family == "unsupported"
    _, answer = build("tensorrt/gpu/fp16")
    assert answer.level is EvidenceLevel.TABLE_ONLY
    assert "not asked" in str(answer.options["rtx_builder"])


def test_a_missing_module_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['tensorrt_rtx'] = sys.modules['tensorrt_rtx_bindings'] = None\n"
        "from edgefleet_controller.compile.tensorrt import vendor as trt_vendor\n"
        "try: trt_vendor.load()\n"
        "except trt_vendor.VendorMissingError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "install edgefleet[trt-rtx]" in done.stdout


@pytest.mark.parametrize(
    ("variant", "host"),
    [("tensorrt/gpu/int8", "ort/cpu/int8"), ("tensorrt/dla/fp16", "ort/cpu/fp16"), ("tensorrt-rtx/gpu/fp16", None)],
)
def test_sources_are_run_on_the_builder_and_plans_are_not(variant: str, host: str | None) -> None:
    found = registry.host_variant(parse_variant(variant))
    assert (None if found is None else str(found)) == host
    assert registry.buildable(parse_variant(variant)) is None


def test_dla_has_no_float32() -> None:
    assert registry.buildable(parse_variant("tensorrt/dla/fp32")) == "DLA computes in fp16 and int8 only"


EXAMPLES = Path(__file__).parents[3] / "manifests" / "examples"
BUNDLED = {
    "mnist_cnn_fp32": (
        "digits.npz",
        {"image": InputTransform(sample_layout=Layout.NHW, layout=Layout.NCHW, mean=33.3, std=78.6)},
    ),
    "efficientnet_lite0_fp32": (
        "photos.npz",
        {"input": InputTransform(sample_layout=Layout.NHWC, layout=Layout.NCHW, mean=127, std=128)},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("variant", ["tensorrt/gpu/fp16", "tensorrt/gpu/int8", "tensorrt-rtx/gpu/fp16"])
def test_the_bundled_models_are_taken_whole_and_built(tmp_path: Path, name: str, variant: str) -> None:
    samples, preprocess = BUNDLED[name]
    arrays = {key: array[:24] for key, array in npz.read(EXAMPLES / "data" / samples).items()}
    npz.write(tmp_path / "samples.npz", arrays)
    request = BuildRequest(
        model="bundled",
        variant=variant,
        source=str(EXAMPLES / "models" / f"{name}.onnx"),
        samples=str(tmp_path / "samples.npz"),
        calibration=str(tmp_path / "samples.npz"),
        preprocess=preprocess,
        out=str(tmp_path / "out"),
        work_dir=str(tmp_path),
    )
    answer = (trt_rtx if "rtx" in variant else trt).build(request)
    assert answer.coverage is not None
    assert answer.coverage.counts["unsupported"] == 0
    if "rtx" in variant:
        assert {"86", "89", "120"} <= set(str(answer.options["sm"]).split(","))
    else:
        assert answer.options["rtx_builder"] == "builds it for SM 86"
