"""Which tensor of one model stands for which of another, from names and shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.match import match_samples, match_tensors
from edgefleet_agent.preprocess import InputMismatchError
from edgefleet_contract.artifact import Dim, TensorMap, TensorSpec


def spec(name: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def test_channels_last_is_recognised_and_said() -> None:
    match = match_tensors([spec("image", "batch", 3, 224, 224)], [spec("image", "?", 224, 224, 3)], "input")
    assert match.maps == {"image": TensorMap(name="image", axes=(0, 2, 3, 1))}
    assert match.assumed == ("input 'image' has the axes of 'image' in the order [0, 2, 3, 1]",)


def test_tensors_that_are_alike_need_no_map() -> None:
    assert match_tensors([spec("a", 1, 3), spec("b", "n")], [spec("b", "?"), spec("a", 1, 3)], "input").maps == {}


def test_renamed_tensors_are_taken_by_their_place() -> None:
    match = match_tensors([spec("a", 1, 3), spec("b", 4)], [spec("x", 1, 3), spec("y", 4)], "output")
    assert match.maps == {"a": TensorMap(name="x"), "b": TensorMap(name="y")}
    assert len(match.assumed) == 2


def test_an_order_nobody_uses_is_taken_where_it_is_the_only_one() -> None:
    assert match_tensors([spec("a", 2, 3, 4)], [spec("a", 4, 2, 3)], "input").maps["a"].axes == (2, 0, 1)


@pytest.mark.parametrize(
    ("left", "right", "word"),
    [
        ([spec("a", 1)], [spec("a", 1), spec("b", 1)], "differ in number"),
        ([spec("a", 1, 2)], [spec("a", 1, 2, 1)], "no one order"),
        ([spec("a", 1, 2)], [spec("a", 1, 3)], "no one order"),
        ([spec("a", 2, 2, 3)], [spec("a", 3, 2, 2)], "no one order"),
        ([spec("a", *range(1, 8))], [spec("a", *reversed(range(1, 8)))], "no one order"),
    ],
)
def test_what_does_not_fit_or_could_be_several_things_is_refused(
    left: list[TensorSpec], right: list[TensorSpec], word: str
) -> None:
    with pytest.raises(InputMismatchError, match=word):
        match_tensors(left, right, "input")


@given(st.permutations(range(4)))
def test_distinct_sizes_find_their_order(axes: list[int]) -> None:
    shape = (2, 3, 5, 7)
    match = match_tensors([spec("a", *shape)], [spec("a", *(shape[axis] for axis in axes))], "input")
    found = match.maps["a"].axes if match.maps else tuple(range(4))
    assert found == tuple(axes)


def test_images_are_put_channels_last_beside_a_state_that_has_no_sample_axis() -> None:
    raw = {"image": np.zeros((9, 3, 8, 6), np.float32), "before": np.zeros((9, 2, 1, 16), np.float32)}
    takes = [
        TensorSpec(name="image", dtype="float32", shape=(1, 8, 6, 3)),
        TensorSpec(name="before", dtype="float32", shape=(2, 1, 16)),
    ]
    assert {name: each.axes for name, each in match_samples(raw, {}, takes).maps.items()} == {"image": (0, 2, 3, 1)}
