"""Half precision: what stays in float32, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ort import fp16
from edgefleet_controller.compile.ort import target as ort
from edgefleet_controller.compile.ort.session import Session, sqnr_db
from edgefleet_controller.compile.quantise.ranges import observe


def squares(quantised: Any, factor: float) -> onnx.ModelProto:
    """Return x f32[n, 8] → y = root(mean((x · factor)²) + 1e-8): fine in float32, infinite in half at large factors."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["large"], name="product"),
        helper.make_node("Mul", ["large", "large"], ["square"], name="square"),
        helper.make_node("ReduceMean", ["square"], ["mean"], name="mean", axes=[-1], keepdims=1),
        helper.make_node("Add", ["mean", "little"], ["safe"], name="guard"),
        helper.make_node("Sqrt", ["safe"], ["root"], name="root"),
        helper.make_node("Div", ["large", "root"], ["y"], name="normal"),
    ]
    weights = [quantised.tensor("w", np.eye(8) * factor), quantised.tensor("little", np.full((), 1e-8))]
    return quantised.model_of(nodes, {"x": ["n", 8]}, {"y": ["n", 8]}, weights)  # type: ignore[no-any-return]


def samples() -> Any:
    return np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)


def test_nodes_are_kept_by_what_they_held(quantised: Any) -> None:
    model = onnx.shape_inference.infer_shapes(squares(quantised, 300.0))
    kept = fp16.prone(model, observe(model, [{"x": each[None]} for each in samples()]))
    assert set(kept) == {"square", "mean", "guard", "root"}
    assert kept["square"].startswith("square reaches")


def test_a_constant_that_vanishes_in_half_keeps_its_node(quantised: Any) -> None:
    model = onnx.shape_inference.infer_shapes(squares(quantised, 1.0))
    kept = fp16.prone(model, observe(model, [{"x": each[None]} for each in samples()]))
    assert kept == {"guard": "little is 1e-08, which vanishes"}


def test_values_that_vanish_before_a_logarithm_stay_in_float32(quantised: Any, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["small"], name="product"),
        helper.make_node("Mul", ["small", "small"], ["power"], name="power"),
        helper.make_node("Add", ["power", "floor"], ["safe"], name="safe"),
        helper.make_node("Log", ["safe"], ["level"], name="log"),
        helper.make_node("MatMul", ["level", "v"], ["y"], name="after"),
    ]
    weights = [quantised.tensor("w", np.eye(8) * 1e-3), quantised.tensor("v", np.eye(8)),
               quantised.tensor("floor", np.full((), 1e-7))]  # fmt: skip
    model = quantised.model_of(nodes, {"x": ["n", 8]}, {"y": ["n", 8]}, weights)
    answer = ort.build(quantised.request_for(tmp_path, model, "ort/cpu/fp16", {"x": samples()}))
    assert "would vanish before Log" in str(answer.options["kept_fp32"])
    feeds = [{"x": each[None]} for each in samples()]
    before = Session(model.SerializeToString()).run_all(feeds)
    assert sqnr_db(before, Session(tmp_path / "out.onnx", optimise=False).run_all(feeds)) > 60
    assert "after" not in fp16.prone(onnx.shape_inference.infer_shapes(model), observe(
        onnx.shape_inference.infer_shapes(model), feeds))  # fmt: skip


@pytest.mark.parametrize("factor", [1.0, 300.0])
def test_the_file_has_float32_ends_half_weights_and_the_same_outputs(
    quantised: Any, tmp_path: Path, factor: float
) -> None:
    model = squares(quantised, factor)
    answer = ort.build(quantised.request_for(tmp_path, model, "ort/cpu/fp16", {"x": samples()}))
    made = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(made)
    assert [v.type.tensor_type.elem_type for v in (*made.graph.input, *made.graph.output)] == [TensorProto.FLOAT] * 2
    assert any(tensor.data_type == TensorProto.FLOAT16 for tensor in made.graph.initializer)
    feeds = [{"x": each[None]} for each in samples()]
    before = Session(model.SerializeToString()).run_all(feeds)
    # Without the runtime's own fusions every tensor passes through its declared type: an overflow would show.
    after = Session(tmp_path / "out.onnx", optimise=False).run_all(feeds)
    assert np.isfinite(after[0]).all()
    assert sqnr_db(before, after) > 50
    assert answer.options["kept_fp32_nodes_n"] == (1 if factor == 1.0 else 4)


def test_kept_nodes_that_follow_each_other_pass_float32(quantised: Any, tmp_path: Path) -> None:
    ort.build(quantised.request_for(tmp_path, squares(quantised, 300.0), "ort/cpu/fp16", {"x": samples()}))
    made = onnx.load(tmp_path / "out.onnx")
    makers = {name: node for node in made.graph.node for name in node.output}
    for node in made.graph.node:
        if node.op_type == "Cast" and helper.get_attribute_value(node.attribute[0]) == TensorProto.FLOAT:
            maker = makers.get(node.input[0])
            assert maker is None or maker.op_type != "Cast"


def branching(quantised: Any) -> onnx.ModelProto:
    """Return x f32[n, 8] → y: a product with its weight in both branches of an If."""
    then, other = (
        helper.make_graph(
            [helper.make_node("MatMul", ["x", f"w{at}"], [f"r{at}"], name=f"product{at}")], f"b{at}", [],
            [helper.make_tensor_value_info(f"r{at}", TensorProto.FLOAT, ["n", 8])],
            [quantised.tensor(f"w{at}", np.random.default_rng(at).normal(size=(8, 8)))],
        )
        for at in range(2)
    )  # fmt: skip
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["up"]),
        helper.make_node("If", ["up"], ["y"], then_branch=then, else_branch=other),
    ]
    zero = quantised.tensor("zero", np.zeros(()))
    return quantised.model_of(nodes, {"x": ["n", 8]}, {"y": ["n", 8]}, [zero])  # type: ignore[no-any-return]


@pytest.mark.parametrize("variant", ["ort/cpu/fp16", "ort/cpu/int8-dynamic"])
def test_weights_inside_branches_are_converted_too(quantised: Any, tmp_path: Path, variant: str) -> None:
    model = branching(quantised)
    answer = ort.build(quantised.request_for(tmp_path, model, variant, {"x": samples()}))
    feeds = [{"x": each[None]} for each in samples()]
    before, after = Session(model.SerializeToString()).run_all(feeds), Session(tmp_path / "out.onnx").run_all(feeds)
    assert 30 < sqnr_db(before, after) < 120
    if variant.endswith("fp16"):
        assert answer.options["unobserved_branches_n"] == 2
    else:
        assert int(answer.options["fused_integer_nodes_n"]) >= 2


def test_a_model_without_float_weights_is_unsupported(quantised: Any, tmp_path: Path) -> None:
    model = quantised.model_of([helper.make_node("Relu", ["x"], ["y"], name="r")], {"x": ["n", 8]}, {"y": ["n", 8]}, [])
    with pytest.raises(CompileFaultError, match="it has none") as caught:
        ort.build(quantised.request_for(tmp_path, model, "ort/cpu/fp16", {"x": samples()}))
    assert caught.value.family == "unsupported"


def test_bfloat16_is_refused_with_the_words_of_the_runtime(quantised: Any, tmp_path: Path) -> None:
    model = quantised.wide_range()
    images = np.random.default_rng(0).normal(size=(20, 8, 8, 8)).astype(np.float32)
    with pytest.raises(CompileFaultError, match=r"has no bfloat16 kernel for Conv: .*NOT_IMPLEMENTED") as caught:
        ort.build(quantised.request_for(tmp_path, model, "ort/cpu/bf16", {"image": images}))
    assert caught.value.family == "unsupported"


def test_a_model_whose_every_node_overflows_is_refused_with_a_node_and_its_value(
    quantised: Any, tmp_path: Path
) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    source = quantised.model_of(nodes, {"x": ["n", 8]}, {"y": ["n", 8]}, [quantised.tensor("w", np.eye(8) * 1e6)])
    with pytest.raises(CompileFaultError, match=r"all of its weights stay float32.*'product', y reaches"):
        ort.build(quantised.request_for(tmp_path, source, "ort/cpu/fp16", {"x": samples()}))


def test_a_scatter_that_adds_stays_in_float32_as_no_kernel_does_it_in_half(quantised: Any, tmp_path: Path) -> None:
    nodes = [
        helper.make_node(
            "Constant", [], ["rows"], value=onnx.numpy_helper.from_array(np.zeros((1, 8), dtype=np.int64))
        ),
        helper.make_node("MatMul", ["x", "w"], ["a"], name="product"),
        helper.make_node("ScatterElements", ["a", "rows", "x"], ["b"], name="scatter", axis=0, reduction="add"),
        helper.make_node("MatMul", ["b", "w"], ["y"], name="last"),
    ]
    source = quantised.model_of(nodes, {"x": [1, 8]}, {"y": [1, 8]}, [quantised.tensor("w", np.eye(8))])
    answer = ort.build(quantised.request_for(tmp_path, source, "ort/cpu/fp16", {"x": samples()}))
    assert answer.options["kept_fp32"] == "scatter: ScatterElements has no half kernel that combines"
