"""The static Edge TPU check: against models the vendor's compiler compiled, and rule by rule.

`pairs.json` holds the operators of four models (google-coral/edgetpu test data, Apache-2.0) and which of them the
vendor's compiler left on the CPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_contract.coverage import Placed
from edgefleet_controller.compile import edgetpu, edgetpu_rules
from edgefleet_controller.compile.tflite.graph import Graph, Op, Tensor

ACTIVATION = Tensor(0, "x", (1, 8, 8, 4), "int8")


def tensor(described: list[Any]) -> Tensor:
    index, dtype, shape, constant, values = described
    data = np.asarray(values, dtype=dtype).tobytes() if values is not None else (b"\0" if constant else None)
    return Tensor(index, f"t{index}", tuple(shape), dtype, data)


def pairs(repository: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((repository / "tests/data/edgetpu/pairs.json").read_text(encoding="utf-8"))
    return found


def graph_of(described: dict[str, Any]) -> Graph:
    operators = tuple(
        Op(
            place,
            op["type"],
            tuple(None if each is None else tensor(each) for each in op["inputs"]),
            tuple(tensor(each) for each in op["outputs"]),
            op["options"],
        )
        for place, op in enumerate(described["operators"])
    )
    return Graph(operators, frozenset(described["inputs"]), frozenset(described["outputs"]))


def test_it_agrees_with_the_vendors_compiler_on_every_operator(repository: Path) -> None:
    described = pairs(repository)
    assert len(described) == 4
    for name, model in described.items():
        coverage = edgetpu.coverage_of_graph(graph_of(model))
        assert [each.index for each in coverage.operators if each.placed is Placed.CPU] == model["cpu"], name


def constant(values: Any, dtype: str = "int32", name: str = "constant") -> Tensor:
    array = np.asarray(values, dtype=dtype)
    return Tensor(99, name, array.shape, dtype, array.tobytes())


def op(kind: str, *inputs: Tensor, out: tuple[int, ...] = (1, 8, 8, 4), dtype: str = "int8", **options: Any) -> Op:
    return Op(0, kind, inputs, (Tensor(1, "y", out, dtype),), options)


WEIGHTS = constant(np.ones((4, 1, 1, 4)), "int8", "weights")
BIAS = constant(np.zeros(4), "int32", "bias")
COMPUTED = Tensor(7, "computed", (4, 1, 1, 4), "int8")


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (op("HARD_SWISH", ACTIVATION), "none of the operators"),
        (op("BATCH_MATMUL", ACTIVATION, ACTIVATION), "none of the operators"),
        (op("ADD", Tensor(0, "x", (1, 8, 8, 4), "float32"), ACTIVATION), "float32"),
        (op("ADD", ACTIVATION, constant(np.ones(4), "float32")), "quantised too"),
        (op("RELU", Tensor(0, "x", (1, -1, 8, 4), "int8")), "changes at run time"),
        (op("RELU", Tensor(0, "x", (2, 8, 8, 4), "int8")), "three innermost"),
        (op("RELU", Tensor(0, "x", (1, 2, 3, 8, 4), "int8")), "three innermost"),
        (op("CONV_2D", ACTIVATION, COMPUTED, BIAS), "must be constant"),
        (op("CONV_2D", ACTIVATION, WEIGHTS, BIAS, dilationWFactor=2, dilationHFactor=1), "dilation"),
        (op("MAX_POOL_2D", ACTIVATION, fusedActivationFunction=1), "fused activation"),
        (op("CONCATENATION", ACTIVATION, constant(np.ones((1, 8, 8, 4)), "int8")), "not all zeros"),
        (op("FULLY_CONNECTED", ACTIVATION, WEIGHTS, BIAS, out=(16, 4)), "one dimension only"),
        (op("SOFTMAX", Tensor(0, "x", (1, 20_000), "int8")), "at most 16000"),
        (op("SOFTMAX", Tensor(0, "x", (1, 4, 10), "int8")), "one dimension only"),
        (op("MEAN", Tensor(0, "x", (1, 8, 8, 6), "int8"), constant([3])), "multiple of 4"),
        (op("SUM", ACTIVATION, constant([0])), "batch dimension"),
        (op("PAD", ACTIVATION, constant([[1, 0], [0, 0], [0, 0], [0, 0]])), "batch dimension"),
        (op("PACK", ACTIVATION, ACTIVATION, axis=0), "batch dimension"),
        (op("PRELU", ACTIVATION, constant(np.ones((1, 8, 4)), "int8")), "innermost size"),
        (op("RESIZE_BILINEAR", ACTIVATION, constant([256, 256]), out=(1, 256, 256, 4)), "too large"),
        (op("SPLIT", constant(0), ACTIVATION), "batch dimension"),
        (op("STRIDED_SLICE", ACTIVATION, *[constant([0])] * 2, constant([2])), "strides"),
        (op("RESHAPE", ACTIVATION, Tensor(5, "shape", (2,), "int32")), "must be constant"),
    ],
)
def test_what_is_not_mapped_has_its_reason(operator: Op, words: str) -> None:
    assert words in (edgetpu_rules.why_not(operator) or "")


@pytest.mark.parametrize(
    "operator",
    [
        op("ADD", ACTIVATION, ACTIVATION),
        op("CONV_2D", ACTIVATION, WEIGHTS, BIAS, dilationWFactor=2, dilationHFactor=2),
        op("FULLY_CONNECTED", Tensor(0, "x", (1, 4), "uint8"), WEIGHTS, BIAS, out=(1, 4), dtype="uint8"),
        op("SOFTMAX", Tensor(0, "x", (1, 1001), "int8"), out=(1, 1001)),
        op("MEAN", ACTIVATION, constant([1, 2]), out=(1, 4)),
        op("RESIZE_BILINEAR", Tensor(0, "x", (1, 64, 64, 4), "int8"), constant([128, 128]), out=(1, 128, 128, 4)),
        op("STRIDED_SLICE", ACTIVATION, *[constant([0])] * 2, constant([1])),
        op("CONCATENATION", ACTIVATION, constant(np.zeros((1, 8, 8, 4)), "int8"), out=(1, 8, 8, 8)),
    ],
)
def test_what_fits_the_rules_is_mapped(operator: Op) -> None:
    assert edgetpu_rules.why_not(operator) is None


def test_only_what_depends_on_a_blocked_operator_stays_behind_it() -> None:
    def made(index: int, kind: str, given: int, output: int) -> Op:
        return Op(
            index, kind, (Tensor(given, f"t{given}", (1, 4), "int8"),), (Tensor(output, f"t{output}", (1, 4), "int8"),)
        )

    model = Graph(
        (made(0, "RELU", 0, 1), made(1, "ELU", 1, 2), made(2, "TANH", 1, 3), made(3, "TANH", 2, 4)),
        frozenset({0}),
        frozenset({3, 4}),
    )
    reasons = edgetpu.reasons_of(model)
    assert [reason is None for reason in reasons] == [True, False, True, False]
    assert "t2" in (reasons[3] or "")


def test_floats_at_the_entrance_do_not_block_what_follows() -> None:
    entrance = Op(0, "QUANTIZE", (Tensor(0, "x", (1, 4), "float32"),), (Tensor(1, "q", (1, 4), "int8"),))
    inside = Op(1, "TANH", entrance.outputs, (Tensor(2, "t", (1, 4), "int8"),))
    exit_ = Op(2, "DEQUANTIZE", inside.outputs, (Tensor(3, "y", (1, 4), "float32"),))
    reasons = edgetpu.reasons_of(Graph((entrance, inside, exit_), frozenset({0}), frozenset({3})))
    assert [reason is None for reason in reasons] == [False, True, False]
