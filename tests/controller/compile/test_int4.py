"""4-bit weights and int8 tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ort import gather as ort_gather
from edgefleet_controller.compile.ort import int4
from edgefleet_controller.compile.ort import target as ort
from edgefleet_controller.compile.ort.session import Session, sqnr_db


def unpack(packed: Any, scales: Any, zeros: Any, inner: int) -> Any:
    outer, blocks_n, _ = packed.shape
    levels = np.stack([packed & 15, packed >> 4], axis=-1).reshape(outer, blocks_n, int4.BLOCK_N)
    pairs = zeros.reshape(outer, -1)
    points = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(outer, -1)[:, :blocks_n]
    values = (levels.astype(np.float32) - points[..., None]) * scales.reshape(outer, blocks_n, 1)
    return values.reshape(outer, -1)[:, :inner].T


@given(st.integers(1, 100), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_packed_weights_are_within_half_a_step(inner: int, outer: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(inner, outer)).astype(np.float32)
    back = unpack(*int4.pack(matrix), inner)
    assert back.shape == matrix.shape
    assert np.abs(back - matrix).max() <= (matrix.max() - min(0, matrix.min())) / 2


def test_searched_scales_are_no_worse_than_the_extremes() -> None:
    blocks = np.random.default_rng(0).standard_t(3, size=(16, 8, int4.BLOCK_N)).astype(np.float32)

    def error() -> float:
        scale, zero, levels = int4._search(blocks)
        return float(((levels - zero[..., None].astype(np.float32)) * scale[..., None] - blocks).std())

    searched = error()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int4, "_SHRINK", (1.0,))
        assert searched < 0.99 * error()


@pytest.mark.parametrize("transposed", [0, 1])
def test_the_kernel_reads_what_was_packed(quantised: Any, transposed: int) -> None:
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(70, 5)).astype(np.float32)
    weights = [quantised.tensor("w", matrix.T if transposed else matrix), quantised.tensor("b", np.arange(5))]
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="g", transB=transposed)
    model = quantised.model_of([node], {"x": ["n", 70]}, {"y": ["n", 5]}, weights)
    assert int4.quantize_weights(model) == (1, 350)
    x = generator.normal(size=(3, 70)).astype(np.float32)
    got = Session(model.SerializeToString()).run({"x": x})[0]
    np.testing.assert_allclose(got, x @ unpack(*int4.pack(matrix), 70) + np.arange(5), rtol=1e-4, atol=1e-4)
    assert {tensor.name for tensor in model.graph.initializer} == {"g_q4", "g_scales", "g_zeros", "b"}


def test_int4_of_a_transformer_is_small_and_close(quantised: Any, tmp_path: Path) -> None:
    model = quantised.outlier_transformer(outlier=1.0)
    x = np.random.default_rng(0).normal(size=(20, 6, 32)).astype(np.float32)
    answer = ort.build(quantised.request_for(tmp_path, model, "ort/cpu/int4", {"x": x}, task="embedding"))
    assert answer.options["quantised_nodes_n"] == 6
    assert float(answer.options["sqnr_db"]) > 15
    assert (tmp_path / "out.onnx").stat().st_size < 0.3 * (tmp_path / "m.onnx").stat().st_size


def test_a_model_without_products_is_unsupported(quantised: Any, tmp_path: Path) -> None:
    model = quantised.model_of([helper.make_node("Relu", ["x"], ["y"], name="r")], {"x": ["n", 8]}, {"y": ["n", 8]}, [])
    x = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    with pytest.raises(CompileFaultError, match="it has none"):
        ort.build(quantised.request_for(tmp_path, model, "ort/cpu/int4", {"x": x}))


def lookup(quantised: Any, rows: int, second_reader: bool = False) -> onnx.ModelProto:
    table = np.random.default_rng(0).normal(size=(rows, 32)) * np.logspace(-2, 2, rows)[:, None]
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"], name="look")]
    if second_reader:
        nodes.append(helper.make_node("Shape", ["table"], ["size"], name="size"))
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 32])],
        [quantised.tensor("table", table)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def test_a_table_in_int8_keeps_every_row_to_its_own_scale(quantised: Any) -> None:
    model = lookup(quantised, 600)
    ids = np.arange(8, dtype=np.int64).reshape(1, 2, 4)[0] * 75
    before = Session(model.SerializeToString()).run({"ids": ids})[0]
    size_bytes = model.ByteSize()
    assert ort_gather.quantize_tables(model) == 1
    after = Session(model.SerializeToString()).run({"ids": ids})[0]
    for row in range(2):
        assert sqnr_db([before[row]], [after[row]]) > 35
    assert model.ByteSize() < 0.35 * size_bytes
    assert {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.INT8, TensorProto.FLOAT}
    assert numpy_helper.to_array(model.graph.initializer[1]).shape == (600, 1)


@pytest.mark.parametrize(("rows", "second_reader"), [(100, False), (600, True)])
def test_a_small_table_or_one_that_others_read_stays_as_it_is(quantised: Any, rows: int, second_reader: bool) -> None:
    assert ort_gather.quantize_tables(lookup(quantised, rows, second_reader)) == 0
