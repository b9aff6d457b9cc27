"""What ONNX Runtime's CPU provider makes of a file: what it fused, how fast it is, which kernels it lacks."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph import onnx_graph
from edgefleet_controller.compile.npz import Arrays
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.protocol import OptionValue

_INTEGER = (
    "QLinear",
    "QGemm",
    "MatMulInteger",
    "DynamicQuantize",
    "QAttention",
    "ConvInteger",
    "MatMulNBits",
    "QEmbed",
)
_ROUNDS_N = 9
_MIN_ROUND_S = 0.01
_MAX_RUNS_N = 200


def fused(model: Path, precision: str) -> dict[str, OptionValue]:
    """Return what this machine's ONNX Runtime makes of a quantised file: integer operators, casts, roundings left.

    Deterministic for one version and architecture, both of which are part of the build key.
    """
    with TemporaryDirectory(dir=model.parent) as folder:
        optimised = Path(folder, "optimised.onnx")
        session.save_optimised(model, optimised)
        made = onnx.load(optimised, load_external_data=False)
        operators = Counter(node.op_type for node in onnx_graph.all_nodes(made.graph))
    if precision == "fp16":
        return {"casts_n": operators["Cast"], "nodes_n": operators.total()}
    integer_n = sum(count for name, count in operators.items() if name.startswith(_INTEGER))
    return {
        "fused_integer_nodes_n": integer_n,
        "roundings_left_n": operators["QuantizeLinear"] + operators["DequantizeLinear"],
        "nodes_n": operators.total(),
    }


def speed(source: Path, made: Path, feed: Arrays) -> dict[str, OptionValue]:
    """Return how fast a file runs against its source, side by side, with one thread: a figure of this moment.

    It may not enter an artifact, whose bytes must come out the same when it is built again.
    """
    ours, theirs = session.Session(made), session.Session(source)
    runs_n = max(1, min(_MAX_RUNS_N, int(_MIN_ROUND_S / max(_seconds(theirs, feed, 1), 1e-6))))
    ratios = []
    for _ in range(_ROUNDS_N):
        before_s, after_s = _seconds(theirs, feed, runs_n), _seconds(ours, feed, runs_n)
        ratios.append(before_s / max(after_s, 1e-9))
    return {
        "speedup_vs_fp32": round(statistics.median(ratios), 3),
        "speedup_vs_fp32_min": round(min(ratios), 3),
        "speedup_vs_fp32_max": round(max(ratios), 3),
        "speed_rounds_n": _ROUNDS_N,
        "speed_runs_a_round_n": runs_n,
    }


def _seconds(runner: session.Session, feed: Arrays, runs_n: int) -> float:
    started_s = time.perf_counter()
    for _ in range(runs_n):
        runner.run(feed)
    return (time.perf_counter() - started_s) / runs_n


def no_bfloat16(model: onnx.ModelProto) -> CompileFaultError:
    """Return why a model is not built in bfloat16: what ONNX Runtime says when asked for its kernels."""
    used = {node.op_type for node in model.graph.node}
    for operator, shapes in _SHAPES.items():
        if operator in used and (said := _refusal(_one(operator, *shapes))) is not None:
            return CompileFaultError(
                "variant",
                f"the CPU provider of ONNX Runtime {ort.__version__} has no bfloat16 kernel for {operator}: {said}",
                next_step="build fp16, or fp32",
                family="unsupported",
            )
    return CompileFaultError(
        "variant", "conversion to bfloat16 is not in this version", next_step="build fp16", family="unsupported"
    )


def _refusal(model: onnx.ModelProto) -> str | None:
    try:
        session.Session(model.SerializeToString())
    except session.RUNTIME_ERRORS as error:
        return session.short(error, 200)
    return None


def _one(operator: str, left: list[int], right: list[int]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["y"])],
        operator,
        [helper.make_tensor_value_info(n, TensorProto.BFLOAT16, s) for n, s in (("a", left), ("b", right))],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])
    model.ir_version = 10
    return model


_SHAPES: Mapping[str, tuple[list[int], list[int]]] = {
    "Conv": ([1, 1, 4, 4], [1, 1, 3, 3]),
    "Gemm": ([2, 3], [3, 4]),
    "MatMul": ([2, 3], [3, 4]),
    "Add": ([2, 3], [2, 3]),
}
"""Operators with the smallest inputs that ask for a kernel."""
