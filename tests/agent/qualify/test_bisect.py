"""The operator at fault is found among all, alone and in the whole, in few runs, and can be shown again."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_agent.compare import compare
from edgefleet_agent.qualify.bisect import search as bisect_module
from edgefleet_agent.qualify.bisect.judge import TensorError, judge
from edgefleet_agent.qualify.bisect.search import MAX_SAMPLES_N, bisect
from edgefleet_agent.qualify.parity.claim import CLAIMS
from edgefleet_agent.runtimes.base import Runtime
from edgefleet_agent.runtimes.registry import find_runtime
from edgefleet_agent.samples import Samples, save_arrays
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import Bisection, BisectStatus, ParityVerdict
from edgefleet_contract.job import CompareJob
from edgefleet_contract.variant import Variant

LAYERS_N = 20
WIDTH = 12


def network(layers_n: int = LAYERS_N) -> onnx.ModelProto:
    """Return `layers_n` pairs of MatMul and Add, every fourth followed by Relu, with a branch that is joined again."""
    rng = np.random.default_rng(layers_n)
    nodes, weights, last = [], [], "x"
    for index in range(layers_n):
        weight = (np.eye(WIDTH) + 0.2 * rng.normal(0, 1, (WIDTH, WIDTH))).astype(np.float32)
        weights += [
            numpy_helper.from_array(weight / np.float32(1.1), f"w{index}"),
            numpy_helper.from_array(rng.normal(0, 0.1, WIDTH).astype(np.float32), f"b{index}"),
        ]
        nodes += [
            helper.make_node("MatMul", [last, f"w{index}"], [f"m{index}"], name=f"matmul{index}"),
            helper.make_node("Add", [f"m{index}", f"b{index}"], [f"a{index}"], name=f"add{index}"),
        ]
        last = f"a{index}"
        if index % 4 == 3:
            nodes.append(helper.make_node("Relu", [last], [f"r{index}"], name=f"relu{index}"))
            nodes.append(helper.make_node("Add", [f"r{index}", f"a{index - 2}"], [f"j{index}"], name=f"join{index}"))
            last = f"j{index}"
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", WIDTH])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def samples(count: int = 12) -> Samples:
    return Samples({"x": np.random.default_rng(0).normal(0, 1, (count, WIDTH)).astype(np.float32)}, None)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def with_weight(model: onnx.ModelProto, name: str, change: Callable[[Any], Any]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    held = next(tensor for tensor in copy.graph.initializer if tensor.name == name)
    held.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(held).copy()).astype(np.float32), name))
    return copy


def found(tmp_path: Path, candidate: onnx.ModelProto, precision: str = "fp32", **options: Any) -> Bisection:
    reference = saved(network(), tmp_path / "reference.onnx")
    return bisect(
        reference, saved(candidate, tmp_path / "candidate.onnx"), samples(), {}, precision=precision, **options
    )


@pytest.mark.parametrize("index", range(0, LAYERS_N, 3))
def test_one_fault_among_many_operators_is_found_in_few_runs(tmp_path: Path, index: int) -> None:
    broken = with_weight(network(), f"w{index}", lambda weight: weight * np.where(np.arange(WIDTH) == 3, 1.2, 1.0))
    result = found(tmp_path, broken)
    assert result.status is BisectStatus.FOUND
    assert result.culprit is not None
    assert result.culprit.node == f"matmul{index}"
    assert result.operators_n == 50
    assert result.runs_n <= math.ceil(math.log2(result.operators_n)) + 2


def test_runs_are_counted_where_sessions_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counted(variant: Variant, *, test_runtimes: bool) -> Runtime:
        opened.append(str(variant))
        return find_runtime(variant, test_runtimes=test_runtimes)

    monkeypatch.setattr(bisect_module, "find_runtime", counted)
    for layers_n in (1, 2, LAYERS_N):
        opened.clear()
        reference = saved(network(layers_n), tmp_path / "reference.onnx")
        result = bisect(reference, reference, samples(), {}, precision="fp32")
        assert result.runs_n == len(opened)
        assert result.runs_n <= math.ceil(math.log2(result.operators_n)) + 2


def test_what_is_wrong_downstream_of_the_fault_is_not_blamed(tmp_path: Path) -> None:
    result = found(tmp_path, with_weight(network(), "w4", lambda weight: weight[::-1]))
    assert result.culprit is not None
    assert result.culprit.tensor == "m4"
    assert result.first_drift is not None
    assert result.first_drift.tensor == "m4"
    assert [error.tensor for error in result.worst].count("m4") == 1
    assert all(error.island_sqnr_db is None or error.island_sqnr_db > 90 for error in result.worst[1:])


def test_nan_in_the_middle_is_found_where_it_arises(tmp_path: Path) -> None:
    result = found(tmp_path, with_weight(network(), "b9", lambda bias: np.where(np.arange(WIDTH) == 2, np.nan, bias)))
    assert result.culprit is not None
    assert (result.culprit.tensor, result.culprit.operator) == ("a9", "Add")
    assert result.culprit.reason is not None
    assert "NaN" in result.culprit.reason


def test_two_equal_files_are_clean(tmp_path: Path) -> None:
    result = found(tmp_path, network())
    assert (result.status, result.culprit) == (BisectStatus.CLEAN, None)


def test_small_errors_everywhere_are_drift_with_nobody_to_blame() -> None:
    order = [f"t{index}" for index in range(10)]
    island = {name: TensorError(signal=1.0, error=1e-6) for name in order}
    drift = {name: TensorError(signal=1.0, error=10.0 ** (index - 8)) for index, name in enumerate(order)}
    judged = judge(order, island, drift, CLAIMS["int8"])
    assert (judged.status, judged.culprit, judged.first_drift) == (BisectStatus.DRIFT, None, "t7")


def quantised(model: onnx.ModelProto, tensor: str, *, zero_point: int = 0) -> onnx.ModelProto:
    """Return the model with a pair of QuantizeLinear and DequantizeLinear after a tensor, named as quantisers do."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(0.05, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
            numpy_helper.from_array(np.array(zero_point, np.int8), "zero_back"),
        ]
    )
    whole = f"{tensor}_QuantizeLinear_Output"
    back = f"{tensor}_DequantizeLinear_Output"
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = back if name == tensor else name
    nodes = list(graph.node)
    place = next(i for i, node in enumerate(nodes) if tensor in node.output) + 1 if tensor != "x" else 0
    nodes[place:place] = [
        helper.make_node("QuantizeLinear", [tensor, "scale", "zero"], [whole], name="quantise"),
        helper.make_node("DequantizeLinear", [whole, "scale", "zero_back"], [back], name="dequantise"),
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


@pytest.mark.parametrize("tensor", ["x", "a5", "r7"])
def test_a_wrong_zero_point_is_found_through_the_names_quantisers_give(tmp_path: Path, tensor: str) -> None:
    assert found(tmp_path, quantised(network(), tensor), "int8").status is BisectStatus.CLEAN
    result = found(tmp_path, quantised(network(), tensor, zero_point=12), "int8")
    assert result.culprit is not None
    assert result.culprit.tensor == f"{tensor}_DequantizeLinear_Output"
    assert result.culprit.operator == "QuantizeLinear+DequantizeLinear"


def test_the_failing_part_is_written_and_its_command_shows_the_fault_again(tmp_path: Path) -> None:
    broken = with_weight(network(), "w6", lambda weight: weight.T)
    out = tmp_path / "part"
    result = found(tmp_path, broken, out=out)
    assert sorted(path.name for path in out.iterdir()) == [
        "candidate.onnx", "expected.npz", "inputs.npz", "reference.onnx", "reproduce.txt",
    ]  # fmt: skip
    assert result.command == (out / "reproduce.txt").read_text(encoding="utf-8").strip()
    assert f"fleet compare {out / 'reference.onnx'} {out / 'candidate.onnx'}" in result.command
    part = onnx.load(out / "candidate.onnx")
    assert [node.op_type for node in part.graph.node] == ["MatMul", "Identity"]
    again = compare(
        CompareJob(
            reference=str(out / "reference.onnx"),
            candidate=str(out / "candidate.onnx"),
            samples=str(out / "inputs.npz"),
            precision="fp32",
        )
    )
    assert again.verdict is ParityVerdict.FAIL


def test_compare_bisects_when_asked_and_says_why_it_cannot_elsewhere(tmp_path: Path) -> None:
    reference = saved(network(), tmp_path / "reference.onnx")
    candidate = saved(with_weight(network(), "w2", lambda weight: -weight), tmp_path / "candidate.onnx")
    save_arrays(tmp_path / "x.npz", {"x": samples().inputs["x"]})
    job = CompareJob(
        reference=str(reference), candidate=str(candidate), samples=str(tmp_path / "x.npz"), precision="fp32"
    )
    assert compare(job).bisection is None
    answer = compare(job.model_copy(update={"bisect": True}))
    assert answer.bisection is not None
    assert answer.bisection.culprit is not None
    assert answer.bisection.culprit.node == "matmul2"
    outputs = str(tmp_path / "x.npz")
    of_outputs = compare(CompareJob(reference=outputs, candidate=outputs, bisect=True)).bisection
    assert of_outputs is not None
    assert of_outputs.status is BisectStatus.IMPOSSIBLE


def test_files_without_a_common_tensor_cannot_be_laid_beside_each_other(tmp_path: Path) -> None:
    other = network()
    for node in other.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if name == "x" or name[0] in "wb" else f"other_{name}" for name in names]
    other.graph.output[0].name = f"other_{other.graph.output[0].name}"
    result = found(tmp_path, other)
    assert result.status is BisectStatus.IMPOSSIBLE
    assert "same name" in result.reason


def test_a_machine_without_the_onnx_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    result = found(tmp_path, network())
    assert result.status is BisectStatus.IMPOSSIBLE
    assert "builders, not devices" in result.reason


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello", encoding="utf-8")
    with pytest.raises(UserInputError, match="needs ONNX files"):
        bisect(tmp_path / "text.onnx", tmp_path / "text.onnx", samples(), {}, precision="fp32")


def test_no_more_samples_are_kept_than_the_bound_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = saved(network(), tmp_path / "reference.onnx")
    many = bisect(reference, reference, samples(MAX_SAMPLES_N + 5), {}, precision="fp32")
    assert many.samples_n == MAX_SAMPLES_N
    monkeypatch.setattr(bisect_module, "MAX_KEPT_BYTES", 1)
    assert bisect(reference, reference, samples(), {}, precision="fp32").samples_n == 1
