"""Half precision: what may overflow or vanish in 16 bits stays in float32, by measured ranges.

A host check on a CPU cannot show an overflow: ONNX Runtime has no half kernels for most operators there and computes
between casts in float32. So nodes are kept by what their tensors held on calibration samples, not by a trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
from onnxruntime.transformers import float16

from edgefleet_contract.artifact import TensorSpec
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph import onnx_graph
from edgefleet_controller.compile.ingest import preprocess
from edgefleet_controller.compile.protocol import BuildRequest, OptionValue
from edgefleet_controller.compile.quantise.calibrate import OBSERVE_MAX_N, named_source, quantisation_faults
from edgefleet_controller.compile.quantise.judge import open_judge
from edgefleet_controller.compile.quantise.ranges import LEAST_NORMAL_HALF, Observed, observe

MAX_HALF = 65_504.0
HEADROOM = 8.0
"""Values on other inputs may be this many times those of the calibration samples."""
_AMPLIFIERS = frozenset({"Log", "Sqrt", "Reciprocal", "Pow", "Div"})
"""Operators after which a tiny value is no tiny one."""
_MAX_TINY_SHARE = 0.1
_SQUARES = frozenset(
    {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization", "ReduceL2",
     "ReduceSumSquare", "SimplifiedLayerNormalization", "SkipLayerNormalization"}
)  # fmt: skip
"""Operators that square their input inside."""
_SUMS = frozenset({"GlobalAveragePool", "AveragePool", "ReduceMean", "ReduceSum", "ReduceL1", "Mean"})
"""Operators that add up many values inside before they divide."""
BLOCKED_OPERATORS = (*float16.DEFAULT_OP_BLOCK_LIST, "Log", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd")
_LISTED_N = 64


def build(request: BuildRequest, inputs: tuple[TensorSpec, ...]) -> tuple[onnx.ModelProto, dict[str, OptionValue]]:
    """Return the model in half precision with float32 inputs and outputs, and how it was made.

    Raises:
        CompileFaultError: the converter does not manage this model, or nothing in it is float32.
    """
    with quantisation_faults():
        model = load_model_with_shape_infer(named_source(Path(request.source), Path(request.work_dir)))
        calibration = npz.read(Path(request.calibration))
        feeds = list(preprocess.batches(calibration, inputs, request.preprocess))[:OBSERVE_MAX_N]
        kept = {**prone(model, observe(model, feeds)), **_without_kernel(model)}
        made = float16.convert_float_to_float16(
            model, keep_io_types=True, op_block_list=list(BLOCKED_OPERATORS), node_block_list=sorted(kept)
        )
        join_casts(made.graph)
        onnx_graph.sort_nodes(made.graph)  # the converter appends its casts at the end
        judge = open_judge(request, inputs)
        score = judge.score(judge.run(made.SerializeToString()))
    half_n = sum(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in onnx_graph.all_tensors(made.graph))
    if half_n == 0:
        raise CompileFaultError(
            "variant", f"fp16 applies to float32 weights; {_none_left(model, kept)}", family="unsupported"
        )
    by_type = sorted({node.op_type for node in model.graph.node} & set(BLOCKED_OPERATORS))
    return made, {
        "kept_fp32": "; ".join(f"{name}: {why}" for name, why in list(kept.items())[:_LISTED_N]),
        "kept_fp32_nodes_n": len(kept),
        "kept_fp32_operators": ", ".join(by_type),
        "calibration": "ranges for overflow",
        "calibration_samples_n": len(feeds),
        "half_tensors_n": half_n,
        "unobserved_branches_n": sum(1 for _ in onnx_graph.inner_graphs(model.graph)),
        "sqnr_db": round(score.sqnr_db, 2),
    }


def _without_kernel(model: onnx.ModelProto) -> dict[str, str]:
    """Return the nodes ONNX Runtime's CPU cannot run in half at all (others it computes in float32 between casts)."""
    return {
        node.name: f"{node.op_type} has no half kernel that combines"
        for node in model.graph.node
        if node.op_type in {"ScatterElements", "ScatterND"}
        and any(each.name == "reduction" and each.s not in {b"", b"none"} for each in node.attribute)
    }


def _none_left(model: onnx.ModelProto, kept: Mapping[str, str]) -> str:
    """Return, for a refusal, why no weight became half."""
    if kept and any(tensor.data_type == onnx.TensorProto.FLOAT for tensor in onnx_graph.own_tensors(model.graph)):
        name, why = next(iter(kept.items()))
        others = f" (and {len(kept) - 1} more)" if len(kept) > 1 else ""
        return f"all of its weights stay float32, since nodes would overflow or vanish in half: {name!r}{others}, {why}"
    return onnx_graph.none_found(model)


def prone(model: onnx.ModelProto, seen: Mapping[str, Observed]) -> dict[str, str]:
    """Return the nodes that may overflow or vanish in half precision: name → why.

    Args:
        model: float32, shapes inferred, every node named.
        seen: what its tensors held on calibration samples.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants |= dict.fromkeys(node.output, next(each.t for each in node.attribute))
    found = {node.name: _why(node, seen, constants) for node in model.graph.node if node.op_type != "Constant"}
    return {**_vanishing(model, seen), **{name: why for name, why in found.items() if why is not None}}


def _vanishing(model: onnx.ModelProto, seen: Mapping[str, Observed]) -> dict[str, str]:
    """Return the nodes that make values too small for half precision which an amplifier then reads, and the amplifier.

    Followed backwards as long as more than a tenth of a tensor's nonzero values are that small.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    kept: dict[str, str] = {}
    pending = [(node, node) for node in model.graph.node if node.op_type in _AMPLIFIERS]
    while pending:
        node, amplifier = pending.pop()
        read = node.input[1:2] if node.op_type == "Div" and node is amplifier else node.input
        for name in read:
            if name not in seen or seen[name].tiny_share <= _MAX_TINY_SHARE:
                continue
            why = f"{seen[name].tiny_share:.0%} of {name} would vanish before {amplifier.op_type}"
            kept.setdefault(node.name, why)
            maker = makers.get(name)
            if maker is not None and maker.name not in kept:
                kept[maker.name] = why
                pending.append((maker, amplifier))
    return kept


def _why(node: onnx.NodeProto, seen: Mapping[str, Observed], constants: Mapping[str, onnx.TensorProto]) -> str | None:
    for name in (*node.input, *node.output):
        if name in seen and seen[name].absmax * HEADROOM > MAX_HALF:
            return f"{name} reaches {seen[name].absmax:.3g}"
    for name in node.input:
        if name in seen and (inside := _inside(node, seen[name])) * HEADROOM > MAX_HALF:
            return f"adds up to {inside:.3g} inside"
        if name in constants and (why := _constant(constants[name])) is not None:
            return f"{name} {why}"
    return None


def _inside(node: onnx.NodeProto, seen: Observed) -> float:
    """Return the largest value an operator may reach inside."""
    if node.op_type in _SQUARES:
        return seen.absmax**2
    if node.op_type in _SUMS:
        return seen.mean_abs * seen.elements_n
    return 0.0


def _constant(tensor: onnx.TensorProto) -> str | None:
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return None
    values = np.abs(numpy_helper.to_array(tensor))
    largest = float(values.max(initial=0.0))
    if largest > MAX_HALF:
        return f"holds {largest:.3g}"
    if values.size == 1 and 0 < largest < LEAST_NORMAL_HALF:
        return f"is {largest:.3g}, which vanishes"
    return None


def join_casts(graph: onnx.GraphProto) -> None:
    """Let kept nodes that follow each other pass float32: the converter casts down and up again between them."""
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    to = {name: onnx.helper.get_attribute_value(node.attribute[0]) for name, node in casts.items()}
    direct = {
        name: casts[node.input[0]].input[0]
        for name, node in casts.items()
        if to[name] == onnx.TensorProto.FLOAT and to.get(node.input[0]) == onnx.TensorProto.FLOAT16
    }
    results = {value.name for value in graph.output}
    direct = {name: origin for name, origin in direct.items() if name not in results}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in direct:
                node.input[place] = direct[name]
    read = onnx_graph.names_read(graph) | results
    left = [node for node in graph.node if node.op_type != "Cast" or node.output[0] in read]
    onnx_graph.put_nodes(graph, left)
