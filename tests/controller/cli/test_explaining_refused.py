"""`fleet explain` of models that are not built: which operators keep them from it, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import NodeProto, TensorProto, helper
from typer.testing import CliRunner, Result

from edgefleet_contract.coverage import Coverage, CoverageSource
from edgefleet_controller.cli.app import app
from edgefleet_controller.compile.coverage import coverage
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.protocol import CoverageRequest
from edgefleet_controller.compile.tflite import convert
from edgefleet_controller.compile.tflite.convert import ConversionError

CUSTOM = helper.make_node("MyOp", ["a"], ["b"], name="own", domain="com.acme")
DETERMINANT = helper.make_node("Det", ["a"], ["b"], name="determinant")


def explain(home: Path, *words: object) -> Result:
    return CliRunner().invoke(app, ["explain", *map(str, words)], env={"FLEET_HOME": str(home), "COLUMNS": "160"})


def saved(path: Path, middle: NodeProto, shape: tuple[str | int, ...] = (1, 3, 3)) -> Path:
    """Write a graph of a ReLU, one node, and a negation."""
    relu, negation = helper.make_node("Relu", ["x"], ["a"], name="first"), helper.make_node("Neg", ["b"], ["y"])
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)]
    graph = helper.make_graph([relu, middle, negation], "g", [given], [answer])
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    return path


@pytest.mark.parametrize(
    "variant",
    ["ort/cpu/fp32", "tflite/gpu/fp32"],
)
def test_explain_lists_the_source_when_one_operator_keeps_it_from_being_built(tmp_path: Path, variant: str) -> None:
    done = explain(tmp_path, saved(tmp_path / "m.onnx", CUSTOM), "--variant", variant, "-o", "json")
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    placed = [(each["name"], each["type"].rpartition(":")[2], each["placed"]) for each in told["operators"]]
    assert placed == [("first", "Relu", "cpu"), ("own", "MyOp", "unsupported"), ("y", "Neg", "cpu")]
    assert told["first_blocking"]["name"] == "own"
    assert told["first_blocking"]["reason"]
    assert told["first_blocking"]["rewrite"]
    assert "not known" in told["operators"][0]["reason"]
    assert told["source"] == "static-table"


@pytest.fixture
def asked_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Coverage]:
    """Return what asks where the operators of a determinant would run, with a converter that lacks one."""

    def ask(said: str, operator: str) -> Coverage:
        def lacking(_model: object, _keep: object) -> bytes:
            raise ConversionError(said, (operator,))

        monkeypatch.setattr(convert, "to_tflite", lacking)
        path = saved(tmp_path / "m.onnx", DETERMINANT)
        return coverage(CoverageRequest(model=str(path), variant="tflite/gpu/fp32", work_dir=str(tmp_path)))

    return ask


def test_an_operator_the_converter_lacks_is_unsupported_in_the_list_of_the_source(
    asked_without: Callable[[str, str], Coverage],
) -> None:
    told = asked_without("no TFLite operators for Det determinant", "Det determinant")
    assert [each.placed.value for each in told.operators] == ["cpu", "unsupported", "cpu"]
    assert told.operators[1].reason == "onnx2tf has no TFLite operators for it"
    assert told.source is CoverageSource.VENDOR_PARSER


def test_a_refused_operator_that_the_source_does_not_have_stays_an_error(
    asked_without: Callable[[str, str], Coverage],
) -> None:
    with pytest.raises(CompileFaultError, match="FlexDet"):
        asked_without("custom operators no runtime has: FlexDet", "FlexDet")


def test_explain_still_refuses_a_damaged_file_that_holds_an_unknown_operator(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", CUSTOM)
    path.write_bytes(path.read_bytes()[:-9])
    done = explain(tmp_path, path, "--variant", "tflite/gpu/fp32")
    assert done.exit_code == 2
    assert not done.stdout


def test_explain_of_dynamic_axes_names_a_next_step_that_exists(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", helper.make_node("Abs", ["a"], ["b"]), ("n", "time", 3))
    done = explain(tmp_path, path, "--variant", "tflite/edgetpu/int8")
    assert done.exit_code == 2
    assert "fleet build MODEL --samples FILE --variant tflite/edgetpu/int8 --out DIR" in " ".join(done.stderr.split())
    assert "give real ones: --samples" not in done.stderr
