"""ONNX's own node tests: those pinned match, the others are refused, none is wrong unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import onnx_nodes

SAMPLE = (
    "test_abs", "test_add_bcast", "test_argmax_default_axis_example_select_last_index", "test_attention_4d_gqa",
    "test_averagepool_2d_dilations", "test_basic_conv_with_padding", "test_batchnorm_example", "test_concat_2d_axis_1",
    "test_elu", "test_gru_defaults", "test_hardswish", "test_layer_normalization_4d_axis2", "test_lppool_2d_dilations",
    "test_lstm_with_peepholes", "test_matmul_3d", "test_onehot_with_axis", "test_reduce_mean_keepdims_example",
    "test_reshape_reordered_last_dims", "test_resize_upsample_scales_cubic", "test_rms_normalization_2d_axis1",
    "test_scan9_sum", "test_softmax_axis_1", "test_split_equal_parts_2d", "test_transpose_default",
    "test_dft", "test_size",
)  # fmt: skip
REFUSED = ("test_bitcast_float32_to_int32", "test_unique_sorted_without_axis", "test_loop11", "test_gridsample_bicubic")
"""Operators for which there is no TFLite file."""


@pytest.fixture(scope="module")
def pinned(repository: Path) -> frozenset[str]:
    path = repository / "tests" / "data" / "onnx_nodes" / "tflite_pass.txt"
    return frozenset(path.read_text(encoding="utf-8").split())


@pytest.mark.timeout(300)
def test_a_sample_of_pinned_cases_matches_and_others_are_refused(pinned: frozenset[str]) -> None:
    taken = {name: case for name, case in onnx_nodes.cases().items() if name in {*SAMPLE, *REFUSED}}
    assert len(taken) == len(SAMPLE) + len(REFUSED)
    outcomes = dict(onnx_nodes.run_all(taken))
    assert {name: outcomes[name].status for name in SAMPLE} == dict.fromkeys(SAMPLE, onnx_nodes.MATCH)
    assert {name: outcomes[name].status for name in REFUSED} == dict.fromkeys(REFUSED, onnx_nodes.REFUSED)
    assert all(outcomes[name].ort_same for name in outcomes)
    assert set(SAMPLE) <= pinned
    assert not pinned & set(REFUSED)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_pinned_case_matches_and_none_is_wrong_unseen(pinned: frozenset[str]) -> None:
    taken = onnx_nodes.cases()
    outcomes = dict(onnx_nodes.run_all(taken))
    statuses = {name: outcome.status for name, outcome in outcomes.items()}
    assert [name for name, status in statuses.items() if status == onnx_nodes.WRONG] == []
    assert sorted(pinned - {name for name, status in statuses.items() if status == onnx_nodes.MATCH}) == []
    assert len(pinned) >= 0.88 * len(taken)
    assert all(outcome.ort_same for outcome in outcomes.values() if outcome.ort_same is not None)
