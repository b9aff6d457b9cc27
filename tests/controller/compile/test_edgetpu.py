"""The static Edge TPU check: against models the vendor's compiler compiled, and rule by rule.

`pairs.json` holds the operators of four models (google-coral/edgetpu test data, Apache-2.0) and which of them the
vendor's compiler left on the CPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgefleet_contract.coverage import Placed
from edgefleet_controller.compile.tflite import edgetpu, edgetpu_rules, flatbuffer, graph
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
SQUARE = constant(np.ones((4, 3, 3, 4)), "int8", "weights")
COLUMN = constant(np.ones((4, 3, 1, 4)), "int8", "weights")
HALVES = (Tensor(1, "y", (2, 49, 32), "int8"), Tensor(2, "z", (2, 49, 32), "int8"))
BIAS = constant(np.zeros(4), "int32", "bias")
COMPUTED = Tensor(7, "computed", (4, 1, 1, 4), "int8")


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (op("HARD_SWISH", ACTIVATION), "none of the operators"),
        (op("BATCH_MATMUL", ACTIVATION, ACTIVATION), "none of the operators"),
        (op("ADD", Tensor(0, "x", (1, 8, 8, 4), "float32"), ACTIVATION), "float32"),
        (op("ADD", ACTIVATION, constant(np.ones(4), "float32")), "quantised too"),
        (op("RELU", Tensor(0, "x", (1, 1, 8, 4), "int8", signature=(-1, -1, 8, 4))), "changes at run time"),
        (op("RELU", Tensor(0, "x", (2, 8, 8, 4), "int8")), "three innermost"),
        (op("RELU", Tensor(0, "x", (1, 2, 3, 8, 4), "int8")), "three innermost"),
        (op("CONV_2D", ACTIVATION, COMPUTED, BIAS), "must be constant"),
        (op("CONV_2D", ACTIVATION, SQUARE, BIAS, dilationWFactor=2, dilationHFactor=1), "dilation"),
        (op("MAX_POOL_2D", ACTIVATION, fusedActivationFunction=1), "fused activation"),
        (op("CONCATENATION", ACTIVATION, constant(np.ones((1, 8, 8, 4)), "int8")), "not all zeros"),
        (op("FULLY_CONNECTED", ACTIVATION, WEIGHTS, BIAS, weightsFormat=1), "shuffled"),
        (op("SOFTMAX", Tensor(0, "x", (1, 20_000), "int8")), "at most 16384"),
        (op("SOFTMAX", Tensor(0, "x", (1, 8, 49, 49), "int8")), "at most 16384"),
        (op("MEAN", Tensor(0, "x", (1, 256, 128, 4), "int8"), constant([1, 2])), "mean of 32768"),
        (op("TRANSPOSE", Tensor(0, "x", (1, 28, 28, 144), "int8"), constant([0, 3, 1, 2])), "transposes 112896"),
        (op("TILE", ACTIVATION, constant([1, 2, 1, 1])), "only a size of 1"),
        (op("TILE", Tensor(0, "x", (1, 1, 1, 4), "int8"), constant([2, 1, 1, 1])), "only a size of 1"),
        (op("MEAN", Tensor(0, "x", (1, 8, 8, 6), "int8"), constant([3])), "multiple of 4"),
        (op("SUM", ACTIVATION, constant([0])), "batch dimension"),
        (op("PAD", ACTIVATION, constant([[1, 0], [0, 0], [0, 0], [0, 0]])), "batch dimension"),
        (op("PACK", ACTIVATION, ACTIVATION, axis=0), "batch dimension"),
        (op("PRELU", ACTIVATION, constant(np.ones((1, 8, 4)), "int8")), "innermost size"),
        (op("RESIZE_BILINEAR", ACTIVATION, constant([256, 256]), out=(1, 256, 256, 4)), "too large"),
        (Op(0, "SPLIT", (constant(0), Tensor(0, "x", (4, 49, 32), "int8")), HALVES, {}), "batch dimension"),
        (op("SQUEEZE", Tensor(0, "x", (1, 5, 1, 10), "int8"), out=(5, 10)), "only leading ones"),
        (op("SQUEEZE", Tensor(0, "x", (1, 5, 1), "int8"), out=(1, 5)), "only leading ones"),
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
        op("CONV_2D", ACTIVATION, COLUMN, BIAS, dilationWFactor=1, dilationHFactor=4),
        op("FULLY_CONNECTED", Tensor(0, "x", (1, 4), "uint8"), WEIGHTS, BIAS, out=(1, 4), dtype="uint8"),
        op("FULLY_CONNECTED", Tensor(0, "x", (1, 49, 32), "int8"), Tensor(7, "w", (49, 32), "int8"), out=(49, 49)),
        op("SOFTMAX", Tensor(0, "x", (1, 1001), "int8"), out=(1, 1001)),
        op("SOFTMAX", Tensor(0, "x", (1, 4, 49, 49), "int8"), out=(1, 4, 49, 49)),
        op("TRANSPOSE", Tensor(0, "x", (1, 22, 22, 144), "int8"), constant([0, 3, 1, 2]), out=(1, 144, 22, 22)),
        op("TRANSPOSE", Tensor(0, "x", (1, 1, 512, 512), "int8"), constant([0, 2, 1, 3]), out=(1, 512, 1, 512)),
        op("TILE", Tensor(0, "x", (1, 1, 1, 4), "int8"), constant([1, 8, 8, 1])),
        op("SPLIT", constant(0), ACTIVATION),
        op("PACK", *[Tensor(0, "x", (49, 32), "int8")] * 4, axis=0, out=(4, 49, 32)),
        op("MEAN", Tensor(0, "x", (1, 64, 128, 4), "int8"), constant([1, 2]), out=(1, 4)),
        op("RELU", Tensor(0, "x", (1, 8, 8, 4), "int8", signature=(-1, 8, 8, 4))),
        op("UNIDIRECTIONAL_SEQUENCE_LSTM", ACTIVATION, *[WEIGHTS] * 17, *[Tensor(8, "state", (1, 20), "int16")] * 2),
        op("MEAN", ACTIVATION, constant([1, 2]), out=(1, 4)),
        op("RESIZE_BILINEAR", Tensor(0, "x", (1, 64, 64, 4), "int8"), constant([128, 128]), out=(1, 128, 128, 4)),
        op("SQUEEZE", Tensor(0, "x", (1, 1, 5, 10), "int8"), out=(5, 10)),
        op("SQUEEZE", Tensor(0, "x", (1, 1, 1, 1001), "int8"), out=(1, 1001)),
        op("SQUEEZE", Tensor(0, "x", (1, 1, 1), "int8"), out=(1,)),
        op("STRIDED_SLICE", ACTIVATION, *[constant([0])] * 2, constant([1])),
        op("CONCATENATION", ACTIVATION, constant(np.zeros((1, 8, 8, 4)), "int8"), out=(1, 8, 8, 8)),
    ],
)
def test_what_fits_the_rules_is_mapped(operator: Op) -> None:
    assert edgetpu_rules.why_not(operator) is None


def chain(*kinds: tuple[str, tuple[int, ...], int], inputs: set[int], floats: frozenset[int] = frozenset()) -> Graph:
    """A graph of one-output operators: type, tensors read, tensor made; floats are the tensors in float32."""

    def made(index: int) -> Tensor:
        return Tensor(index, f"t{index}", (1, 4), "float32" if index in floats else "int8")

    operators = tuple(
        Op(place, kind, tuple(map(made, read)), (made(written),)) for place, (kind, read, written) in enumerate(kinds)
    )
    return Graph(operators, frozenset(inputs), frozenset({kinds[-1][2]}))


def mapped(model: Graph) -> list[bool]:
    return [reason is None for reason in edgetpu.reasons_of(model)]


def test_only_what_depends_on_a_blocked_operator_stays_behind_it() -> None:
    model = chain(("RELU", (0,), 1), ("ELU", (1,), 2), ("TANH", (1,), 3), ("TANH", (2,), 4), inputs={0})
    assert mapped(model) == [True, False, True, False]
    assert "t2" in (edgetpu.reasons_of(model)[3] or "")


def test_floats_at_the_entrance_do_not_block_what_follows() -> None:
    model = chain(
        ("QUANTIZE", (0,), 1), ("TANH", (1,), 2), ("DEQUANTIZE", (2,), 3), inputs={0}, floats=frozenset({0, 3})
    )
    assert mapped(model) == [False, True, False]


def test_whatever_is_not_mapped_at_the_very_beginning_comes_before_the_partition() -> None:
    model = chain(
        ("CAST", (0,), 1), ("QUANTIZE", (1,), 2), ("TANH", (2,), 3), ("ELU", (3,), 4), ("TANH", (4,), 5),
        inputs={0}, floats=frozenset({1}),
    )  # fmt: skip
    assert mapped(model) == [False, False, True, False, False]


def test_an_entrance_that_comes_after_the_partition_began_is_too_late() -> None:
    model = chain(("TANH", (0,), 2), ("QUANTIZE", (1,), 3), ("ADD", (2, 3), 4), inputs={0, 1}, floats=frozenset({1}))
    assert mapped(model) == [True, False, False]


def test_of_a_compiled_file_only_the_compiled_operator_is_on_the_accelerator() -> None:
    model = chain(("edgetpu-custom-op", (0,), 1), ("TANH", (1,), 2), inputs={0})
    assert mapped(model) == [True, False]
    assert "compiled already" in (edgetpu.reasons_of(model)[1] or "")


def test_a_file_has_the_sizes_it_allocates_and_says_which_may_change() -> None:
    model = SimpleNamespace(
        buffers=[None],
        operatorCodes=[SimpleNamespace(builtinCode=28, deprecatedBuiltinCode=28, customCode=None, version=2)],
        subgraphs=[
            SimpleNamespace(
                tensors=[
                    SimpleNamespace(name=b"x", shape=[1, 8], shapeSignature=[-1, 8], type=9, buffer=0),
                    SimpleNamespace(name=b"y", shape=[1, 8], shapeSignature=None, type=9, buffer=0),
                ],
                operators=[SimpleNamespace(opcodeIndex=0, inputs=[0], outputs=[1], builtinOptions=None)],
                inputs=[0],
                outputs=[1],
            )
        ],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flatbuffer, "read", lambda _: model)
        operator = graph.read(b"").operators[0]
    source = operator.inputs[0]
    assert source is not None
    assert (operator.type, source.shape, source.is_static) == ("TANH", (1, 8), False)
    assert operator.outputs[0].is_static
    assert edgetpu_rules.why_not(operator) is None
