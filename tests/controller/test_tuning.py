"""The rules of a search: what is tried, what is on the frontier, and what is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.stats import binomtest

from edgefleet_contract.errors import UserInputError
from edgefleet_contract.tuning import Recipe, TunedModel, TunedPoint
from edgefleet_controller.cli.plot import _latency_axis, _scatter
from edgefleet_controller.cli.render_tune import verdict_of
from edgefleet_controller.frontier import Noise, choose_recipes, with_frontier
from edgefleet_controller.paired import outcomes, p_value
from edgefleet_controller.tuned_file import SUFFIX, read_tuned, recipes_beside, write_tuned
from edgefleet_controller.tuning import recipes_for

DIGEST = "sha256:" + "a" * 64


def point(accuracy: float, p50_ms: float | None, size_bytes: int, **more: Any) -> TunedPoint:
    given = {"variant": "ort/cpu/int8", "recipe": Recipe(), "verdict": "pass", "accuracy_is": "metric", **more}
    interval = None if p50_ms is None else (p50_ms * 0.99, p50_ms * 1.01)
    return TunedPoint.model_validate(
        {**given, "accuracy": accuracy, "p50_ms": p50_ms, "size_bytes": size_bytes, "ci95_p50_ms": interval}
    )


@pytest.mark.parametrize(
    ("verdict", "within_limits", "shown"),
    [("pass", True, "pass"), ("weak", False, "over a limit"), ("unsupported", False, "unsupported")],
)
def test_what_was_never_built_is_not_said_to_be_over_a_limit(verdict: str, within_limits: bool, shown: str) -> None:
    assert verdict_of(point(0.9, 1.0, 100, verdict=verdict, within_limits=within_limits)) == shown


ENTROPY, MSE = Recipe(calibration="entropy"), Recipe(calibration="mse")


ATTENTION = {"MatMul", "Softmax"}


@pytest.mark.parametrize(
    ("variant", "operators", "recipes_n"),
    [
        ("ort/cpu/fp32", ATTENTION, 1),
        ("ort/cpu/int8", {"Conv", "Softmax"}, 8),
        ("ort/cpu/int8", ATTENTION, 9),
        ("tflite/xnnpack/fp16", ATTENTION, 1),
        ("tflite/xnnpack/int8-dynamic", ATTENTION, 1),
        ("tflite/xnnpack/int8", {"Conv"}, 6),
        ("tflite/xnnpack/int8", ATTENTION, 9),
        ("tflite/cpu/int16x8", ATTENTION, 4),
        ("tflite/edgetpu/int8", ATTENTION, 3),
    ],
)
def test_what_is_tried_follows_what_a_build_leaves_to_choose(variant: str, operators: set[str], recipes_n: int) -> None:
    recipes = recipes_for(variant, operators)
    assert recipes[0] == Recipe()
    assert len(set(map(str, recipes))) == len(recipes) == recipes_n


@pytest.mark.parametrize(
    ("one_n", "other_n", "expected"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (8, 1, 0.0390625)]
)
def test_a_difference_is_judged_by_the_samples_only_one_is_right_on(one_n: int, other_n: int, expected: float) -> None:
    assert p_value(one_n, other_n) == p_value(other_n, one_n) == pytest.approx(expected)


@given(st.integers(0, 400), st.integers(0, 400))
def test_the_paired_test_agrees_with_the_binomial_test_of_scipy(one_n: int, other_n: int) -> None:
    if one_n + other_n:
        assert p_value(one_n, other_n) == pytest.approx(binomtest(one_n, one_n + other_n).pvalue, abs=1e-9)


RIGHT = (True,) * 100


def wrong(*places: int) -> tuple[bool, ...]:
    return tuple(place not in places for place in range(100))


def test_one_sample_more_is_noise_so_the_default_stays_or_the_cheaper_is_chosen() -> None:
    default = point(0.99, 1.0, 100, samples_n=100)
    better, cheaper = (
        point(1.0, 1.0, 100, samples_n=100, recipe=ENTROPY),
        point(0.98, 0.5, 100, samples_n=100, recipe=MSE),
    )
    assert choose_recipes([default, better]) == {}
    assert choose_recipes([default, better, cheaper]) == {"ort/cpu/int8": MSE}
    assert [each.frontier for each in with_frontier([default, better, cheaper])] == [False, False, True]


def test_outcomes_decide_where_counts_alone_leave_it_open() -> None:
    """Ten samples fewer: telling when the others are the same, noise when as many others are gained."""
    default, other = point(1.0, 1.0, 100, samples_n=100), point(0.9, 0.5, 100, samples_n=100, recipe=MSE)
    keys = [("ort/cpu/int8", each.recipe) for each in (default, other)]
    told = Noise(dict(zip(keys, (RIGHT, wrong(*range(10))), strict=True)))
    assert choose_recipes([default, other], told) == {}
    unlike = Noise(dict(zip(keys, (wrong(*range(20, 60)), wrong(*range(50))), strict=True)))
    assert choose_recipes([default, other], unlike) == {"ort/cpu/int8": MSE}


def test_decibels_within_one_of_each_other_are_equal() -> None:
    default = point(30.0, 1.0, 100, accuracy_is="worst_sqnr_db")
    near, far = (point(db, 1.0, 100, accuracy_is="worst_sqnr_db", recipe=MSE) for db in (30.9, 31.1))
    assert choose_recipes([default, near]) == {}
    assert choose_recipes([default, far]) == {"ort/cpu/int8": MSE}


@given(st.lists(st.tuples(st.integers(80, 100), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=12))
def test_with_noise_too_whatever_is_off_the_frontier_is_beaten_by_one_on_it(
    figures: list[tuple[int, int, int]],
) -> None:
    points = [point(right_n / 100, float(b), c, samples_n=100) for right_n, b, c in figures]
    front = [each for each in with_frontier(points) if each.frontier]
    for each in points:
        assert any(
            ((o.accuracy or 0) >= (each.accuracy or 0) or not Noise().differ(o, each))
            and (o.p50_ms or 0) <= (each.p50_ms or 0)
            and (o.size_bytes or 0) <= (each.size_bytes or 0)
            for o in front
        )


def test_outcomes_are_read_from_an_artifacts_folder(tmp_path: Path) -> None:
    scores = np.eye(4, dtype=np.float32)
    np.savez(tmp_path / "source_outputs.npz", y=scores)
    np.savez(tmp_path / "artifact_outputs.npz", y=scores[[0, 1, 2, 2]])
    np.savez(tmp_path / "samples.npz", x=scores, labels=np.array([0, 3, 2, 2]))
    assert outcomes(tmp_path, "agreement") == (True, True, True, False)
    assert outcomes(tmp_path, "metric") == (True, False, True, True)
    np.savez(tmp_path / "artifact_outputs.npz", y=scores[:, :1])
    assert outcomes(tmp_path, "agreement") is None
    (tmp_path / "samples.npz").write_bytes(b"no")
    assert outcomes(tmp_path, "metric") is None


def test_a_point_worse_in_everything_is_not_on_the_frontier() -> None:
    marked = with_frontier([point(0.9, 1.0, 100), point(0.8, 2.0, 200), point(0.95, 3.0, 300)])
    assert [each.frontier for each in marked] == [True, False, True]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=12))
def test_every_point_is_on_the_frontier_or_beaten_by_one_that_is(figures: list[tuple[int, int, int]]) -> None:
    marked = with_frontier([point(float(a), float(b), c) for a, b, c in figures])
    front = [each for each in marked if each.frontier]
    assert front
    for each in marked:
        assert any(
            (o.accuracy or 0) >= (each.accuracy or 0)
            and (o.p50_ms or 0) <= (each.p50_ms or 0)
            and (o.size_bytes or 0) <= (each.size_bytes or 0)
            for o in front
        )


def test_what_failed_or_breaks_a_limit_is_neither_on_the_frontier_nor_chosen() -> None:
    marked = with_frontier(
        [
            point(1.0, 0.1, 1, verdict="failed", recipe=ENTROPY),
            point(1.0, 0.1, 1, within_limits=False, recipe=MSE),
            point(0.5, 1.0, 9),
        ]
    )
    assert [each.frontier for each in marked] == [False, False, True]
    assert choose_recipes(marked) == {}


@pytest.mark.parametrize(
    ("other", "chosen"),
    [
        (point(0.95, 2.0, 100, recipe=ENTROPY), True),
        (point(0.90, 0.5, 100, recipe=ENTROPY), True),
        (point(0.90, 0.995, 100, recipe=ENTROPY), False),
        (point(0.90, 1.0, 99, recipe=ENTROPY), False),
        (point(0.90, 1.0, 90, recipe=ENTROPY), True),
        (point(0.89, 0.1, 1, recipe=ENTROPY), False),
    ],
)
def test_a_recipe_is_chosen_only_where_it_beats_the_default_by_more_than_chance(
    other: TunedPoint, chosen: bool
) -> None:
    for points in ([point(0.90, 1.0, 100), other], [other, point(0.90, 1.0, 100)]):
        assert choose_recipes(points) == ({"ort/cpu/int8": ENTROPY} if chosen else {})


def test_a_result_is_found_beside_its_source_and_used_for_that_content_only(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    assert recipes_beside(source, DIGEST) == ({}, None)
    recipes = {"ort/cpu/int8": ENTROPY}
    tuned = TunedModel(model="m", source=DIGEST, conditions="here", points=(), recipes=recipes)
    write_tuned(tuned, tmp_path / f"m.onnx{SUFFIX}")
    assert recipes_beside(source, DIGEST) == (recipes, None)
    found, remark = recipes_beside(source, "sha256:" + "b" * 64)
    assert found == {}
    assert remark is not None
    assert "fleet tune" in remark


def test_a_damaged_result_is_the_users_error(tmp_path: Path) -> None:
    path = tmp_path / "x.tuned.json"
    path.write_text("{}")
    with pytest.raises(UserInputError, match="not the result of a search"):
        read_tuned(path)


def test_only_points_on_the_frontier_have_a_ring_in_the_picture() -> None:
    axes = Figure().subplots()
    _scatter(axes, [point(0.9, 1.0, 100, frontier=True), point(0.8, 2.0, 200)])
    assert np.asarray(axes.collections[0].get_linewidth()).tolist() == [1.5, 0.0]


@pytest.mark.parametrize("p50s_ms", [[0.0004, 0.004], [8.5, 8.6], [1.0], [0.02, 900.0]])
def test_the_latency_axis_is_marked_with_durations_in_sight(p50s_ms: list[float]) -> None:
    axes = Figure().subplots()
    _latency_axis(axes, p50s_ms)
    low, high = axes.get_xlim()
    marks = [float(mark) for mark in axes.get_xticks()]
    assert len(marks) >= 4
    assert all(low <= mark <= high for mark in marks)
    texts = axes.xaxis.get_major_formatter().format_ticks(marks)
    assert len(set(texts)) == len(marks)
    assert all(text.endswith("s") for text in texts)
