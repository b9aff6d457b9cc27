"""How samples become inferences, and outputs become one array a name."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from edgefleet_agent.outputs import TimeboxError, make_feeder, run_samples
from edgefleet_agent.preprocess import InputMismatchError
from edgefleet_agent.samples import Samples
from edgefleet_contract.artifact import TensorSpec


class Model:
    """A session that computes what a function says."""

    def __init__(self, compute: Callable[..., dict[str, np.ndarray]]) -> None:
        self.compute = compute
        self.shapes: list[dict[str, tuple[int, ...]]] = []

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.shapes.append({name: value.shape for name, value in feeds.items()})
        return self.compute(**feeds)


def spec(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def ran(model: Model, specs: list[TensorSpec], **inputs: np.ndarray) -> dict[str, np.ndarray]:
    feeder = make_feeder(Samples({name: value.astype(np.float32) for name, value in inputs.items()}, None), specs, {})
    return run_samples(model, feeder, limit_s=10.0, monotonic_s=lambda: 0.0)  # type: ignore[arg-type]


X = np.arange(12.0).reshape(6, 2)


@pytest.mark.parametrize("first", ["batch", 1])
def test_a_dynamic_or_single_batch_runs_one_sample_at_a_time(first: int | str) -> None:
    model = Model(lambda x: {"y": x * 2})
    assert ran(model, [spec("x", first, 2)], x=X)["y"].tolist() == (X * 2).tolist()
    assert model.shapes == [{"x": (1, 2)}] * 6


def test_a_fixed_batch_runs_whole_batches() -> None:
    model = Model(lambda x: {"y": x * 2})
    assert ran(model, [spec("x", 3, 2)], x=X)["y"].tolist() == (X * 2).tolist()
    assert model.shapes == [{"x": (3, 2)}] * 2


def test_a_fixed_batch_that_does_not_divide_the_samples_is_refused() -> None:
    with pytest.raises(InputMismatchError, match=r"4 samples at a time.*6 samples"):
        ran(Model(lambda x: {"y": x}), [spec("x", 4, 2)], x=X)


def test_inputs_of_different_fixed_batches_are_refused() -> None:
    with pytest.raises(InputMismatchError, match="different fixed first axes"):
        ran(Model(lambda x, z: {"y": x + z}), [spec("x", 2, 2), spec("z", 3, 2)], x=X, z=X)


def test_an_input_without_a_sample_axis_takes_one_whole_sample() -> None:
    model = Model(lambda x, rate: {"y": x * rate})
    rate = np.arange(6.0)
    outputs = ran(model, [spec("x", "batch", 2), spec("rate")], x=X, rate=rate)
    assert outputs["y"].tolist() == (X * rate[:, None]).tolist()
    assert model.shapes[0] == {"x": (1, 2), "rate": ()}


def test_outputs_are_joined_by_the_shape_that_came() -> None:
    model = Model(lambda x: {"rows": x, "sequence_first": np.tile(x, (5, 1)), "scalar": np.float32(x.sum())})
    outputs = ran(model, [spec("x", "batch", 2)], x=X)
    assert {name: value.shape for name, value in outputs.items()} == {
        "rows": (6, 2),
        "sequence_first": (6, 5, 2),
        "scalar": (6,),
    }


def test_an_output_that_changes_its_shape_is_refused() -> None:
    lengths = itertools.count(2)
    with pytest.raises(InputMismatchError, match="changes its shape"):
        ran(Model(lambda x: {"boxes": np.resize(x, (next(lengths), 4))}), [spec("x", "batch", 2)], x=X)


@pytest.mark.parametrize("shape", [("batch", 3), ("batch", 2, 2)])
def test_samples_of_another_shape_are_told_what_the_model_takes(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(InputMismatchError, match="the model takes x float32"):
        ran(Model(lambda x: {"y": x}), [spec("x", *shape)], x=X)


def test_a_run_that_takes_too_long_says_how_far_it_came() -> None:
    seconds = itertools.count()
    feeder = make_feeder(Samples({"x": X.astype(np.float32)}, None), [spec("x", "batch", 2)], {})
    with pytest.raises(TimeboxError, match="3 of 6 samples ran in 3 s"):
        run_samples(
            Model(lambda x: {"y": x}),  # type: ignore[arg-type]
            feeder,
            limit_s=3.0,
            monotonic_s=lambda: float(next(seconds)),
        )
