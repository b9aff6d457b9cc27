"""Outputs of integer files stay float32, whatever else reads them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.tflite import floating, quantise
from edgefleet_controller.compile.tflite.interpreter import Interpreter

GENERATOR = np.random.default_rng(0)
FEEDS = [
    {name: GENERATOR.normal(size=(1, 8)).astype(np.float32) * scale for name, scale in (("x", 1), ("z", 5))}
    for _ in range(8)
]
READ_TWICE = "(float[1, 8] x, float[1, 8] z) => (float[1, 8] f, float[1, 4] y)"
GIVEN_BACK = "(float[1, 8] x, float[1, 8] z) => (float[1, 8] f, float[1, 4] y, float[1, 8] x)"
WEIGHTS = {
    "a": GENERATOR.normal(size=(8, 8)).astype(np.float32),
    "b": GENERATOR.normal(size=(16, 4)).astype(np.float32),
}


@pytest.mark.parametrize("signature", [READ_TWICE, GIVEN_BACK])
def test_an_output_that_is_read_again_at_another_scale_is_float(signature: str) -> None:
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g {signature} '
        "{ f = MatMul (x, a) c = Concat <axis = 1> (f, z) y = MatMul (c, b) }"
    )
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in WEIGHTS.items())
    made = floating.make(onnx.shape_inference.infer_shapes(model), FEEDS, for_integers=True)
    files = quantise.static(made.data, [made.feed(feed) for feed in FEEDS], activation_bits=8).files
    source = session.Session(model.SerializeToString())
    for feed, got in zip(FEEDS, made.run_all(Interpreter(files["minmax"]), FEEDS), strict=True):
        for wanted, ours in zip(source.run(feed), got.values(), strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, wanted, atol=0.15 * float(np.abs(wanted).max()))
