"""Mixed precision: which layers go back to float, and that it rescues what plain int8 breaks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_controller.compile import steps
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ort import target as ort
from edgefleet_controller.compile.ort.session import Session
from edgefleet_controller.compile.quantise import mixed, mixed_search, sensitivity
from edgefleet_controller.compile.quantise.mixed_search import Candidate
from edgefleet_controller.compile.quantise.qdq import QdqLayout, write_qdq
from edgefleet_controller.compile.quantise.ranges import observe, ranges_by
from edgefleet_controller.compile.steps import StepError


def candidate(name: str, weight_bytes: int, noise: float) -> Candidate:
    return Candidate(name, "Conv", weight_bytes, 0, noise)


def test_the_fewest_bytes_go_back_that_leave_the_noise_within_its_budget() -> None:
    layers = [candidate("large", 1000, 0.5), candidate("small", 10, 0.4), candidate("quiet", 1, 0.01)]
    assert mixed_search.solve(layers, 1.0) == frozenset()
    assert mixed_search.solve(layers, 0.55) == {"small"}
    assert mixed_search.solve(layers, 0.45) == {"large"}
    assert mixed_search.solve(layers, 0.05) == {"large", "small"}
    assert mixed_search.solve(layers, 0.0) == {"large", "small", "quiet"}


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(1e-6, 1.0)), min_size=1, max_size=8),
    st.floats(0.0, 1.0),
)
def test_the_integer_programme_is_no_worse_than_trying_every_choice(
    parts: list[tuple[int, float]], share: float
) -> None:
    layers = [candidate(f"l{index}", size, noise) for index, (size, noise) in enumerate(parts)]
    total = sum(noise for _, noise in parts)
    keep = mixed_search.solve(layers, share * total)
    left = sum(each.noise for each in layers if each.name not in keep)
    assert left <= share * total + 1e-6 * total
    cost = sum(each.weight_bytes + 1 for each in layers if each.name in keep)
    choices = range(2 ** len(layers))
    best = min(
        sum(layers[i].weight_bytes + 1 for i in range(len(layers)) if bits >> i & 1)
        for bits in choices
        if sum(layers[i].noise for i in range(len(layers)) if not bits >> i & 1) <= share * total
    )
    assert cost <= best * (1 + 1e-4) + 1


def clear_images(quantised: Any, model: onnx.ModelProto) -> Any:
    images = np.random.default_rng(0).normal(size=(256, 8, 8, 8)).astype(np.float32)
    return np.random.default_rng(1).permutation(quantised.clear_cases(model, images, 128))


def test_a_model_whose_plain_int8_fails_its_metric_is_rescued_with_few_weights_in_float(
    quantised: Any, tmp_path: Path
) -> None:
    model = quantised.wide_range()
    arrays = {"image": clear_images(quantised, model)}
    request = quantised.request_for(tmp_path, model, "ort/cpu/int8", arrays, labelled=True)
    options = ort.build(request).options
    assert max(float(options[f"{name}_top1"]) for name in ("minmax", "percentile", "entropy", "mse")) < 0.6
    assert "top-1 falls by" in str(options["plain_int8_misses"])
    assert options["mixed_meets_target"] is True
    assert float(options["kept_float_weights_share"]) <= 0.2
    assert options["kept_float"] == "depthwise"
    assert float(options["mixed_sqnr_db"]) > 25
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"))
    assert "depthwise 2." in str(options["layer_noise_db"])


def test_without_labels_the_trial_that_devices_will_hold_decides(quantised: Any, tmp_path: Path) -> None:
    model = quantised.wide_range()
    arrays = {"image": clear_images(quantised, model)}
    options = ort.build(quantised.request_for(tmp_path, model, "ort/cpu/int8", arrays)).options
    assert "output 'logits'" in str(options["plain_int8_misses"])
    assert options["kept_float"] == "depthwise"


def test_a_comparison_that_crashes_ends_the_build_instead_of_counting_as_a_miss(
    quantised: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "WORKER_ARGV", (sys.executable, "-c", "import os; os.abort()"))
    images = {"image": np.random.default_rng(0).normal(size=(64, 8, 8, 8)).astype(np.float32)}
    with pytest.raises(StepError, match="SIGABRT"):
        ort.build(quantised.request_for(tmp_path, quantised.wide_range(spread=1.0), "ort/cpu/int8", images))


@pytest.mark.parametrize("variant", ["ort/cpu/int8", "ort/cpu/fp16", "ort/cpu/int4"])
def test_the_same_request_gives_the_same_bytes_and_figures(quantised: Any, tmp_path: Path, variant: str) -> None:
    model = quantised.wide_range()
    arrays = {"image": clear_images(quantised, model)}
    made = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        answer = ort.build(quantised.request_for(tmp_path / name, model, variant, arrays, labelled=True))
        made.append(((tmp_path / name / "out.onnx").read_bytes(), answer.options))
    assert made[0] == made[1]


def test_a_model_that_int8_suits_keeps_no_layer_in_float(quantised: Any, tmp_path: Path) -> None:
    model = quantised.wide_range(spread=1.0)
    arrays = {"image": clear_images(quantised, model)}
    options = ort.build(quantised.request_for(tmp_path, model, "ort/cpu/int8", arrays, labelled=True)).options
    assert "plain_int8_misses" not in options
    assert "kept_float" not in options


def measured(quantised: Any) -> tuple[onnx.ModelProto, Any, Any, list[Any]]:
    model = onnx.shape_inference.infer_shapes(quantised.wide_range())
    feeds = [{"image": each[None]} for each in clear_images(quantised, model)[:8]]
    seen = observe(model, feeds)
    return model, ranges_by("minmax", seen), seen, feeds


def test_noise_is_measured_for_each_layer_alone_and_finds_the_one_that_breaks(quantised: Any) -> None:
    model, ranges, seen, feeds = measured(quantised)
    found = sensitivity.measure(model, ranges, seen, feeds, reduce_range=True, symmetric=False)
    assert [each.name for each in found] == ["expand", "depthwise", "body", "head"]
    noise = {each.name: each.noise for each in found}
    assert noise.pop("depthwise") > 100 * max(noise.values()) > 0
    assert [each.weight_bytes for each in found] == [4 * 256, 4 * 288, 4 * 9216, 4 * 3072]


def test_the_noise_of_one_layer_is_that_of_a_file_with_that_layer_rounded(quantised: Any) -> None:
    model, ranges, seen, feeds = measured(quantised)
    found = {each.name: each.noise for each in sensitivity.measure(
        model, ranges, seen, feeds, reduce_range=True, symmetric=False)}  # fmt: skip
    others = frozenset(node.name for node in model.graph.node) - {"head"}
    made = write_qdq(model, ranges, QdqLayout.U8S8, keep_float=others)
    before, after = (Session(each.SerializeToString(), optimise=False) for each in (model, made))
    shares = []
    for feed in feeds:
        wanted, got = before.run(feed)[0], after.run(feed)[0]
        shares.append(float(np.sum((wanted - got) ** 2) / np.sum(wanted**2)))
    # The file also rounds the last output, which the switch leaves alone.
    assert np.mean(shares) == pytest.approx(found["head"], rel=0.5)


def test_a_kept_layer_reads_its_input_unrounded(quantised: Any) -> None:
    model, ranges, _, _ = measured(quantised)
    keep = mixed.with_pass_through(model, frozenset({"depthwise"}))
    assert keep == {"depthwise", "cut"}
    made = write_qdq(model, ranges, QdqLayout.U8S8, keep_float=keep)
    makers = {name: node for node in made.graph.node for name in node.output}
    kept = next(node for node in made.graph.node if node.name == "depthwise")
    assert makers[kept.input[0]].op_type == "Relu"
    assert makers[makers[kept.input[0]].input[0]].op_type == "Conv"


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_model_whose_weights_lie_in_branches_is_refused_with_the_reason(
    quantised: Any, tmp_path: Path, precision: str
) -> None:
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["image", "w"], ["r"])], "b", [],
        [onnx.helper.make_tensor_value_info("r", 1, ["n", 4])],
        [quantised.tensor("w", np.eye(4))],
    )  # fmt: skip
    nodes = [
        onnx.helper.make_node("ReduceSum", ["image"], ["total"], keepdims=0),
        onnx.helper.make_node("Greater", ["total", "zero"], ["up"]),
        onnx.helper.make_node("If", ["up"], ["y"], then_branch=branch, else_branch=branch),
    ]
    model = quantised.model_of(nodes, {"image": ["n", 4]}, {"y": ["n", 4]}, [quantised.tensor("zero", np.zeros(()))])
    images = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    with pytest.raises(CompileFaultError, match="the 2 float32 tensors its If, Loop or Scan read inside") as caught:
        ort.build(quantised.request_for(tmp_path, model, f"ort/cpu/{precision}", {"image": images}))
    assert caught.value.family == "unsupported"
