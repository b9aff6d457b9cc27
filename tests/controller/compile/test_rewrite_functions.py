"""Operators replaced by the standard's own bodies."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import parser

from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.rewrite import functions


def test_nodes_of_one_type_may_set_an_attribute_or_leave_it_to_its_default() -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[2, 5] x) => (float[2, 5] z) '
    model = parser.parse_model(text + "{ y = Elu <alpha = 0.5> (x) z = Elu (y) }")
    made, replaced_n = functions.apply(onnx.shape_inference.infer_shapes(model))
    assert replaced_n == 2
    assert "Elu" not in {node.op_type for node in made.graph.node}
    feed = {"x": np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)}
    before, after = (session.Session(each.SerializeToString()).run(feed)[0] for each in (model, made))
    np.testing.assert_allclose(after, before, atol=1e-6)
