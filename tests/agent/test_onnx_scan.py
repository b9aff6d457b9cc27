"""Which precision an ONNX file claims, read without the `onnx` package; the package writes the cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgefleet_agent.onnx_scan import claimed_precision


def model(path: Path, op: str, weight: np.ndarray) -> Path:
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(weight, "w")],
    )
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("op", "dtype", "precision"),
    [
        ("MatMul", np.float32, "fp32"),
        ("MatMul", np.float16, "fp16"),
        ("QuantizeLinear", np.float32, "int8"),
        ("QLinearConv", np.uint8, "int8"),
        ("DynamicQuantizeLinear", np.float32, "int8-dynamic"),
        ("MatMulNBits", np.uint8, "int4"),
        ("Cast", np.int8, "int8-dynamic"),
    ],
)
def test_operators_and_weights_tell_the_precision(tmp_path: Path, op: str, dtype: type, precision: str) -> None:
    assert claimed_precision(model(tmp_path / "m.onnx", op, np.ones(3, dtype))) == precision


@pytest.mark.parametrize("as_constant", [False, True])
@pytest.mark.parametrize(("dtype", "precision"), [(np.float32, "fp32"), (np.float16, "fp16")])
def test_weights_inside_the_branches_of_an_if_are_counted(
    tmp_path: Path, dtype: type, precision: str, *, as_constant: bool
) -> None:
    weight = numpy_helper.from_array(np.ones(64, dtype), "w")
    nodes = [helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT)]
    if as_constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [64])
    branch = helper.make_graph(nodes, "b", [], [y], [] if as_constant else [weight])
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [y],
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    assert claimed_precision(path) == precision


def test_a_single_half_precision_constant_is_no_claim(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", "MatMul", np.ones(99, np.float32))
    loaded = onnx.load(path)
    one = numpy_helper.from_array(np.ones(1, np.float16), "k")
    loaded.graph.node.append(helper.make_node("Constant", [], ["k"], value=one))
    path.write_bytes(loaded.SerializeToString())
    assert claimed_precision(path) == "fp32"


def test_bfloat16_weights_are_told(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", "MatMul", np.ones(3, np.float32))
    loaded = onnx.load(path)
    loaded.graph.initializer[0].data_type = TensorProto.BFLOAT16
    path.write_bytes(loaded.SerializeToString())
    assert claimed_precision(path) == "bf16"


def test_the_digit_model_is_fp32(digit_model: Path) -> None:
    assert claimed_precision(digit_model) == "fp32"


@given(st.binary(max_size=300))
def test_bytes_that_are_no_model_are_taken_for_fp32_and_raise_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("scan") / "m.onnx"
    path.write_bytes(data)
    assert isinstance(claimed_precision(path), str)


@given(st.integers(0, 120), st.integers(0, 255))
def test_a_damaged_model_raises_nothing(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    path = model(tmp_path_factory.mktemp("scan") / "m.onnx", "MatMul", np.ones(3, np.float16))
    data = bytearray(path.read_bytes())
    data[at % len(data)] = byte
    path.write_bytes(data)
    assert isinstance(claimed_precision(path), str)
