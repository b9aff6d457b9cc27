"""SmoothQuant: the same outputs in float, and better ones in int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgefleet_controller.compile.ort import int8 as ort_int8
from edgefleet_controller.compile.ort import target as ort
from edgefleet_controller.compile.ort.session import Session, sqnr_db
from edgefleet_controller.compile.quantise import smooth


def samples(n: int = 64) -> Any:
    return np.random.default_rng(0).normal(size=(n, 6, 32)).astype(np.float32)


def feeds_of(arrays: Any) -> list[dict[str, Any]]:
    return [{"x": each[None]} for each in arrays]


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_a_smoothed_model_computes_the_same_in_float(quantised: Any, strength: float) -> None:
    model = quantised.outlier_transformer()
    feeds = feeds_of(samples(4))
    made = smooth.smooth(model, smooth.channel_absmax(model, feeds), strength)
    before, after = (Session(each.SerializeToString()).run_all(feeds) for each in (model, made.model))
    assert sqnr_db(before, after) > 100
    onnx.checker.check_model(made.model, full_check=True)


def test_divisions_go_into_the_norm_where_only_smoothed_products_read_it(quantised: Any) -> None:
    model = quantised.outlier_transformer()
    made = smooth.smooth(model, smooth.channel_absmax(model, feeds_of(samples(4))), 0.5)
    assert (made.products_n, made.folded_n) == (6, 2)
    added = [node.name for node in made.model.graph.node if node.op_type == "Mul"]
    assert added == ["out_smoothing", "down_smoothing"]


def test_a_norm_that_others_read_too_is_left_alone(quantised: Any) -> None:
    model = quantised.outlier_transformer()
    model.graph.output.append(onnx.helper.make_tensor_value_info("h", 1, ["n", 6, 32]))
    feeds = feeds_of(samples(4))
    made = smooth.smooth(model, smooth.channel_absmax(model, feeds), 0.5)
    assert made.folded_n == 1
    before, after = (Session(each.SerializeToString()).run_all(feeds) for each in (model, made.model))
    assert sqnr_db(before, after) > 100


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_is_smoothed_along_its_inner_dimension(quantised: Any, transposed: int) -> None:
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(3, 5) if transposed else (5, 3))
    node = onnx.helper.make_node("Gemm", ["x", "w"], ["y"], name="g", transB=transposed)
    model = quantised.model_of([node], {"x": ["n", 5]}, {"y": ["n", 3]}, [quantised.tensor("w", weight)])
    feeds = [{"x": generator.normal(size=(1, 5)).astype(np.float32) * [[1, 1, 50, 1, 1]]} for _ in range(4)]
    feeds = [{"x": feed["x"].astype(np.float32)} for feed in feeds]
    made = smooth.smooth(model, smooth.channel_absmax(model, feeds), 0.5)
    assert made.products_n == 1
    before, after = (Session(each.SerializeToString()).run_all(feeds) for each in (model, made.model))
    assert sqnr_db(before, after) > 100


def test_a_channel_that_is_never_used_keeps_its_weights(quantised: Any) -> None:
    assert smooth._scale(np.array([0.0, 4.0]), [np.ones((2, 3))], 0.5).tolist() == [1.0, 2.0]  # type: ignore[union-attr]


def test_int8_of_a_transformer_with_outlier_channels_gains_by_smoothing(quantised: Any, tmp_path: Path) -> None:
    request = quantised.request_for(
        tmp_path, quantised.outlier_transformer(), "ort/cpu/int8", {"x": samples()}, task="embedding"
    )
    answer = ort.build(request)
    plain = max(float(answer.options[f"{name}_sqnr_db"]) for name in ("minmax", "percentile", "entropy", "mse"))
    smoothed = float(answer.options["smoothed_minmax_sqnr_db"])
    assert smoothed > plain + 10
    assert answer.options["smoothquant"] is True
    assert answer.options["smoothquant_strength"] in smooth.STRENGTHS
    assert int(answer.options["fused_integer_nodes_n"]) >= 6


@pytest.mark.parametrize(("wanted_db", "met"), [(37.0, True), (80.0, False)])
def test_an_int8_transformer_below_its_aim_returns_a_fifth_of_its_weights_at_most(
    quantised: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted_db: float, met: bool
) -> None:
    monkeypatch.setattr(ort_int8, "EXACT_DB", wanted_db)
    request = quantised.request_for(
        tmp_path, quantised.outlier_transformer(), "ort/cpu/int8", {"x": samples()}, task="embedding"
    )
    options = ort.build(request).options
    assert options["weights_fitted"] is True
    assert options["mixed_meets_target"] is met
    assert 0.0 < float(options["kept_float_weights_share"]) <= 0.2
    assert (
        float(options["mixed_sqnr_db"]) > float(options["fitted_sqnr_db"]) > float(options["smoothed_minmax_sqnr_db"])
    )
    assert (float(options["mixed_sqnr_db"]) >= wanted_db) is met
