"""What TensorRT takes, node by node: NVIDIA's own parser, our rules about quantisation, and the tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edgefleet_contract.coverage import Coverage, CoverageSource, Placed
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph.onnx_graph import with_shapes
from edgefleet_controller.compile.tensorrt import coverage as trt_coverage
from edgefleet_controller.compile.tensorrt import dla as trt_dla
from edgefleet_controller.compile.tensorrt import qdq as trt_qdq
from edgefleet_controller.compile.tensorrt import table as trt_table
from edgefleet_controller.compile.tensorrt import vendor as trt_vendor
from edgefleet_controller.compile.tensorrt.coverage import cover, coverage_of, refused_nodes
from edgefleet_controller.compile.tensorrt.parser import Parser
from edgefleet_controller.compile.tensorrt.source import require_taken

pytest.importorskip("tensorrt_rtx_bindings")

GPU, DLA = "tensorrt/gpu", "tensorrt/dla"
node = helper.make_node


def model(
    nodes: Sequence[onnx.NodeProto], *, weights: Sequence[onnx.TensorProto] = (), **given: Any
) -> onnx.ModelProto:
    """Return a model `x` f32[n, 3, 8, 8] → `y` of the given nodes."""
    kind, shape = given.get("kind", TensorProto.FLOAT), given.get("shape", ["n", 3, 8, 8])
    graph = helper.make_graph(
        list(nodes),
        "planted",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", given.get("out", TensorProto.FLOAT), None)],
        list(weights),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    made = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = 8
    return made


def tensor(name: str, values: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def refused(coverage: Coverage) -> list[str]:
    return [each.name for each in refused_nodes(coverage)]


def test_a_sound_model_runs_on_the_gpu_node_by_node_by_nvidias_own_word() -> None:
    coverage = cover(model([node("Relu", ["x"], ["a"], name="first"), node("Sigmoid", ["a"], ["y"])]), GPU)
    assert (coverage.source, coverage.target) == (CoverageSource.VENDOR_PARSER, GPU)
    assert coverage.source_version.startswith("TensorRT-RTX 1.")
    assert [(each.index, each.name, each.type, each.placed.value) for each in coverage.operators] == [
        (0, "first", "Relu", "accelerator"),
        (1, "y", "Sigmoid", "accelerator"),
    ]


def planted() -> onnx.ModelProto:
    """Return a model with bad nodes of every kind: unknown, custom, wrong attribute, wrong type, wrong zero point."""
    nodes = [
        node("QuantizeLinear", ["x", "scale", "three"], ["q"], name="bad-quantize"),
        node("DequantizeLinear", ["q", "scale", "three"], ["a"], name="bad-dequantize"),
        node("Relu", ["a"], ["b"], name="fine-1"),
        node("Custom", ["b"], ["c"], name="bad-custom", domain="mine"),
        node("MaxPool", ["c"], ["d"], name="bad-dilation", kernel_shape=[2, 2], dilations=[2, 2]),
        node("Cast", ["d"], ["e"], name="bad-type", to=TensorProto.UINT16),
        node("Cast", ["e"], ["f"], name="fine-2", to=TensorProto.FLOAT),
        node("Sigmoid", ["f"], ["g"], name="fine-3"),
        node("Bernoulli", ["g"], ["h"], name="bad-operator"),
        node("Unique", ["h"], ["y"], name="bad-last"),
    ]
    return model(nodes, weights=[tensor("scale", 0.1), tensor("three", 3, np.int8)])


def test_every_planted_bad_node_is_named_in_one_report_and_no_other() -> None:
    coverage = cover(planted(), GPU)
    names = [each.name for each in coverage.operators]
    assert refused(coverage) == [name for name in names if name.startswith("bad")]
    assert all(each.reason for each in refused_nodes(coverage))
    assert coverage.first_blocking is not None
    assert coverage.first_blocking.name == "bad-quantize"


def test_the_parser_alone_finds_what_its_first_answer_leaves_out() -> None:
    """One question stops at the first wrong zero point; the loop goes on behind it."""
    parser, shaped = Parser(trt_vendor.load()), with_shapes(planted())
    assert len(parser.ask(shaped)) < 7 <= len(parser.refusals(shaped))


def test_a_build_names_every_refused_node_in_its_reason() -> None:
    with pytest.raises(CompileFaultError) as caught:
        require_taken(cover(planted(), GPU), GPU)
    assert caught.value.family == "unsupported"
    for name in ("bad-quantize", "bad-custom", "bad-dilation", "bad-type", "bad-operator", "bad-last"):
        assert f"'{name}'" in caught.value.message
    assert "fine-" not in caught.value.message


def test_more_refused_nodes_than_a_reason_holds_are_counted_and_where_to_find_them_is_said() -> None:
    nodes = [node("Bernoulli", [f"t{place}" if place else "x"], [f"t{place + 1}"]) for place in range(30)]
    nodes.append(node("Relu", ["t30"], ["y"]))
    with pytest.raises(CompileFaultError, match=r"30 of 31 operators .* and 6 more \(fleet explain") as caught:
        require_taken(cover(model(nodes), GPU), GPU)
    assert len(caught.value.message) < 2000


def test_a_bad_node_inside_a_branch_is_laid_on_the_node_that_holds_it() -> None:
    def branch(operator: str) -> onnx.GraphProto:
        inner = node(operator, ["x"], [f"{operator}-out"], name=f"inner-{operator}")
        out = helper.make_tensor_value_info(f"{operator}-out", TensorProto.FLOAT, None)
        return helper.make_graph([inner], operator, [], [out])

    nodes = [
        node("ReduceMax", ["x"], ["top"], name="top", keepdims=0),
        node("Greater", ["top", "zero"], ["choice"], name="choose"),
        node("If", ["choice"], ["y"], name="either", then_branch=branch("Bernoulli"), else_branch=branch("Relu")),
    ]
    assert refused(cover(model(nodes, weights=[tensor("zero", 0.0)]), GPU)) == ["either"]


@pytest.mark.parametrize("kind", [TensorProto.UINT16, TensorProto.STRING])
def test_an_input_of_a_type_tensorrt_lacks_is_named_at_the_node_that_reads_it(kind: int) -> None:
    made = model([node("Identity", ["x"], ["y"], name="reader")], kind=kind, out=kind)
    coverage = cover(made, GPU)
    assert refused(coverage) == ["reader"]
    assert "input 'x'" in str(coverage.operators[0].reason)


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self) -> None:
        images = np.random.default_rng(0).normal(size=(4, 1, 3, 8, 8)).astype(np.float32)
        self._left = iter([{"x": image} for image in images])

    def get_next(self) -> Any:
        return next(self._left, None)


@pytest.fixture
def quantized(tmp_path: Path) -> Callable[..., Path]:
    """Quantise a Conv with ONNX Runtime's own quantiser, with the options given."""

    def run(**options: Any) -> Path:
        weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
        nodes = [node("Conv", ["x", "w", "b"], ["a"], name="conv"), node("Relu", ["a"], ["y"], name="relu")]
        made = model(nodes, weights=[tensor("w", weight), tensor("b", [0.1, 0.2, 0.3, 0.4])])
        onnx.save(made, tmp_path / "float.onnx")
        quantize_static(
            tmp_path / "float.onnx", tmp_path / "int8.onnx", Reader(), quant_format=QuantFormat.QDQ, **options
        )
        return tmp_path / "int8.onnx"

    return run


def test_onnx_runtimes_default_quantisation_is_refused_with_the_cure(quantized: Callable[..., Path]) -> None:
    coverage = coverage_of(quantized(activation_type=QuantType.QUInt8), GPU)
    reasons = " ".join(str(each.reason) for each in refused_nodes(coverage))
    assert "bias quantised to int32" in reasons
    assert "uint8" in reasons
    assert {each.rewrite for each in refused_nodes(coverage)} == {trt_qdq.REWRITE}
    with pytest.raises(CompileFaultError) as caught:
        require_taken(coverage, GPU)
    assert "what helps: quantize with QInt8" in caught.value.message
    assert "QuantizeBias=False" in caught.value.message


def test_int8_activations_that_are_asymmetric_are_refused(quantized: Callable[..., Path]) -> None:
    coverage = coverage_of(quantized(extra_options={"QuantizeBias": False}), GPU)
    assert any("not 0 (asymmetric)" in str(each.reason) for each in refused_nodes(coverage))


def test_what_the_cure_says_is_taken(quantized: Callable[..., Path]) -> None:
    path = quantized(
        per_channel=True,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    coverage = coverage_of(path, GPU)
    assert refused(coverage) == []
    assert coverage.counts["accelerator"] == len(coverage.operators)


def test_our_rules_agree_with_nvidias_parser_about_quantisation(quantized: Callable[..., Path]) -> None:
    """What we refuse, it refuses: the rules are there to name all of it, not to be stricter."""
    made = with_shapes(trt_coverage.read(quantized(activation_type=QuantType.QInt8)))
    theirs = Parser(trt_vendor.load()).refusals(made)
    assert set(trt_qdq.refusals(made)) == set(theirs) != set()


def test_integer_operators_and_a_missing_zero_point_are_refused() -> None:
    nodes = [
        node("QuantizeLinear", ["x", "scale"], ["q"], name="bare"),
        node("DequantizeLinear", ["q", "scale"], ["a"], name="back"),
        node("DynamicQuantizeLinear", ["a"], ["d", "s", "z"], name="dynamic"),
        node("DequantizeLinear", ["d", "s", "z"], ["y"], name="computed"),
    ]
    found = trt_qdq.refusals(model(nodes, weights=[tensor("scale", 0.1)]))
    assert {index: why.split(":")[0].split(";")[0] for index, why in found.items()} == {
        0: "has no zero point",
        2: "DynamicQuantizeLinear computes on integers",
    }


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            (
                "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check] Cannot compile "
                "'/c/Gemm' for Turing (SM75): FP32 GEMM is not supported. In compileGraph at /_src/a.cpp:2012)"
            ),
            "Cannot compile '/c/Gemm' for Turing (SM75): FP32 GEMM is not supported",
        ),
        (
            (
                "ITensor::getDimensions: Error Code 4: API Usage Error (c.bias: input has type Int32 but must be "
                "Int8. In checkType at /_src/optimizer/common/nodeBase.cpp:456)"
            ),
            "c.bias: input has type Int32 but must be Int8",
        ),
        (
            "reshape changes volume. Reshaping [1,128,2] to [1,128]. In operator() at /_src/shape.cpp:4633",
            "reshape changes volume. Reshaping [1,128,2] to [1,128]",
        ),
        ("Assertion failed: ok:\n nothing else", "ok: nothing else"),
    ],
)
def test_the_vendors_words_come_without_its_source_files(said: str, told: str) -> None:
    assert trt_vendor.tidy(said) == told


BAD = {
    "operator": lambda name, x, y: [node("Bernoulli", [x], [y], name=name)],
    "custom": lambda name, x, y: [node("Custom", [x], [y], name=name, domain="mine")],
    "zero-point": lambda name, x, y: [
        node("QuantizeLinear", [x, "scale", "three"], [f"{name}-q"], name=name),
        node("DequantizeLinear", [f"{name}-q", "scale", "three"], [y], name=f"{name}-back"),
    ],
}
"""Ways to be refused: by a missing operator, by a plugin's absence, and while a node is imported."""


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["fine", "fine", "operator", "custom", "zero-point"]), min_size=1, max_size=12))
def test_wherever_bad_nodes_stand_all_of_them_and_nothing_else_is_refused(kinds: list[str]) -> None:
    nodes: list[onnx.NodeProto] = []
    for place, kind in enumerate(kinds):
        x, y, name = f"t{place}" if place else "x", f"t{place + 1}", f"{kind}-{place}"
        nodes += [node("Sigmoid", [x], [y], name=name)] if kind == "fine" else BAD[kind](name, x, y)
    nodes.append(node("Relu", [f"t{len(kinds)}"], ["y"], name="fine-last"))
    made = model(nodes, weights=[tensor("scale", 0.1), tensor("three", 3, np.int8)])
    parser = Parser(trt_vendor.load())
    found = parser.refusals(with_shapes(made))
    assert {nodes[index].name for index in found} == {each.name for each in nodes if not each.name.startswith("fine")}
    assert refused(cover(made, GPU)) == [each.name for each in nodes if not each.name.startswith("fine")]


def takes_whole(made: onnx.ModelProto) -> bool:
    """Ask the parser the other way: import the whole model into a network."""
    vendor = trt_vendor.load()
    logger = trt_vendor.new_logger(vendor)
    builder = vendor.Builder(logger)
    network = trt_vendor.new_network(vendor, builder)
    return bool(vendor.OnnxParser(network, logger).parse(made.SerializeToString()))


def test_types_are_carried_on_behind_a_node_nobody_knows() -> None:
    """What a custom node gives has no inferred type, nor has anything behind it, until one is assumed."""
    nodes = [
        node("Custom", ["x"], ["a"], name="custom", domain="mine"),
        node("Sigmoid", ["a"], ["b"], name="fine"),
        *BAD["zero-point"]("zero-point", "b", "c"),
        node("ReduceMax", ["c"], ["d"], name="fine-too", keepdims=0),
        *BAD["zero-point"]("scalar", "d", "y"),
    ]
    made = model(nodes, weights=[tensor("scale", 0.1), tensor("three", 3, np.int8)])
    found = Parser(trt_vendor.load()).refusals(with_shapes(made))
    assert sorted(found) == [0, 2, 3, 5, 6]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_we_call_taken_of_onnxs_own_test_models_is_what_the_parser_imports() -> None:
    """1,884 models of one or a few operators: both take 1,013 and refuse 871 (onnx 1.23, TensorRT-RTX 1.7.1)."""
    models = {case.name: case.model for case in collect_testcases(None) if case.model is not None}
    assert len(models) > 1500
    wrong = [name for name, made in models.items() if (not refused(cover(made, GPU))) != takes_whole(made)]
    assert wrong == []


def test_int8_weights_that_no_dequantizelinear_reads_are_found() -> None:
    nodes = [node("Cast", ["w"], ["f"], to=TensorProto.FLOAT), node("Mul", ["x", "f"], ["y"])]
    assert trt_qdq.stray_weights(model(nodes, weights=[tensor("w", [[3]], np.int8)])) == {"w"}


def test_the_table_of_missing_operators_is_what_the_parser_says() -> None:
    parser = Parser(trt_vendor.load())
    operators = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert {name for name in operators if not parser.knows(name)} == trt_table.MISSING_OPERATORS & operators


def test_without_tensorrt_rtx_the_table_answers_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise trt_vendor.VendorMissingError("not installed")

    monkeypatch.setattr(trt_coverage, "load", missing)
    coverage = cover(planted(), GPU)
    assert coverage.source is CoverageSource.STATIC_TABLE
    assert refused(coverage) == ["bad-quantize", "bad-dequantize", "bad-custom", "bad-operator", "bad-last"]


def test_a_models_own_functions_are_no_custom_operators() -> None:
    twice = helper.make_function(
        "mine", "Twice", ["p"], ["q"], [node("Add", ["p", "p"], ["q"])], [helper.make_opsetid("", 17)]
    )
    made = model([node("Twice", ["x"], ["y"], name="call", domain="mine")])
    made.functions.append(twice)
    assert refused(cover(made, GPU)) == []
    assert trt_table.by_name(made.graph.node[0], frozenset({("mine", "Twice")})) is None


def dla(operator: str, facts: trt_dla.Facts | None = None, inputs: str = "x w", **attributes: Any) -> str | None:
    return trt_dla.not_on_dla(node(operator, inputs.split(), ["y"], **attributes), facts or trt_dla.Facts())


WIDE = trt_dla.Facts(shapes={"x": (1, 8, 40, 40), "w": (1, 8, 40, 40), "y": (1, 16, 40, 40)})


@pytest.mark.parametrize(
    ("operator", "attributes", "words"),
    [
        ("Conv", {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}, None),
        ("Conv", {"kernel_shape": [33, 3]}, "kernel_shape from 1 to 32"),
        ("Conv", {"strides": [9, 1]}, "strides from 1 to 8"),
        ("Conv", {"dilations": [33, 1]}, "dilations from 1 to 32"),
        ("Conv", {"kernel_shape": [3, 3], "pads": [3, 0, 3, 0]}, "pads by less than the kernel"),
        ("ConvTranspose", {"group": 2}, "grouped"),
        ("ConvTranspose", {"pads": [1, 1, 1, 1]}, "without padding"),
        ("ConvTranspose", {"dilations": [2, 2]}, "dilated"),
        ("ConvTranspose", {"strides": [16, 16], "kernel_shape": [1, 64]}, None),
        ("ConvTranspose", {"kernel_shape": [2, 64]}, "or 1 by 64, 96 or 128"),
        ("MaxPool", {"kernel_shape": [9, 9]}, "kernel_shape from 1 to 8"),
        ("MaxPool", {"kernel_shape": [8, 8], "strides": [16, 16], "pads": [8, 0, 0, 0]}, "pads from 0 to 7"),
        ("MaxPool", {"kernel_shape": [2, 2, 2]}, "pools over 2 axes"),
        ("GlobalAveragePool", {}, "of reductions it has the maximum only"),
        ("LRN", {"size": 4}, "over 3, 5, 7 or 9 channels"),
        ("Softmax", {"axis": 0}, "not over the batch"),
        ("Softmax", {"axis": 1}, None),
        ("Concat", {"axis": 1}, None),
        ("Concat", {"axis": 2}, "joins channels only"),
        ("Flatten", {}, "DLA has no Flatten"),
        ("Resize", {"mode": b"cubic"}, "not cubic"),
        ("Abs", {}, None),
        ("Transpose", {}, None),
        ("Reshape", {}, None),
    ],
)
def test_dlas_limits_are_those_nvidia_publishes(operator: str, attributes: dict[str, Any], words: str | None) -> None:
    found = dla(operator, WIDE, **attributes)
    assert (found is None) if words is None else (words in str(found))


@pytest.mark.parametrize("operator", ["Gemm", "MatMul", "PRelu"])
def test_dla_multiplies_by_constants_only(operator: str) -> None:
    assert "constant" in str(dla(operator))
    assert "constant" in str(dla(operator, inputs="x"))
    assert dla(operator, trt_dla.Facts({"w": tensor("w", np.ones((8, 8)))})) is None


def test_a_weight_that_is_packed_in_int8_is_constant_to_dla_too() -> None:
    weights = [tensor("q", np.ones((192, 8)), np.int8), tensor("s", 0.5), tensor("z", 0, np.int8)]
    nodes = [
        node("DequantizeLinear", ["q", "s", "z"], ["w"]),
        node("Reshape", ["x", "flat"], ["a"]),
        node("MatMul", ["a", "w"], ["y"], name="product"),
    ]
    made = model(nodes, weights=[*weights, tensor("flat", [1, 192], np.int64)], shape=[1, 3, 8, 8])
    assert trt_dla.not_on_dla(nodes[2], trt_dla.facts_of(made.graph)) is None


def constants(**values: Any) -> dict[str, onnx.TensorProto]:
    return {name: tensor(name, each, np.float32 if name == "scales" else np.int64) for name, each in values.items()}


@pytest.mark.parametrize(
    ("values", "inputs", "words"),
    [
        ({"start": [0], "end": [4], "axis": [1]}, "x start end axis", None),
        ({"start": [0], "end": [4], "axis": [1], "step": [2]}, "x start end axis step", "in steps of 1"),
        ({"start": [0], "end": [1], "axis": [0]}, "x start end axis", "other axes than the first"),
        ({}, "x start end axis", "by constants only"),
    ],
)
def test_dla_slices_by_constants_in_single_steps_beside_the_batch(
    values: dict[str, Any], inputs: str, words: str | None
) -> None:
    found = dla(
        "Slice",
        trt_dla.Facts(constants(**values), {"x": (2, 8, 4, 4), "y": (2 - (words is not None), 4, 4, 4)}),
        inputs,
    )
    assert (found is None) if words is None else (words in str(found))


@pytest.mark.parametrize(
    ("mode", "scales", "fits"),
    [("nearest", [1, 1, 32, 2], True), ("linear", [1, 1, 4, 4], True), ("linear", [1, 1, 8, 8], False),
     ("nearest", [1, 1, 1.5, 2], False), ("nearest", [1, 2, 2, 2], False)],
)  # fmt: skip
def test_dla_resizes_height_and_width_by_whole_numbers(mode: str, scales: list[float], fits: bool) -> None:
    found = dla("Resize", trt_dla.Facts(constants(scales=scales)), "x roi scales", mode=mode)
    assert (found is None) == fits


@pytest.mark.parametrize(
    ("shape", "words"),
    [((1, 8193, 2, 2), "sizes up to 8192"), ((4097, 8, 2, 2), "batches up to 4096"), ((64, 65, 8, 2, 2), "batches"),
     ((None, 8, 2, 2), None)],
)  # fmt: skip
def test_dla_has_a_largest_batch_and_a_largest_size(shape: tuple[int | None, ...], words: str | None) -> None:
    found = dla("Relu", trt_dla.Facts(shapes={"x": shape}), "x")
    assert (found is None) if words is None else (words in str(found))


def test_what_dla_lacks_is_told_and_refuses_no_build() -> None:
    coverage = cover(model([node("Relu", ["x"], ["a"], name="relu"), node("Erf", ["a"], ["y"], name="erf")]), DLA)
    assert coverage.counts[Placed.UNSUPPORTED.value] == 1
    assert str(coverage.operators[1].reason).startswith("on the GPU, not on DLA: DLA has no Erf")
    assert "DLA" in coverage.source_version
    require_taken(coverage, DLA)


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04"])
def test_a_file_that_is_no_model_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(CompileFaultError):
        coverage_of(tmp_path / "m.onnx", GPU)
