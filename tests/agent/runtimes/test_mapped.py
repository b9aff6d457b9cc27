"""A session behind a map speaks the source's names and axes, and computes what the file computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.runtimes.base import Array, Feeds, InferenceFailedError, LoadFailedError
from edgefleet_agent.runtimes.mapped import MappedSession, mapped
from edgefleet_contract.artifact import Dim, TensorMap, TensorSpec


class Doubling:
    """A model file that doubles its inputs: input `in:k` becomes output `out:k`."""

    def __init__(self, *shapes: tuple[Dim, ...]) -> None:
        self.inputs = tuple(spec(f"in:{k}", shape) for k, shape in enumerate(shapes))
        self.outputs = tuple(spec(f"out:{k}", shape) for k, shape in enumerate(shapes))
        self.resets_n = 0
        self.bound: Feeds = {}

    def run(self, feeds: Feeds) -> dict[str, Array]:
        for declared in self.inputs:
            value = feeds[declared.name]
            assert value.flags["C_CONTIGUOUS"]
            assert all(size in {"?", got} for size, got in zip(declared.shape, value.shape, strict=True))
        return {given.name: feeds[taken.name] * 2 for taken, given in zip(self.inputs, self.outputs, strict=True)}

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        self.bound = feeds
        return lambda: None

    def placement(self) -> None:
        return None

    def reset(self) -> None:
        self.resets_n += 1

    def close(self) -> None:
        return None


def spec(name: str, shape: tuple[Dim, ...]) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


@st.composite
def axes_and_shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rank = draw(st.integers(1, 5))
    return tuple(draw(st.permutations(range(rank)))), tuple(draw(st.integers(1, 4)) for _ in range(rank))


@given(st.lists(axes_and_shapes(), min_size=1, max_size=3))
def test_there_and_back_is_the_same_for_any_axes(drawn: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    file = Doubling(*(tuple(shape[axis] for axis in axes) for axes, shape in drawn))
    session = mapped(
        file,
        {f"x{k}": TensorMap(name=f"in:{k}", axes=axes) for k, (axes, _) in enumerate(drawn)},
        {f"y{k}": TensorMap(name=f"out:{k}", axes=axes) for k, (axes, _) in enumerate(drawn)},
    )
    assert [taken.shape for taken in session.inputs] == [shape for _, shape in drawn]
    assert [given.name for given in session.outputs] == [f"y{k}" for k in range(len(drawn))]
    feeds = {f"x{k}": np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for k, (_, shape) in enumerate(drawn)}
    outputs = session.run(feeds)
    for k in range(len(drawn)):
        assert np.array_equal(outputs[f"y{k}"], feeds[f"x{k}"] * 2)
    session.bind(feeds)
    for k, (axes, _) in enumerate(drawn):
        assert np.array_equal(file.bound[f"in:{k}"], feeds[f"x{k}"].transpose(axes))


def test_what_a_map_leaves_out_is_the_same_in_both() -> None:
    session = mapped(Doubling((2, 3), (4,)), {"image": TensorMap(name="in:0", axes=(1, 0))}, {})
    assert [(taken.name, taken.shape) for taken in session.inputs] == [("image", (3, 2)), ("in:1", (4,))]
    outputs = session.run({"image": np.ones((3, 2), np.float32), "in:1": np.ones(4, np.float32)})
    assert {name: value.shape for name, value in outputs.items()} == {"out:0": (2, 3), "out:1": (4,)}


def test_without_a_map_the_session_is_the_file_s_own() -> None:
    file = Doubling((1,))
    assert mapped(file, {}, {}) is file


def test_a_dynamic_axis_moves_with_its_place() -> None:
    session = mapped(Doubling(("?", 28, 28, 1)), {"image": TensorMap(name="in:0", axes=(0, 2, 3, 1))}, {})
    assert session.inputs[0].shape == ("?", 1, 28, 28)


def test_forgetting_reaches_the_file() -> None:
    file = Doubling((1,))
    MappedSession(file, {"x": TensorMap(name="in:0")}, {}).reset()
    assert file.resets_n == 1


@pytest.mark.parametrize(
    ("maps", "word"),
    [
        ({"x": TensorMap(name="absent")}, "absent"),
        ({"x": TensorMap(name="in:0"), "z": TensorMap(name="in:0")}, "may name once"),
        ({"x": TensorMap(name="in:0", axes=(1, 0))}, "2 axes"),
        ({"in:1": TensorMap(name="in:0")}, "one name to two"),
    ],
)
def test_a_map_that_does_not_fit_its_file_fails_to_load(maps: dict[str, TensorMap], word: str) -> None:
    with pytest.raises(LoadFailedError, match=word):
        mapped(Doubling((4,), (4,)), maps, {})


def test_feeds_and_outputs_of_another_rank_fail_the_inference() -> None:
    session = mapped(Doubling((2, 3)), {"x": TensorMap(name="in:0", axes=(1, 0))}, {})
    with pytest.raises(InferenceFailedError, match="2 axes"):
        session.run({"x": np.ones((3, 2, 1), np.float32)})
    with pytest.raises(InferenceFailedError, match="got 'y'"):
        session.run({"y": np.ones((3, 2), np.float32)})

    class Lying(Doubling):
        def run(self, feeds: Feeds) -> dict[str, Array]:
            return {"out:0": np.ones(3, np.float32)}

    lying = mapped(Lying((2, 3)), {}, {"y": TensorMap(name="out:0", axes=(1, 0))})
    with pytest.raises(InferenceFailedError, match="came with shape"):
        lying.run({"in:0": np.ones((2, 3), np.float32)})
