"""Outputs that are other outputs with their axes in another order: the converter writes one of them only."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.tflite import convert, floating, lost, prove
from edgefleet_controller.compile.tflite.interpreter import Interpreter

GENERATOR = np.random.default_rng(0)
WEIGHTS = GENERATOR.normal(size=(4, 3, 3, 3)).astype(np.float32)
FEEDS = [{"x": GENERATOR.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(3)]
CONV = "y = Conv <pads = [1, 1, 1, 1]> (x, w)"


def model(outputs: str, nodes: str) -> onnx.ModelProto:
    header = '<ir_version: 8, opset_import: ["" : 17]>'
    made = parser.parse_model(f"{header} g (float[1, 3, 8, 8] x) => ({outputs}) {{ {CONV} {nodes} }}")
    made.graph.initializer.append(numpy_helper.from_array(WEIGHTS, "w"))
    return made


@pytest.mark.parametrize(
    ("more", "nodes"),
    [
        ("float[1, 8, 8, 4] z", "z = Transpose <perm = [0, 2, 3, 1]> (y)"),
        ("float[1, 8, 4, 8] z", "z = Transpose <perm = [0, 3, 1, 2]> (y)"),
        ("float[1, 8, 8, 4] r", "z = Transpose <perm = [0, 2, 3, 1]> (y) r = Sigmoid (z)"),
    ],
)
def test_an_output_and_its_transpose_are_both_written(more: str, nodes: str) -> None:
    source = model(f"float[1, 4, 8, 8] y, {more}", nodes)
    made = floating.make(source, FEEDS)
    assert lost.outputs(made.data) == ()
    runner = session.Session(source.SerializeToString())
    for feed, got in zip(FEEDS, made.run_all(Interpreter(made.data), FEEDS), strict=True):
        for wanted, ours in zip(runner.run(feed), got.values(), strict=True):
            assert prove.difference(wanted, ours) is None


def test_an_output_that_nothing_in_the_file_resembles_is_named(monkeypatch: Any) -> None:
    source = model("float[1, 4, 8, 8] y, float[1, 8, 8, 4] z", "z = Transpose <perm = [0, 2, 3, 1]> (y)")
    assert lost.outputs(convert.to_tflite(onnx.shape_inference.infer_shapes(source), ())) == ("y",)
    monkeypatch.setattr(lost, "candidates", lambda *_: {})
    with pytest.raises(CompileFaultError, match="leaves output 'y' without an operator that computes it"):
        floating.make(source, FEEDS)


def test_a_file_whose_outputs_need_no_input_is_written() -> None:
    source = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (int32 x) => (float[?] y) { y = HannWindow (x) }'
    )
    feeds = [{"x": np.asarray(10, np.int32)}]
    made = floating.make(source, feeds)
    (wanted,) = session.Session(source.SerializeToString()).run(feeds[0])
    (got,) = made.run_all(Interpreter(made.data), feeds)[0].values()
    assert prove.difference(wanted, got) is None
