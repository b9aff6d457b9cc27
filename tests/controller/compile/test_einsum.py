"""Einsum with constant weights is the product it stands for, and is quantised as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_controller.compile import npz
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.ort import target as ort
from edgefleet_controller.compile.protocol import BuildRequest
from edgefleet_controller.compile.quantise.calibrate import products_written_out

SIZES = {"b": 2, "n": 3, "d": 16, "e": 4, "h": 4, "k": 8}


def einsum(equation: str, constant: int) -> onnx.ModelProto:
    terms = equation.partition("->")[0].split(",")
    shapes = [[SIZES[index] for index in term] for term in terms]
    weights = np.random.default_rng(1).normal(size=shapes[constant]).astype(np.float32)
    names = ["x", "x"]
    names[constant] = "w"
    graph = helper.make_graph(
        [helper.make_node("Einsum", names, ["y"], equation=equation)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes[1 - constant])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("equation", "constant"),
    [
        ("bnd,dhk->bhnk", 1),
        ("dhk,bnd->bnhk", 0),
        ("bhnk,hkd->bnd", 1),
        ("bdn,kd->kbn", 1),
        ("d,dk->k", 1),
        ("nd,d->n", 1),
        ("bnde,edk->bnk", 1),
    ],
)
def test_it_becomes_a_product_of_the_same_values(equation: str, constant: int) -> None:
    model = einsum(equation, constant)
    made, rewrites = products_written_out(model)
    assert rewrites == ("einsum-as-matmul",)
    assert "Einsum" not in {node.op_type for node in made.graph.node}
    shape = [each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim]
    feed = {"x": np.random.default_rng(2).normal(size=shape).astype(np.float32)}
    wanted, got = (session.Session(each.SerializeToString()).run(feed)[0] for each in (model, made))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "equation", ["bnd,bdk->bnk", "bnd,hk->bndhk", "bnd,dk->bk", "bnd,dhk->bnh", "bnd,dk", "...d,dk->...k"]
)
def test_what_is_no_plain_product_is_left(equation: str) -> None:
    model = einsum(equation.replace("...", "bn"), 1)
    model.graph.node[0].attribute[0].s = equation.encode()
    assert products_written_out(model) == (model, ())


def test_its_weights_are_quantised(tmp_path: Path) -> None:
    onnx.save(einsum("bnd,dhk->bhnk", 1), tmp_path / "m.onnx")
    samples = {"x": np.random.default_rng(4).normal(size=(8, 3, 16)).astype(np.float32)}
    for name in ("samples.npz", "calibration.npz"):
        npz.write(tmp_path / name, samples)
    model = onnx.load(tmp_path / "m.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "m.onnx")
    files = {"source": "m.onnx", "samples": "samples.npz", "calibration": "calibration.npz", "out": "out.onnx"}
    paths = {key: str(tmp_path / name) for key, name in files.items()}
    request = BuildRequest(model="tiny", variant="ort/cpu/int8", work_dir=str(tmp_path), **paths)
    assert "einsum-as-matmul" in ort.build(request).rewrites
    made = onnx.load(tmp_path / "out.onnx")
    assert TensorProto.INT8 in {tensor.data_type for tensor in made.graph.initializer}
