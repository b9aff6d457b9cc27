"""What an artifact's outputs are held to where its source rounds already."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from edgefleet_controller.compile.document import claim_beyond
from edgefleet_controller.compile.ingest import onnx_check


def model(nodes: str, zero: Any) -> onnx.ModelProto:
    made = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[1, 4] x) => (float[1, 4] y) {' + nodes + "}"
    )
    made.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in (("scale", np.float32(0.1)), ("zero", zero), ("weights", np.ones((4, 4), np.int8)))
    )
    return made


ROUNDED = "q = QuantizeLinear (x, scale, zero) y = DequantizeLinear (q, scale, zero)"
STORED = "w = DequantizeLinear (weights, scale, zero) y = MatMul (x, w)"


@pytest.mark.parametrize(
    ("nodes", "zero", "precision"),
    [
        (ROUNDED, np.uint8(128), "int8"),
        (ROUNDED, np.int16(0), "int16x8"),
        (STORED, np.int8(0), None),
        ("y = Relu (x)", np.int8(0), None),
    ],
)
def test_a_source_that_rounds_activations_says_to_what(nodes: str, zero: Any, precision: str | None) -> None:
    made = model(nodes, zero)
    assert onnx_check.rounds_to(made) == precision
    assert onnx_check.record(made, "sha256:" + "0" * 64).rounds_to == precision


@pytest.mark.parametrize(
    ("source", "variant", "claim"),
    [
        ("int8", "tflite/xnnpack/fp32", "int8"),
        ("int8", "tflite/xnnpack/fp16", "int8"),
        ("int16x8", "tflite/xnnpack/fp16", "int16x8"),
        ("int8", "tflite/xnnpack/int8", None),
        ("int16x8", "tflite/xnnpack/int8", None),
        (None, "tflite/xnnpack/fp32", None),
    ],
)
def test_the_claim_is_the_coarser_of_the_sources_and_the_variants(
    source: str | None, variant: str, claim: str | None
) -> None:
    checked: Any = SimpleNamespace(model=SimpleNamespace(rounds_to=source))
    assert claim_beyond(checked, variant) == claim
