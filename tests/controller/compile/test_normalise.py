"""Normalising the fp32 file: only where it helps, and never at the cost of the outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgefleet_controller.compile.graph import normalise
from edgefleet_controller.compile.ort import target as ort
from edgefleet_controller.compile.ort.session import Session, sqnr_db


def foldable(quantised: Any) -> onnx.ModelProto:
    """Return x f32[n, 8, 4, 4] → Conv → BatchNormalization → times (2 + 3), which is written as an Add of constants."""
    generator = np.random.default_rng(0)
    norm = {name: generator.uniform(0.5, 1.5, 8) for name in ("scale", "shift", "mean", "variance")}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("BatchNormalization", ["a", *norm], ["b"], name="norm"),
        helper.make_node("Add", ["two", "three"], ["five"], name="sum"),
        helper.make_node("Mul", ["b", "five"], ["y"], name="times"),
    ]
    weights = [quantised.tensor(name, values) for name, values in norm.items()]
    weights += [quantised.tensor("w", generator.normal(size=(8, 8, 1, 1)))]
    weights += [quantised.tensor("two", [2.0]), quantised.tensor("three", [3.0])]
    shape = {"x": ["n", 8, 4, 4]}
    return quantised.model_of(nodes, shape, {"y": ["n", 8, 4, 4]}, weights)  # type: ignore[no-any-return]


def samples() -> dict[str, Any]:
    return {"x": np.random.default_rng(0).normal(size=(20, 8, 4, 4)).astype(np.float32)}


def test_constants_and_batch_norms_are_folded_and_named(quantised: Any, tmp_path: Path) -> None:
    model = foldable(quantised)
    answer = ort.build(quantised.request_for(tmp_path, model, "ort/cpu/fp32", samples()))
    made = onnx.load(tmp_path / "out.onnx")
    assert "BatchNormalization" not in {node.op_type for node in made.graph.node}
    assert answer.rewrites == (f"onnxslim: {4 - len(made.graph.node)} of 4 nodes folded",)
    feeds = [{"x": each[None]} for each in samples()["x"]]
    before, after = (Session(each.SerializeToString()).run_all(feeds) for each in (model, made))
    assert sqnr_db(before, after) > 100


def test_a_model_with_nothing_to_fold_is_shipped_as_it_is(quantised: Any, tmp_path: Path) -> None:
    images = {"image": np.random.default_rng(0).normal(size=(20, 8, 8, 8)).astype(np.float32)}
    answer = ort.build(quantised.request_for(tmp_path, quantised.wide_range(), "ort/cpu/fp32", images))
    assert answer.rewrites == ()


EDIT = "import sys, onnx; m = onnx.load(sys.argv[1]); del m.graph.node[{}]; {}; onnx.save(m, sys.argv[2])"
PROGRAMS = {
    "fails": "import sys; sys.exit(3)",
    "dies": "import os; os.abort()",
    "writes nothing": "pass",
    "computes something else": EDIT.format(3, "m.graph.node[1].output[0] = 'y'"),
    "renames an output": EDIT.format(3, "m.graph.output[0].name = 'b'"),
    "writes what does not run": EDIT.format(0, "pass"),
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_whatever_the_tool_does_wrong_the_source_is_shipped(
    quantised: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(normalise, "_PROGRAM", program)
    answer = ort.build(quantised.request_for(tmp_path, foldable(quantised), "ort/cpu/fp32", samples()))
    assert answer.rewrites == ()
    assert len(onnx.load(tmp_path / "out.onnx").graph.node) == 4


def test_a_tool_that_hangs_is_given_up(quantised: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalise, "_PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr(normalise, "TIMEOUT_S", 0.2)
    assert ort.build(quantised.request_for(tmp_path, foldable(quantised), "ort/cpu/fp32", samples())).rewrites == ()


def test_small_weights_are_not_folded_into_large_ones(quantised: Any, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Expand", ["row", "size"], ["wide"], name="expand"),
        helper.make_node("Add", ["x", "wide"], ["y"], name="add"),
    ]
    size = onnx.numpy_helper.from_array(np.array([64, 64], np.int64), "size")
    weights = [quantised.tensor("row", np.arange(64)), size]
    model = quantised.model_of(nodes, {"x": ["n", 64, 64]}, {"y": ["n", 64, 64]}, weights)
    arrays = {"x": np.random.default_rng(0).normal(size=(20, 64, 64)).astype(np.float32)}
    ort.build(quantised.request_for(tmp_path, model, "ort/cpu/fp32", arrays))
    assert (tmp_path / "out.onnx").stat().st_size < 4096
