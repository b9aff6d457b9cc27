"""Branches whose condition is constant once shapes are fixed are taken; those that depend on values are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_controller.compile.graph import onnx_graph
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.rewrite import branches
from edgefleet_controller.compile.tflite import floating, freeze
from edgefleet_controller.compile.tflite.interpreter import Interpreter

FLOATS = TensorProto.FLOAT


def graph(name: str, nodes: list[onnx.NodeProto], output: str, constants: dict[str, Any]) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        name,
        [],
        [helper.make_tensor_value_info(output, FLOATS, None)],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )


def nested(outer_condition: list[onnx.NodeProto]) -> onnx.ModelProto:
    """Return y = x * 2 + 1 where x has three rows, else x * 2; or -x where `wide` does not hold; names are shared."""
    inner = helper.make_node(
        "If",
        ["three"],
        ["more"],
        then_branch=graph("more", [helper.make_node("Add", ["doubled", "k"], ["out"])], "out", {"k": np.float32(1)}),
        else_branch=graph("same", [helper.make_node("Identity", ["doubled"], ["out"])], "out", {}),
    )
    wide = [
        helper.make_node("Mul", ["x", "k"], ["doubled"]),
        helper.make_node("Shape", ["doubled"], ["rows"], start=0, end=1),
        helper.make_node("Equal", ["rows", "n"], ["three"]),
        inner,
    ]
    outer = helper.make_node(
        "If",
        ["wide"],
        ["y"],
        then_branch=graph("wide", wide, "more", {"k": np.float32(2), "n": np.asarray([3])}),
        else_branch=graph("narrow", [helper.make_node("Neg", ["x"], ["out"])], "out", {}),
    )
    whole = helper.make_graph(
        [*outer_condition, outer],
        "whole",
        [
            helper.make_tensor_value_info("x", FLOATS, (3, 2)),
            helper.make_tensor_value_info("rate", TensorProto.INT64, ()),
        ],
        [helper.make_tensor_value_info("y", FLOATS, (3, 2))],
        [
            numpy_helper.from_array(np.asarray(16_000), "usual"),
            numpy_helper.from_array(np.asarray(0, np.float32), "zero"),
        ],
    )
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def by_rate() -> onnx.ModelProto:
    return nested([helper.make_node("Equal", ["rate", "usual"], ["wide"])])


def test_nested_branches_are_taken_and_names_kept_apart() -> None:
    model = onnx_graph.with_constants(by_rate(), {"rate": np.asarray(16_000)})
    taken, taken_n = branches.taken(model, freeze.PARAMETERS)
    assert taken_n == 2
    assert "If" not in {node.op_type for node in taken.graph.node}
    onnx.checker.check_model(taken)
    feeds = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}
    before, after = (session.Session(each.SerializeToString()).run(feeds)[0] for each in (model, taken))
    np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(after, feeds["x"] * 2 + 1)


def test_a_branch_that_a_value_decides_stays() -> None:
    model = by_rate()
    assert branches.taken(model, freeze.PARAMETERS) == (model, 0)
    sums = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Less", ["zero", "sum"], ["wide"]),
    ]
    by_value = onnx_graph.with_constants(nested(sums), {"rate": np.asarray(16_000)})
    assert branches.taken(by_value, freeze.PARAMETERS) == (by_value, 0)


def test_an_input_that_only_chooses_branches_is_frozen_where_samples_agree() -> None:
    feeds = [{"x": np.ones((3, 2), np.float32), "rate": np.asarray(rate)} for rate in (8_000, 8_000, 16_000)]
    assert freeze.parameters(by_rate(), feeds[:2]) == {"rate": 8_000}
    assert freeze.parameters(by_rate(), feeds) == {}
    also_computed = nested(
        [
            helper.make_node("Equal", ["rate", "usual"], ["wide"]),
            helper.make_node("Add", ["rate", "usual"], ["next"]),
        ]
    )
    assert freeze.parameters(also_computed, feeds[:2]) == {}


@pytest.mark.parametrize(("rate", "factor"), [(8_000, -1), (16_000, 2)])
def test_a_model_with_branches_for_two_rates_becomes_a_tflite_file_for_one(rate: int, factor: int) -> None:
    feeds = [{"x": np.full((3, 2), value, np.float32), "rate": np.asarray(rate)} for value in (1, 5)]
    made = floating.make(by_rate(), feeds)
    assert made.rewrites[0].startswith("constant-branches-taken")
    assert made.frozen == {"rate": rate}
    got = made.run_all(Interpreter(made.data), [{"x": feeds[1]["x"]}])[0]["y"]
    np.testing.assert_array_equal(got, feeds[1]["x"] * factor + (factor == 2))
