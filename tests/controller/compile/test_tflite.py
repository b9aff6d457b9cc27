"""The `tflite` target: what its files compute, what it refuses, and what it writes into records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_contract.coverage import Placed
from edgefleet_controller.compile import npz, rewrite
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest
from edgefleet_controller.compile.tflite import (
    blame,
    convert,
    coverage,
    flatbuffer,
    floating,
    freeze,
    graph,
    layout,
    prove,
    quantise,
    source,
    target,
    versions,
)  # fmt: skip
from edgefleet_controller.compile.tflite.interpreter import Interpreter

Build = Callable[[onnx.ModelProto, str], tuple[bytes, BuildAnswer]]
VARIANTS = (
    "tflite/xnnpack/fp32", "tflite/gpu/fp16", "tflite/xnnpack/int8-dynamic", "tflite/nnapi/int8", "tflite/cpu/int16x8",
    "tflite/edgetpu/int8",
)  # fmt: skip


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int | str, ...]],
    outputs: dict[str, tuple[int | str, ...]],
    weights: dict[str, Any] | None = None,
    opset: int = 17,
    kinds: dict[str, int] | None = None,
) -> onnx.ModelProto:
    """Return a model of float inputs and outputs; `kinds` names those of another type."""

    def values(shapes: dict[str, tuple[int | str, ...]]) -> list[onnx.ValueInfoProto]:
        each = kinds or {}
        return [helper.make_tensor_value_info(n, each.get(n, TensorProto.FLOAT), s) for n, s in shapes.items()]

    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    made = helper.make_graph(nodes, "test", values(inputs), values(outputs), initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def convolutional() -> onnx.ModelProto:
    """Return `image` f32[n, 3, 8, 8] → Conv, Relu, spatial mean, Gemm → `scores` f32[n, 5]."""
    generator = np.random.default_rng(0)
    weights = {
        "kernel": generator.normal(size=(6, 3, 3, 3)).astype(np.float32),
        "matrix": generator.normal(size=(6, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ReduceMean", ["b"], ["c"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["c", "matrix"], ["scores"]),
    ]
    return model_of(nodes, {"image": ("n", 3, 8, 8)}, {"scores": ("n", 5)}, weights)


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(2).normal(size=(24, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def build(tmp_path: Path, images: Any) -> Build:
    for name in ("samples.npz", "calibration.npz"):
        npz.write(tmp_path / name, {"image": images})
    (tmp_path / "scratch").mkdir()

    def run(model: onnx.ModelProto, variant: str) -> tuple[bytes, BuildAnswer]:
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        paths = {"source": "m.onnx", "samples": "samples.npz", "calibration": "calibration.npz", "out": "out.tflite"}
        files = {key: str(tmp_path / name) for key, name in paths.items()}
        answer = target.build(BuildRequest(model="tiny", variant=variant, work_dir=str(tmp_path / "scratch"), **files))
        return (tmp_path / "out.tflite").read_bytes(), answer

    return run


def outputs_of(data: bytes, images: Any) -> Any:
    interpreter = Interpreter(data)
    feeds = ({interpreter.inputs[0].name: image[None].transpose(0, 2, 3, 1)} for image in images)
    return np.stack([interpreter.run(feed)[0] for feed in feeds])


@pytest.mark.parametrize(("variant", "least_db"), [*zip(VARIANTS, (100, 55, 30, 25, 40, 25), strict=True)])
def test_every_precision_computes_what_the_source_computes(
    build: Build, images: Any, variant: str, least_db: float
) -> None:
    data, answer = build(convolutional(), variant)
    wanted = session.Session(convolutional().SerializeToString()).run_all({"image": image[None]} for image in images)
    assert session.sqnr_db(wanted, [outputs_of(data, images)]) > least_db
    assert [(port.name, port.dtype) for port in Interpreter(data).inputs] == [("image", "float32")]
    assert answer.input_map["image"].axes == (0, 2, 3, 1)
    assert (answer.inputs[0].shape, answer.outputs[0].shape) == ((1, 3, 8, 8), (1, 5))


@pytest.mark.parametrize("variant", ["tflite/xnnpack/fp32", "tflite/xnnpack/int8", "tflite/gpu/fp16"])
def test_built_twice_it_is_the_same_bytes(build: Build, variant: str) -> None:
    assert build(convolutional(), variant) == build(convolutional(), variant)


def test_an_int8_file_has_no_float_island_where_a_mean_was(build: Build) -> None:
    data, answer = build(convolutional(), "tflite/xnnpack/int8")
    assert answer.rewrites == ("spatial-mean-pooled",)
    inner = [op for op in graph.read(data).operators if op.type not in {"QUANTIZE", "DEQUANTIZE"}]
    assert all(op.outputs[0].dtype == "int8" for op in inner)
    assert {"minmax_sqnr_db", "smoothed_sqnr_db", "calibration"} <= set(answer.options)


def test_dynamic_range_files_are_stamped_so_that_old_runtimes_refuse_them(build: Build) -> None:
    data, answer = build(convolutional(), "tflite/xnnpack/int8-dynamic")
    model = flatbuffer.read(data)
    stamped = {
        flatbuffer.operator_type(model, op): model.operatorCodes[op.opcodeIndex].version
        for op in model.subgraphs[0].operators
    }
    assert (stamped["CONV_2D"], stamped["FULLY_CONNECTED"]) == (5, 12)
    assert answer.min_runtime == {"tflite": "2.3.0"}
    assert versions.stamp(data) == versions.stamp(versions.stamp(data))


def test_an_edge_tpu_file_says_what_maps_and_that_only_a_table_says_so(build: Build) -> None:
    _, answer = build(convolutional(), "tflite/edgetpu/int8")
    assert answer.level is EvidenceLevel.TABLE_ONLY
    assert "not on the builder's PATH" in str(answer.options["edgetpu_compiler"])
    assert answer.coverage is not None
    placed = {each.type: each.placed for each in answer.coverage.operators}
    assert placed["CONV_2D"] is placed["FULLY_CONNECTED"] is Placed.ACCELERATOR
    assert placed["QUANTIZE"] is placed["DEQUANTIZE"] is Placed.CPU


def test_a_delegate_without_integers_takes_nothing_of_an_int8_file(build: Build, tmp_path: Path) -> None:
    build(convolutional(), "tflite/xnnpack/int8")
    said = coverage.coverage_of(tmp_path / "out.tflite", "tflite/coreml")
    assert said is not None
    assert said.counts["accelerator"] == 0
    assert coverage.coverage_of(tmp_path / "out.tflite", "tflite/external") is None


def test_int8_dynamic_without_anything_to_quantise_is_unsupported(build: Build) -> None:
    relu = model_of([helper.make_node("Relu", ["image"], ["y"])], {"image": (1, 3, 8, 8)}, {"y": (1, 3, 8, 8)})
    with pytest.raises(CompileFaultError, match="it has none") as caught:
        build(relu, "tflite/xnnpack/int8-dynamic")
    assert caught.value.family == "unsupported"


def test_an_operator_no_target_has_is_refused_by_name() -> None:
    nodes = [helper.make_node("Unique", ["x"], ["y"], name="distinct")]
    model = model_of(nodes, {"x": (4,)}, {"y": ("m",)})
    with pytest.raises(CompileFaultError, match=r"Unique .*distinct") as caught:
        floating.make(model, [{"x": np.asarray([1, 2, 2, 3], dtype=np.float32)}])
    assert caught.value.family == "unsupported"


def test_a_conversion_that_is_silently_wrong_is_seen_and_cured() -> None:
    """onnx2tf ignores Elu's alpha: its own file is refused, and the standard's definition takes its place."""
    model = model_of([helper.make_node("Elu", ["x"], ["y"], alpha=2.0)], {"x": (1, 16)}, {"y": (1, 16)})
    feeds = [{"x": np.linspace(-4, 4, 16, dtype=np.float32)[None]}]
    fixed = source.simplify(source.sized(model, {"x": (1, 16), "y": (1, 16)}))
    plain = Interpreter(convert.to_tflite(fixed, ["x"])).run(feeds[0])[0]
    wanted = session.Session(model.SerializeToString()).run(feeds[0])[0]
    assert prove.difference(wanted, plain) is not None
    made = floating.make(model, feeds)
    assert made.rewrites == ("functions-inlined",)
    assert prove.difference(wanted, made.run_all(Interpreter(made.data), feeds)[0]["y"]) is None


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_before_opset_13_an_axis_says_where_a_tensor_is_folded_to_a_matrix(kind: str) -> None:
    model = model_of([helper.make_node(kind, ["x"], ["y"], axis=1)], {"x": (1, 4, 3, 3)}, {"y": (1, 4, 3, 3)})
    model.opset_import[0].version = 11
    feeds = [{"x": np.random.default_rng(0).normal(size=(1, 4, 3, 3)).astype(np.float32)}]
    made = floating.make(model, feeds)
    wanted = session.Session(model.SerializeToString()).run(feeds[0])[0]
    assert prove.difference(wanted, made.run_all(Interpreter(made.data), feeds)[0]["y"]) is None


def test_a_refusal_speaks_of_a_named_operator_only_where_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "difference", lambda *_: "1 became 2")
    monkeypatch.setattr(blame, "first_wrong", lambda *_: None)
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, 4)}, {"y": (1, 4)})
    with pytest.raises(CompileFaultError, match="computes output 'y' wrongly: 1 became 2") as caught:
        floating.make(model, [{"x": np.ones((1, 4), dtype=np.float32)}])
    assert caught.value.next_step == "use another runtime's variant"


def test_the_first_node_a_conversion_gets_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Elu", ["b"], ["c"], alpha=2.0, name="bent"),
        helper.make_node("Exp", ["c"], ["y"]),
    ]
    model = model_of(nodes, {"x": (1, 4, 3, 3)}, {"y": (1, 4, 3, 3)})
    monkeypatch.setattr(rewrite, "for_tflite", lambda *_: iter(()))
    with pytest.raises(CompileFaultError, match="the first node that comes out wrong: Elu 'bent'") as caught:
        floating.make(model, [{"x": np.random.default_rng(0).normal(size=(1, 4, 3, 3)).astype(np.float32)}])
    assert "named operator" in str(caught.value.next_step)


def test_names_the_converter_would_change_lead_back_to_the_sources() -> None:
    nodes = [helper.make_node("Relu", ["../in put:0"], ["out:0"])]
    made = floating.make(model_of(nodes, {"../in put:0": (1, 4)}, {"out:0": (1, 4)}), [
        {"../in put:0": np.asarray([[-1, 0, 1, 2]], dtype=np.float32)}
    ])  # fmt: skip
    feeds = [{"../in put:0": np.asarray([[-3, 1, -1, 5]], dtype=np.float32)}]
    np.testing.assert_array_equal(made.run_all(Interpreter(made.data), feeds)[0]["out:0"], [[0, 1, 0, 5]])


def test_a_weight_that_is_given_back_under_such_a_name_is_still_a_weight() -> None:
    nodes = [helper.make_node("Add", ["x", "w:0"], ["y"])]
    weights = {"w:0": np.ones((1, 4), np.float32)}
    model = model_of(nodes, {"x": (1, 4)}, {"y": (1, 4), "w:0": (1, 4)}, weights)
    feeds = [{"x": np.asarray([[-3, 1, -1, 5]], dtype=np.float32)}]
    made = floating.make(model, feeds)
    outputs = made.run_all(Interpreter(made.data), feeds)[0]
    assert {name: each.tolist() for name, each in outputs.items()} == {"y": [[-2, 2, 0, 6]], "w:0": [[1, 1, 1, 1]]}


def test_a_dynamic_axis_takes_the_size_of_the_samples() -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=-1)]
    model = model_of(nodes, {"x": ("n", "length", 4)}, {"y": ("n", "length", 4)})
    made = floating.make(model, [{"x": np.random.default_rng(0).normal(size=(1, 7, 4)).astype(np.float32)}])
    assert made.shapes == {"x": (1, 7, 4), "y": (1, 7, 4)}


def test_an_input_that_only_says_a_shape_becomes_part_of_the_file() -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    model = model_of(nodes, {"x": (1, 6), "shape": (2,)}, {"y": ("a", "b")}, kinds={"shape": TensorProto.INT64})
    feeds = [{"x": np.arange(6, dtype=np.float32)[None], "shape": np.asarray([2, 3])}]
    made = floating.make(model, feeds)
    assert list(made.inputs) == ["x"]
    assert made.frozen["shape"].tolist() == [2, 3]
    assert freeze.parameters(model, [*feeds, {**feeds[0], "shape": np.asarray([3, 2])}]) == {}


@pytest.mark.parametrize("ending", ["raise SystemExit(3)", "raise KeyError('x')", "print('noise')"])
def test_a_converter_that_exits_raises_or_writes_nothing_is_contained(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], ending: str
) -> None:
    import onnx2tf

    before = Path.cwd()
    monkeypatch.setattr(onnx2tf, "convert", lambda **_: exec(ending))  # noqa: S102 - three one-line converters
    with pytest.raises(convert.ConversionError):
        convert.to_tflite(convolutional(), [])
    assert Path.cwd() == before
    assert capfd.readouterr().out == ""


def test_damaged_files_are_refused_with_a_reason(build: Build) -> None:
    data, _ = build(convolutional(), "tflite/xnnpack/fp32")
    for damaged in (b"", b"not a model at all", data[: len(data) // 2]):
        with pytest.raises(flatbuffer.DamagedFileError):
            graph.read(damaged)


def test_axes_are_found_by_shape_and_lead_there_and_back() -> None:
    assert layout.candidates((1, 3, 4, 5), (1, 4, 5, 3)) == [(0, 2, 3, 1)]
    assert layout.candidates((1, 3, 4, 5), (1, 3, 4, 5)) == [()]
    assert layout.candidates((1, 2), (2, 1)) == []
    array = np.arange(60).reshape(1, 3, 4, 5)
    np.testing.assert_array_equal(layout.to_source(layout.to_file(array, (0, 2, 3, 1)), (0, 2, 3, 1)), array)


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ([1.0, 2.0], [1.0, 2.000001], True),
        ([1.0, 2.0], [1.0, 2.02], False),
        ([1.0, np.nan], [1.0, np.nan], True),
        ([1.0, np.nan], [1.0, 0.0], False),
        ([np.inf, 1.0], [-np.inf, 1.0], False),
        ([np.inf, 1.0], [np.nan, 1.0], False),
        ([0.0, 0.0], [0.0, 0.0], True),
    ],
)
def test_differences_beyond_rounding_are_seen(ours: list[float], theirs: list[float], same: bool) -> None:
    left, right = np.asarray(ours, dtype=np.float32), np.asarray(theirs, dtype=np.float32)
    assert (prove.difference(left, right) is None) is same


def test_outputs_keep_room_beyond_what_calibration_saw() -> None:
    ranges = {"y": {"min": np.float32(-1), "max": np.float32(1)}, "relu": {"min": np.float32(0), "max": np.float32(2)}}
    wide = quantise.widened(ranges, {"y", "relu"})
    assert float(wide["y"]["min"]) < -1 < 1 < float(wide["y"]["max"])
    assert float(wide["relu"]["min"]) == 0
    assert float(wide["relu"]["max"]) == pytest.approx(2.4)
    assert float(ranges["y"]["max"]) == 1
