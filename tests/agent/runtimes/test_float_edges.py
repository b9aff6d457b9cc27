"""Quantised inputs and outputs in floating point."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefleet_agent.runtimes.base import Array, Feeds
from edgefleet_agent.runtimes.float_edges import FloatEdges, Scale, with_float_edges
from edgefleet_agent.runtimes.litert import RUNTIME
from edgefleet_contract.artifact import TensorSpec
from edgefleet_contract.variant import parse_variant


class Echo:
    """A quantised model that gives what it takes, and an integer count that is no quantised number."""

    inputs = (TensorSpec(name="x", dtype="int8", shape=(4,)), TensorSpec(name="n", dtype="int32", shape=(1,)))
    outputs = (TensorSpec(name="y", dtype="int8", shape=(4,)), TensorSpec(name="m", dtype="int32", shape=(1,)))

    def __init__(self) -> None:
        self.took: Feeds = {}
        self.resets_n = 0

    @property
    def scales(self) -> dict[str, Scale]:
        return {"x": Scale(0.5, 10), "y": Scale(0.5, 10)}

    def run(self, feeds: Feeds) -> dict[str, Array]:
        self.took = feeds
        return {"y": feeds["x"], "m": feeds["n"]}

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        self.took = feeds
        return lambda: None

    def placement(self) -> None:
        return None

    def reset(self) -> None:
        self.resets_n += 1

    def close(self) -> None:
        return None


FEEDS = {"x": np.array([0.0, 0.3, 1e9, -1e9], np.float32), "n": np.array([7], np.int32)}


def test_real_numbers_become_the_files_integers_and_back() -> None:
    inner = Echo()
    session, said = with_float_edges(inner, inputs=True, outputs=True)
    assert [spec.dtype for spec in (*session.inputs, *session.outputs)] == ["float32", "int32", "float32", "int32"]
    given = session.run(FEEDS)
    assert inner.took["x"].tolist() == [10, 11, 127, -128]
    assert inner.took["x"].dtype == np.int8
    assert given["y"].tolist() == [0.0, 0.5, 58.5, -69.0]
    assert given["y"].dtype == np.float32
    assert given["m"].tolist() == [7]
    assert len(said) == 2
    assert "0.5 × (integer − 10)" in said[0]


def test_what_is_not_asked_for_stays_as_it_is() -> None:
    inner = Echo()
    assert with_float_edges(inner, inputs=False, outputs=False) == (inner, ())
    outputs_only, _ = with_float_edges(inner, inputs=False, outputs=True)
    assert [spec.dtype for spec in outputs_only.inputs] == ["int8", "int32"]


def test_the_timed_call_and_forgetting_are_the_files_own() -> None:
    inner = Echo()
    session = FloatEdges(inner, inner.scales)
    session.bind(FEEDS)()
    session.reset()
    assert inner.took["x"].dtype == np.int8
    assert inner.resets_n == 1


@pytest.mark.parametrize("place", [0, 40])
def test_a_real_quantised_file_computes_the_same_through_floats(tflite_data: Path, place: int) -> None:
    with np.load(tflite_data / "okay_nabu_frames.npz") as data:
        frame = data["frames"][place]
    variant = parse_variant("tflite/xnnpack/int8")
    path = tflite_data / "okay_nabu.tflite"
    integers, floats = (RUNTIME.load(path, variant=variant, threads=1, spinning=False) for _ in range(2))
    name, given = integers.inputs[0].name, integers.outputs[0].name
    scale, out = integers.scales[name], integers.scales[given]
    session, _ = with_float_edges(floats, inputs=True, outputs=True)
    real = (frame.astype(np.float32) - scale.zero_point) * np.float32(scale.scale)
    wanted = (integers.run({name: frame})[given].astype(np.float64) - out.zero_point) * out.scale
    assert np.allclose(session.run({name: real})[given], wanted)


def test_a_file_in_floating_point_has_no_scales(digits_tflite: Path) -> None:
    session = RUNTIME.load(digits_tflite, variant=parse_variant("tflite/cpu/fp32"), threads=1, spinning=False)
    assert session.scales == {}
