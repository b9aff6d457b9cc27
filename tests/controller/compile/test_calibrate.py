"""Ranges, methods and layouts of static int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from edgefleet_contract.artifact import TensorSpec
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.quantise import calibrate
from edgefleet_controller.compile.quantise.judge import Judge
from edgefleet_controller.compile.quantise.qdq import QdqLayout, is_transformer, layers
from edgefleet_controller.compile.quantise.ranges import BINS_N, METHODS, Observed, float_tensors, observe

IMAGE = TensorSpec(name="image", dtype="float32", shape=("n", 8, 8, 8))


def observed(values: Any) -> Observed:
    values = np.asarray(values, np.float64)
    counts, _ = np.histogram(values, BINS_N, (values.min(), values.max()))
    return Observed(float(values.min()), float(values.max()), len(values), float(np.abs(values).mean()), counts)


def images(n: int = 64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(n, 8, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_method_stays_within_what_was_seen(method: str, symmetric: bool) -> None:
    seen = observed(np.random.default_rng(0).normal(2.0, 1.0, 20_000))
    low, high = METHODS[method](seen, symmetric=symmetric)
    assert low < high
    assert max(abs(low), abs(high)) <= seen.absmax
    if symmetric:
        assert low == -high


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_clipping_methods_leave_out_a_far_outlier(method: str) -> None:
    values = np.append(np.random.default_rng(0).normal(0.0, 1.0, 200_000), 100.0)
    _, high = METHODS[method](observed(values), symmetric=False)
    assert high < 90
    assert METHODS["minmax"](observed(values), symmetric=False)[1] == 100


def test_least_squared_error_beats_the_full_range_by_its_own_measure() -> None:
    values = np.append(np.random.default_rng(0).laplace(0.0, 1.0, 50_000), [40.0, -35.0])

    def error(span: tuple[float, float]) -> float:
        step = (span[1] - span[0]) / 255
        return float(np.mean((values - (np.clip(np.rint((values - span[0]) / step), 0, 255) * step + span[0])) ** 2))

    seen = observed(values)
    assert error(METHODS["mse"](seen, symmetric=False)) < error(METHODS["minmax"](seen, symmetric=False))


@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=50), st.sampled_from(list(METHODS)))
def test_no_values_break_a_method(values: list[float], method: str) -> None:
    low, high = METHODS[method](observed(values), symmetric=False)
    assert np.isfinite([low, high]).all()
    assert low <= high


def test_a_constant_tensor_has_the_range_of_its_value(quantised: Any) -> None:
    assert METHODS["mse"](Observed(0.0, 0.0, 4, 0.0, np.zeros(BINS_N)), symmetric=False) == (0.0, 0.0)


def test_observation_reads_every_float_tensor_and_its_extremes(quantised: Any) -> None:
    model = onnx.shape_inference.infer_shapes(quantised.wide_range())
    feeds = [{"image": each[None]} for each in images(6)]
    seen = observe(model, feeds)
    assert list(seen) == float_tensors(model)
    assert seen["image"].high == max(float(feed["image"].max()) for feed in feeds)
    assert seen["cut"].low == 0.0
    assert all(each.counts.sum() > 0 for each in seen.values())


def test_masks_of_minus_infinity_do_not_enter_a_range() -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"], name="same")
    value = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:]))
    model.ir_version = 8
    seen = observe(model, [{"x": np.array([[1.0, -np.inf, 3.0]], np.float32)}])
    assert (seen["y"].low, seen["y"].high) == (1.0, 3.0)


def quantise(quantised: Any, folder: Path, layout: QdqLayout) -> tuple[onnx.ModelProto, dict[str, Any]]:
    model = quantised.wide_range(spread=1.0)
    request = quantised.request_for(folder, model, "ort/cpu/int8", {"image": images()})
    chosen = calibrate.quantize(request, (IMAGE,), layout=layout)
    return onnx.load(chosen.path), chosen.options


def zero_points(model: onnx.ModelProto) -> dict[str, int]:
    """Return the data type of the zero point of each rounded activation."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return {n.input[0]: tensors[n.input[2]].data_type for n in model.graph.node if n.op_type == "QuantizeLinear"}


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        (QdqLayout.U8S8, TensorProto.UINT8),
        (QdqLayout.U8S8_FULL, TensorProto.UINT8),
        (QdqLayout.S8S8, TensorProto.INT8),
        (QdqLayout.TENSORRT, TensorProto.INT8),
    ],
)
def test_each_layout_writes_activations_as_its_target_wants(
    quantised: Any, tmp_path: Path, layout: QdqLayout, dtype: int
) -> None:
    made, options = quantise(quantised, tmp_path, layout)
    onnx.checker.check_model(made)
    assert set(zero_points(made).values()) == {dtype}
    best = max(float(options[f"{name}_sqnr_db"]) for name in METHODS)
    assert options[f"{options['calibration']}_sqnr_db"] == best > 25


def test_tensorrt_gets_no_zero_points_no_integer_bias_and_no_rounding_before_an_activation(
    quantised: Any, tmp_path: Path
) -> None:
    made, _ = quantise(quantised, tmp_path, QdqLayout.TENSORRT)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            assert not tensors[node.input[2]].any()
    assert not any(array.dtype == np.int32 for array in tensors.values())
    makers = {name: node for node in made.graph.node for name in node.output}
    relus = [node for node in made.graph.node if node.op_type == "Relu"]
    assert relus
    assert {makers[node.input[0]].op_type for node in relus} == {"Conv"}


def test_full_range_layouts_are_judged_as_qdq_is_defined(quantised: Any, tmp_path: Path, monkeypatch: Any) -> None:
    asked = []
    run = Judge.run

    def spy(self: Judge, model: Any, *, optimise: bool = True) -> Any:
        asked.append(optimise)
        return run(self, model, optimise=optimise)

    monkeypatch.setattr(Judge, "run", spy)
    quantise(quantised, tmp_path, QdqLayout.S8S8)
    assert asked == [False] * len(METHODS)


def test_samples_of_one_value_cannot_calibrate(quantised: Any, tmp_path: Path) -> None:
    ones = {"image": np.full((20, 8, 8, 8), 0.5, np.float32)}
    request = quantised.request_for(tmp_path, quantised.wide_range(), "ort/cpu/int8", ones)
    with pytest.raises(CompileFaultError, match=r"one value 0\.5 everywhere") as caught:
        calibrate.quantize(request, (IMAGE,))
    assert caught.value.what == "calibration"


def test_an_old_opset_is_raised_to_one_with_scales_per_channel(quantised: Any, tmp_path: Path) -> None:
    model = quantised.wide_range()
    model.opset_import[0].version = 11
    (tmp_path / "old.onnx").write_bytes(model.SerializeToString())
    prepared = onnx.load(calibrate.prepare(tmp_path / "old.onnx", tmp_path))
    assert prepared.opset_import[0].version >= calibrate.MIN_OPSET


def test_nodes_without_names_and_shared_biases_are_prepared(quantised: Any, tmp_path: Path) -> None:
    bias = quantised.tensor("bias", np.ones(8))
    nodes = [
        onnx.helper.make_node("Conv", ["image", "w", "bias"], ["a"]),
        onnx.helper.make_node("Conv", ["a", "w", "bias"], ["y"]),
    ]
    weights = [quantised.tensor("w", np.random.default_rng(0).normal(size=(8, 8, 1, 1))), bias]
    shape = {"image": ["n", 8, 8, 8]}
    model = quantised.model_of(nodes, shape, {"y": ["n", 8, 8, 8]}, weights)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    prepared = onnx.load(calibrate.prepare(tmp_path / "m.onnx", tmp_path))
    names = [node.name for node in prepared.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert len({node.input[2] for node in prepared.graph.node if node.op_type == "Conv"}) == 2


def test_a_transformer_is_told_from_a_convolutional_net(quantised: Any) -> None:
    assert is_transformer(quantised.outlier_transformer())
    assert not is_transformer(quantised.wide_range())
    assert list(layers(quantised.wide_range())) == ["expand", "depthwise", "body", "head"]


def test_a_part_of_a_judge_is_spread_over_all_samples() -> None:
    outputs = np.arange(20, dtype=np.float32).reshape(10, 1, 2)
    part = Judge([{"x": each} for each in outputs], [outputs], np.arange(10), ("y",)).part(3)
    assert part.labels is not None
    assert part.labels.tolist() == [0, 4, 9]
    assert part.score([outputs[[0, 4, 9]]]).samples_n == 3


def test_the_metric_rules_over_noise_only_beyond_chance(quantised: Any) -> None:
    labels = np.array([0, 1] * 200)
    reference = [np.eye(2, dtype=np.float32)[labels][:, None]]
    judge = Judge([], reference, labels, ("y",))
    flipped = reference[0].copy()
    flipped[:1] = flipped[:1, :, ::-1]
    many = reference[0].copy()
    many[:8] = many[:8, :, ::-1]
    noisy = reference[0] + np.random.default_rng(0).normal(0, 0.2, reference[0].shape).astype(np.float32)
    assert judge.score([flipped]).rank > judge.score([noisy]).rank
    assert judge.score([noisy]).rank > judge.score([many]).rank
    assert judge.score(reference).sqnr_db == 200
    assert session.sqnr_db(reference, [noisy]) == pytest.approx(judge.score([noisy]).sqnr_db)
