"""Attention with a mask in integers: minus infinity takes no scale for itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.tflite import floating, graph, masks, quantise
from edgefleet_controller.compile.tflite.floating import FloatFile
from edgefleet_controller.compile.tflite.interpreter import Interpreter

GENERATOR = np.random.default_rng(0)
FEEDS = [{"x": GENERATOR.normal(size=(1, 6, 8)).astype(np.float32)} for _ in range(8)]
WEIGHTS: dict[str, Any] = {
    "a": GENERATOR.normal(scale=0.3, size=(8, 8)).astype(np.float32),
    "b": GENERATOR.normal(scale=0.3, size=(8, 8)).astype(np.float32),
    "seen": np.tril(np.ones((6, 6), dtype=np.bool_)),
    "low": np.asarray(-np.inf, dtype=np.float32),
}


def attention() -> onnx.ModelProto:
    """Return `x` f32[1, 6, 8] → one head of causal attention, masked by minus infinity → `y` f32[1, 6, 8]."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 6, 8] x) => (float[1, 6, 8] y) {'
        " q = MatMul (x, a) k = MatMul (x, b) t = Transpose <perm = [0, 2, 1]> (k) s = MatMul (q, t)"
        " m = Where (seen, s, low) p = Softmax <axis = -1> (m) y = MatMul (p, x) }"
    )
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in WEIGHTS.items())
    return model


@pytest.fixture(scope="module")
def made() -> FloatFile:
    return floating.make(attention(), FEEDS, for_integers=True)


def test_masked_scores_stay_masked_and_the_others_keep_their_scale(made: FloatFile) -> None:
    files = quantise.static(made.data, [made.feed(feed) for feed in FEEDS], activation_bits=8).files
    source = session.Session(attention().SerializeToString())
    wanted = np.stack([source.run(feed)[0] for feed in FEEDS])
    assert {masks.too_wide(data) for data in files.values()} == {None}
    got = np.stack([run["y"] for run in made.run_all(Interpreter(files["minmax"]), FEEDS)])
    assert session.sqnr_db([wanted], [got]) > 20


def test_a_file_whose_scale_is_no_number_to_work_with_is_refused_by_the_tensors_name(
    made: FloatFile, monkeypatch: Any
) -> None:
    monkeypatch.setattr(masks, "bounded", lambda data, _: data)
    with pytest.raises(quantise.QuantisationError, match=r"the values of '.+' are too large for one scale of 8 bits"):
        quantise.static(made.data, [made.feed(feed) for feed in FEEDS], activation_bits=8)


def test_huge_constants_that_do_not_mask_stay(made: FloatFile) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 6, 8] x) => (float[1, 6, 8] y) { y = Max (x, low) }'
    )
    low = np.where(np.arange(8) < 4, np.float32(-3e38), np.float32(0))
    model.graph.initializer.append(numpy_helper.from_array(low, "low"))
    data = floating.make(model, FEEDS).data
    assert any(masks._huge(each) is not None for op in graph.read(data).operators for each in op.inputs if each)
    assert masks.bounded(data, {}) is data
