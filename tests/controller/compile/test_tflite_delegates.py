"""What the GPU, Core ML and NNAPI delegates take: files of one to a few operators against the tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgefleet_contract.coverage import Coverage, CoverageSource, Placed
from edgefleet_controller.compile.tflite import coverage, flatbuffer, graph, partition

GPU, COREML, NNAPI = "tflite/gpu", "tflite/coreml", "tflite/nnapi"
IMAGE = (1, 8, 8, 4)


@dataclass(frozen=True)
class T:
    """A tensor of a file to write: `values` make it a constant, `open_batch` leaves its first size open."""

    shape: tuple[int, ...] = IMAGE
    dtype: str = "float32"
    values: Any = None
    open_batch: bool = False


@dataclass(frozen=True)
class O:  # noqa: E742 - an operator, as T is a tensor
    """An operator of a file to write: names of tensors, version, options by the schema's field names."""

    kind: str
    inputs: str
    outputs: str
    version: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


def written(tensors: Mapping[str, T], operators: Sequence[O]) -> bytes:
    """Return a TFLite file."""
    types = {name: value for value, name in flatbuffer.type_names().items()}
    codes = {name: value for value, name in flatbuffer.operator_names().items()}
    model, made_graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.operatorCodes = 3, [schema.BufferT()], []
    made_graph.tensors, made_graph.operators, made_graph.inputs, made_graph.outputs = [], [], [], []
    for name, each in tensors.items():
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(each.shape), types[each.dtype], 0
        if each.open_batch:
            tensor.shapeSignature = [-1, *each.shape[1:]]
        if each.values is not None:
            buffer = schema.BufferT()
            values = np.broadcast_to(np.asarray(each.values, each.dtype), each.shape)
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
        made_graph.tensors.append(tensor)
    places = {name: place for place, name in enumerate(tensors)}
    for index, made in enumerate(operators):
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode, code.version = codes[made.kind], made.version
        code.deprecatedBuiltinCode = min(codes[made.kind], 127)
        model.operatorCodes.append(code)
        operator.opcodeIndex = index
        operator.inputs = [places.get(name, -1) for name in made.inputs.split()]
        operator.outputs = [places[name] for name in made.outputs.split()]
        if made.options:
            operator.builtinOptionsType, operator.builtinOptions = options_of(made)
        made_graph.operators.append(operator)
    model.subgraphs = [made_graph]
    return flatbuffer.write(model)


def options_of(operator: O) -> tuple[int, Any]:
    """Return the schema's number and object of an operator's options."""
    special = {
        "ADD": "Add", "AVERAGE_POOL_2D": "Pool2D", "CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
        "MEAN": "Reducer", "UNPACK": "Unpack",
    }  # fmt: skip
    name = special.get(operator.kind) or "".join(part.capitalize() for part in operator.kind.split("_"))
    made = getattr(schema, f"{name}OptionsT")()
    for option, value in operator.options.items():
        assert hasattr(made, option), (name, option)
        setattr(made, option, value)
    return int(getattr(schema.BuiltinOptions, f"{name}Options")), made


Covered = Callable[[str, Mapping[str, T], Sequence[O]], Coverage]


@pytest.fixture
def covered(tmp_path: Path) -> Covered:
    """Write a file and ask where its operators would run."""

    def ask(target: str, tensors: Mapping[str, T], operators: Sequence[O]) -> Coverage:
        (tmp_path / "m.tflite").write_bytes(written(tensors, operators))
        found = coverage.coverage_of(tmp_path / "m.tflite", target)
        assert found is not None
        return found

    return ask


def weights(*shape: int, dtype: str = "float32") -> T:
    return T(shape, dtype, 1)


def integers(*values: int, shape: tuple[int, ...] | None = None) -> T:
    return T(shape or (len(values),), "int32", np.reshape(values, shape or (len(values),)))


X, Y = T(), T()
ROW = T((1, 64))
ONE_TO_ONE = {"x": X, "y": Y}
CONV = {"x": X, "w": weights(4, 3, 3, 4), "b": weights(4), "y": Y}
FLAT = {"x": X, "w": weights(10, 256), "b": weights(10), "y": T((1, 10))}
PAIR = {"x": X, "z": X, "y": Y}
SAME_CONV = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}

LEFT_TO_THE_CPU = [
    # versions
    (
        GPU,
        ONE_TO_ONE,
        O("SOFTMAX", "x", "y", 3, {"beta": 1.0}),
        "version 3 of the operator; the delegate takes up to 2",
    ),
    (COREML, ONE_TO_ONE, O("AVERAGE_POOL_2D", "x", "y", 2), "version 2 of the operator; the delegate takes up to 1"),
    (NNAPI, CONV, O("CONV_2D", "x w b", "y", 6, SAME_CONV), "version 6 of the operator; the delegate takes up to 5"),
    # operators a delegate has not
    (GPU, ONE_TO_ONE, O("CEIL", "x", "y"), "the delegate has no CEIL"),
    (GPU, ONE_TO_ONE, O("RELU_0_TO_1", "x", "y"), "the delegate has no RELU_0_TO_1"),
    (COREML, {"x": X, "s": integers(1, 256), "y": T((1, 256))}, O("RESHAPE", "x s", "y"), "no RESHAPE for Core ML 3"),
    (NNAPI, ONE_TO_ONE, O("GELU", "x", "y"), "the delegate has no GELU"),
    (NNAPI, PAIR, O("BATCH_MATMUL", "x z", "y"), "needs NNAPI feature level 6"),
    # types
    (GPU, {"x": T(dtype="int32"), "y": T(dtype="int32")}, O("ABS", "x", "y"), "x is int32; the delegate takes float16"),
    (GPU, {"x": T(dtype="int64"), "y": Y}, O("CAST", "x", "y"), "it converts int64 to float32"),
    (
        COREML,
        {"x": T(dtype="int8"), "y": T(dtype="int8")},
        O("TANH", "x", "y"),
        "x is int8; the delegate takes float32",
    ),
    (NNAPI, {"x": T(dtype="int8"), "y": T(dtype="int8")}, O("EXP", "x", "y"), "x is int8; the delegate takes float32"),
    # axes
    (
        GPU,
        {"x": T((1, 2, 3, 4, 5)), "y": T((1, 2, 3, 4, 5))},
        O("RELU", "x", "y"),
        "x has 5 axes; the delegate takes up to 4",
    ),
    (
        GPU,
        {"x": ROW, "b": integers(0, 0), "s": integers(1, 2), "y": T((1, 2))},
        O("SLICE", "x b s", "y"),
        "x has 2 axes",
    ),
    (
        NNAPI,
        {"x": T((1, 1, 2, 2, 2)), "y": T((1, 1, 2, 2, 2))},
        O("SOFTMAX", "x", "y"),
        "x has 5 axes; the delegate takes 0 to 4",
    ),
    # constant inputs
    (
        COREML,
        {**CONV, "w": T((4, 3, 3, 4))},
        O("CONV_2D", "x w b", "y", options=SAME_CONV),
        "w is computed at run time",
    ),
    (GPU, {"x": X, "a": T((1,), "int64", 1), "y": T((1, 8, 4))}, O("MEAN", "x a", "y"), "a is int64; it must be int32"),
    (NNAPI, {"x": X, "w": weights(4, 3, 3, 4), "y": Y}, O("CONV_2D", "x w", "y", options=SAME_CONV), "it has 2 inputs"),
    # fused activations
    (
        COREML,
        PAIR,
        O("CONCATENATION", "x z", "y", options={"axis": 3, "fusedActivationFunction": 1}),
        "fused activation",
    ),
    (GPU, ONE_TO_ONE, O("AVERAGE_POOL_2D", "x", "y", options={"fusedActivationFunction": 5}), "SIGN_BIT is fused"),
    (
        NNAPI,
        {"x": T(dtype="int32"), "z": T(dtype="int32"), "y": T(dtype="int32")},
        O("ADD", "x z", "y", options={"fusedActivationFunction": 1}),
        "it has a fused activation",
    ),
    # options
    (GPU, ONE_TO_ONE, O("SOFTMAX", "x", "y", options={"beta": 2.0}), "beta is 2.0; the delegate takes 1"),
    (
        GPU,
        {"x": X, "b": integers(0, 0, 0, 0), "e": integers(1, 8, 8, 4), "s": integers(1, 1, 1, 1), "y": T((8, 8, 4))},
        O("STRIDED_SLICE", "x b e s", "y", options={"shrinkAxisMask": 1}),
        "it has an axis taken away",
    ),
    (COREML, PAIR, O("CONCATENATION", "x z", "y", options={"axis": 1}), "other than the channels"),
    (
        COREML,
        {"x": X, "a": integers(1, 2), "y": T((1, 4))},
        O("MEAN", "x a", "y", options={"keepDims": False}),
        "it drops the axes",
    ),
    (
        COREML,
        {"x": X, "p": integers(0, 0, 0, 0, 0, 0, 0, 4, shape=(4, 2)), "y": T((1, 8, 8, 8))},
        O("PAD", "x p", "y"),
        "it pads the batch or the channels",
    ),
    (
        NNAPI,
        {"x": X, "y": T((1, 8, 8))},
        O("UNPACK", "x", "y", options={"axis": 3, "num": 4}),
        "it unpacks the last axis",
    ),
    # what is broadcast, and what is joined
    (
        GPU,
        {"x": T((2, 8, 8, 4)), "z": T((8, 8, 4)), "y": T((2, 8, 8, 4))},
        O("ADD", "x z", "y"),
        "it broadcasts [8, 8, 4]",
    ),
    (COREML, {"x": X, "z": T((1, 8, 1, 4)), "y": Y}, O("MUL", "x z", "y"), "it broadcasts"),
    (COREML, {**FLAT, "x": T((3, 256)), "y": T((3, 10))}, O("FULLY_CONNECTED", "x w b", "y"), "several rows"),
]


@pytest.mark.parametrize(("target", "tensors", "operator", "words"), LEFT_TO_THE_CPU)
def test_an_operator_a_delegate_does_not_take_stays_on_the_cpu_with_the_reason(
    covered: Covered, target: str, tensors: Mapping[str, T], operator: O, words: str
) -> None:
    (found,) = covered(target, tensors, [operator]).operators
    assert found.placed is Placed.CPU
    assert words in str(found.reason)


QUANTISED = {
    "x": T(dtype="int8"),
    "w": weights(4, 3, 3, 4, dtype="int8"),
    "b": integers(0, 0, 0, 0),
    "y": T(dtype="int8"),
}
TAKEN = [
    (GPU, QUANTISED, O("CONV_2D", "x w b", "y", 3, SAME_CONV)),
    (GPU, {"x": T(open_batch=True), "y": T(open_batch=True)}, O("GELU", "x", "y")),
    (GPU, {**FLAT, "x": T((1, 256))}, O("FULLY_CONNECTED", "x w b", "y", 9)),
    (GPU, {"x": T((1, 8, 8, 4)), "z": T((8, 8, 4)), "y": Y}, O("ADD", "x z", "y")),
    (GPU, {"x": X, "a": integers(1, 2), "y": T((1, 4))}, O("MEAN", "x a", "y", options={"keepDims": False})),
    (GPU, {"x": X, "y": T((1, 8, 8))}, O("UNPACK", "x", "y", options={"axis": 3, "num": 4})),
    (NNAPI, QUANTISED, O("CONV_2D", "x w b", "y", 3, SAME_CONV)),
    (NNAPI, {"x": X, "s": integers(1, 256), "y": T((1, 256))}, O("RESHAPE", "x s", "y")),
    (NNAPI, {"x": T(dtype="int32"), "z": T(dtype="int32"), "y": T(dtype="int32")}, O("ADD", "x z", "y")),
    (COREML, CONV, O("CONV_2D", "x w b", "y", 1, {**SAME_CONV, "fusedActivationFunction": 3})),
    (COREML, {"x": X, "a": integers(1, 2), "y": T((1, 1, 1, 4))}, O("MEAN", "x a", "y", options={"keepDims": True})),
    (COREML, {"x": X, "z": weights(1), "y": Y}, O("MUL", "x z", "y")),
]


@pytest.mark.parametrize(("target", "tensors", "operator"), TAKEN)
def test_an_operator_a_delegate_takes_is_on_the_accelerator(
    covered: Covered, target: str, tensors: Mapping[str, T], operator: O
) -> None:
    (found,) = covered(target, tensors, [operator]).operators
    assert (found.placed, found.reason) == (Placed.ACCELERATOR, None)


@pytest.mark.parametrize(
    ("tensors", "operator", "words"),
    [
        (FLAT, O("FULLY_CONNECTED", "x w b", "y"), "must end in the 256 channels"),
        ({"x": X, "z": X, "y": Y}, O("SUB", "x x", "y"), "both of its inputs are the same tensor"),
        ({"x": X, "z": weights(2, 1, 1, 4), "y": T((2, 8, 8, 4))}, O("MUL", "x z", "y"), "its batch must be 1"),
        ({"x": T(()), "y": T(())}, O("SQRT", "x", "y"), "x has no axes"),
        ({"x": X, "z": weights(1, 8, 4, 4), "y": Y}, O("BATCH_MATMUL", "x z", "y"), "with two axes, only"),
    ],
)
def test_what_the_gpu_delegate_finds_out_too_late_keeps_the_whole_model_off_the_gpu(
    covered: Covered, tensors: Mapping[str, T], operator: O, words: str
) -> None:
    fine = O("RELU", "i", "o")
    found = covered(GPU, {**tensors, "i": X, "o": Y}, [fine, operator]).operators
    assert [each.placed for each in found] == [Placed.CPU] * 2
    assert "gives up on the whole model" in str(found[0].reason)
    assert words in str(found[0].reason)


@pytest.mark.parametrize("target", [GPU, COREML, NNAPI])
@pytest.mark.parametrize(
    ("shape_by", "is_refused"), [([O("SHAPE", "x", "s")], False), ([O("SHAPE", "x", "n"), O("ADD", "n c", "s")], True)]
)
def test_a_size_that_is_computed_keeps_the_whole_model_off_and_one_known_beforehand_does_not(
    covered: Covered, target: str, shape_by: list[O], is_refused: bool
) -> None:
    size = T((4,), "int32")
    tensors = {"x": X, "n": size, "c": integers(0, 0, 0, 0), "s": size, "r": Y, "y": Y, "z": Y}
    last = [O("RESHAPE", "x s", "r"), O("RELU", "r", "y"), O("TANH", "y", "z")]
    found = covered(target, tensors, [*shape_by, *last]).operators
    assert (found[-1].placed is Placed.CPU) == is_refused
    assert ("the size of r is only known when it runs" in str(found[0].reason)) == is_refused


def chain(kinds: str) -> tuple[dict[str, T], list[O]]:
    """Return operators one after another."""
    names = kinds.split()
    return {f"t{index}": X for index in range(len(names) + 1)}, [
        O(name, f"t{index}", f"t{index + 1}") for index, name in enumerate(names)
    ]


def places(found: Coverage) -> str:
    return "".join("+" if each.placed is Placed.ACCELERATOR else "-" for each in found.operators)


@pytest.mark.parametrize(
    ("target", "kinds", "expected"),
    [
        (GPU, "RELU CEIL RELU TANH CEIL RELU", "--++--"),
        (COREML, "RELU CEIL RELU TANH CEIL RELU TANH", "--++-++"),
        (NNAPI, "RELU CEIL RELU TANH CEIL RELU TANH CEIL RELU TANH CEIL RELU RELU", "--++-++-++---"),
    ],
)
def test_operators_on_the_cpu_cut_the_graph_and_the_delegate_takes_so_many_parts(
    covered: Covered, target: str, kinds: str, expected: str
) -> None:
    assert places(covered(target, *chain(kinds))) == expected


def test_operators_that_keep_state_are_not_run_before_those_ahead_of_them(covered: Covered) -> None:
    resource, kept = T((), "resource"), T()
    tensors = {"x": X, "h": resource, "g": resource, "a": kept, "b": Y, "y": Y, "z": Y}
    operators = [
        O("RELU", "x", "y"), O("VAR_HANDLE", "", "h"), O("VAR_HANDLE", "", "g"), O("ASSIGN_VARIABLE", "h y", ""),
        O("READ_VARIABLE", "g", "a"), O("TANH", "a", "b"), O("RELU", "y", "z"),
    ]  # fmt: skip
    sets = partition.node_sets(
        graph.read(written(tensors, operators)).operators,
        [each.kind in {"RELU", "TANH", "VAR_HANDLE"} for each in operators],
    )
    assert [(each.mapped, sorted(each.members)) for each in sets] == [
        (True, [0, 1, 2, 6]),
        (False, [3, 4]),
        (True, [5]),
    ]
    sets = partition.node_sets(
        graph.read(written(tensors, operators)).operators,
        [each.kind in {"RELU", "TANH", "READ_VARIABLE"} for each in operators],
    )
    assert [sorted(each.members) for each in sets if each.mapped] == [[0, 6], [4, 5]]
    assert [sorted(each.members) for each in sets if not each.mapped] == [[1, 2, 3]]


HALF = {
    "x": X, "h": T((4, 3, 3, 4), "float16", 1), "w": T((4, 3, 3, 4)), "b": weights(4), "y": Y, "z": Y,
}  # fmt: skip
UNPACKED = [O("DEQUANTIZE", "h", "w", 3), O("CONV_2D", "x w b", "y", options=SAME_CONV)]


@pytest.mark.parametrize("target", [GPU, COREML, NNAPI])
def test_float16_weights_are_read_packed_and_what_unpacks_them_is_taken_if_all_else_is(
    covered: Covered, target: str
) -> None:
    assert places(covered(target, HALF, [*UNPACKED, O("RELU", "y", "z")])) == "+++"


def test_what_unpacks_float16_weights_stays_on_the_cpu_where_anything_else_does(covered: Covered) -> None:
    found = covered(GPU, HALF, [*UNPACKED, O("CEIL", "y", "z")])
    assert places(found) == "-+-"
    assert "unpacks float16 weights" in str(found.operators[0].reason)


BOOLS = {"x": X, "z": X, "t": T(dtype="bool"), "y": Y, "w": Y}


@pytest.mark.parametrize(
    ("operators", "expected"),
    [
        ([O("LESS", "x z", "t"), O("CAST", "t", "y"), O("RELU", "y", "w")], "+++"),
        ([O("LESS", "x z", "t")], "-"),
        ([O("LESS", "x z", "t"), O("CAST", "t", "y"), O("CAST", "t", "w")], "---"),
    ],
)
def test_the_gpu_compares_only_where_one_operator_makes_numbers_of_it(
    covered: Covered, operators: list[O], expected: str
) -> None:
    assert places(covered(GPU, BOOLS, operators)) == expected


@pytest.mark.parametrize("target", [GPU, COREML, NNAPI])
def test_no_operator_is_so_odd_that_the_tables_cannot_say_something(target: str) -> None:
    for shape, dtype, data in itertools.product(
        [(), (1,), (2, 2, 2, 2)], ["int32", "float32"], [None, b"\0" * 4, b"\0" * 5]
    ):
        tensor, made = graph.Tensor(0, "x", shape, dtype, data), graph.Tensor(1, "y", shape, dtype)
        for kind, inputs_n, outputs in itertools.product(flatbuffer.operator_names().values(), range(5), [(), (made,)]):
            operator = graph.Op(0, kind, (tensor,) * inputs_n, outputs)
            found = coverage.coverage_of_graph(graph.Graph((operator,), frozenset(), frozenset()), target)
            assert len(found.operators) == 1


def test_an_operator_that_stands_alone_is_left_by_core_ml_and_told_so(covered: Covered) -> None:
    found = covered(COREML, *chain("RELU CEIL"))
    assert "it stands alone; the delegate takes parts of 2 operators or more" in str(found.operators[0].reason)


@pytest.mark.parametrize("target", [GPU, COREML, NNAPI])
def test_a_claim_names_the_version_and_commit_it_was_read_from(covered: Covered, target: str) -> None:
    found = covered(target, *chain("RELU"))
    assert found.source is CoverageSource.STATIC_TABLE
    assert found.source_version.startswith("LiteRT 2.2.0 (145c7523) ")
