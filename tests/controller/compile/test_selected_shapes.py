"""Outputs whose shape depends on values, told from the graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgefleet_controller.compile.ingest.selected_shapes import outputs_by_values


def found(*nodes: onnx.NodeProto, size: int | str = "found", constants: tuple[str, ...] = ()) -> dict[str, str]:
    numbers = [onnx.numpy_helper.from_array(np.array([1], np.int64), "one")]
    graph = helper.make_graph(
        [*nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [1, size])],
        numbers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return outputs_by_values(model, {"x": (4,)}, constants)


SEEK = helper.make_node("NonZero", ["x"], ["n"], name="seek")


@pytest.mark.parametrize("operator", ["Expand", "Tile", "Reshape"])
def test_a_shape_computed_from_values_names_the_operator_it_goes_into(operator: str) -> None:
    assert found(helper.make_node(operator, ["one", "x"], ["y"], name="grow")) == {"y": f"'grow' ({operator})"}


def test_a_selection_is_followed_through_the_operators_behind_it() -> None:
    assert found(SEEK, helper.make_node("Neg", ["n"], ["y"])) == {"y": "'seek' (NonZero)"}


def test_a_shape_of_what_was_selected_passes_it_on() -> None:
    nodes = [helper.make_node("Shape", ["n"], ["s"]), helper.make_node("Expand", ["one", "s"], ["y"], name="grow")]
    assert found(SEEK, *nodes) == {"y": "'grow' (Expand)"}


def test_a_selection_that_is_summed_is_no_fault() -> None:
    assert found(SEEK, helper.make_node("ReduceSum", ["n", "one"], ["y"], keepdims=1)) == {}


def test_a_shape_that_follows_from_the_shape_of_an_input_is_no_fault() -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Expand", ["one", "s"], ["y"])]
    assert found(*nodes) == {}


def test_a_selection_among_values_that_never_change_is_no_fault() -> None:
    assert found(helper.make_node("NonZero", ["x"], ["y"]), constants=("x",)) == {}


def test_a_size_the_model_declares_is_believed() -> None:
    assert found(helper.make_node("NonZero", ["x"], ["y"]), size=4) == {}
