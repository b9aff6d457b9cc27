"""The rules of a search: what is tried, what is on the frontier, and what is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_contract.errors import UserInputError
from edgefleet_contract.tuning import Recipe, TunedModel, TunedPoint
from edgefleet_controller.cli.render_tune import verdict_of
from edgefleet_controller.tuning import (
    SUFFIX,
    choose_recipes,
    read_tuned,
    recipes_beside,
    recipes_for,
    with_frontier,
    write_tuned,
)

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


def test_only_static_int8_of_onnx_runtime_leaves_something_to_choose() -> None:
    assert recipes_for("ort/cpu/fp32") == (Recipe(),)
    assert len(recipes_for("ort/cpu/int8")) == len(set(map(str, recipes_for("ort/cpu/int8")))) == 8


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
