"""Where the operators of an ONNX model would run under TensorRT, and who says so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types

from edgefleet_contract.base import clip_reason
from edgefleet_contract.coverage import Coverage, CoverageSource, OperatorCoverage, Placed
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph.onnx_graph import with_shapes
from edgefleet_controller.compile.tensorrt import dla as trt_dla
from edgefleet_controller.compile.tensorrt import qdq as trt_qdq
from edgefleet_controller.compile.tensorrt import table as trt_table
from edgefleet_controller.compile.tensorrt.parser import MODEL, TAKEN_TYPES, Parser
from edgefleet_controller.compile.tensorrt.vendor import VendorMissingError, load

DLA = "tensorrt/dla"


def coverage_of(path: Path, target: str) -> Coverage:
    """Return where each operator of an `.onnx` file would run, in graph order.

    The answer is NVIDIA's parser's where TensorRT-RTX is installed, else that of a table of operators; our own rules
    about quantisation are asked either way. Operators inside branches and bodies count with the node that holds them.

    Args:
        path: any ONNX file, even one this version could not build: a report must show what is wrong with it.
        target: `tensorrt/gpu`, `tensorrt/dla` or `tensorrt-rtx/gpu`.

    Raises:
        CompileFaultError: the file is not an ONNX model.
    """
    return cover(read(path), target)


def read(path: Path) -> onnx.ModelProto:
    """Return the model in a file, without asking whether its operators are known. Raises CompileFaultError."""
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, UnicodeDecodeError, ValueError, OSError) as error:
        raise CompileFaultError("source", f"is not an ONNX model that can be read: {error}") from error
    if not model.graph.node:
        raise CompileFaultError("source", "holds a graph without any node: there is nothing to run")
    return model


def cover(model: onnx.ModelProto, target: str) -> Coverage:
    """Return where each operator of a model would run; see `coverage_of`."""
    shaped = with_shapes(model)
    own = trt_qdq.refusals(shaped) | _untaken_inputs(shaped.graph)
    try:
        parser = Parser(load())
    except VendorMissingError:
        refused, source, version = _by_table(shaped), CoverageSource.STATIC_TABLE, trt_table.TABLE_VERSION
    else:
        refused, source, version = parser.refusals(shaped, own.keys()), CoverageSource.VENDOR_PARSER, parser.version
    refused = _spread_model_refusal(refused, own) | own
    off_dla = _off_dla(shaped.graph) if target == DLA else {}
    if target == DLA:
        version = f"{version}; {trt_dla.VERSION}"[:128]
    nodes = enumerate(model.graph.node)
    operators = tuple(_operator(index, node, refused.get(index), off_dla.get(index)) for index, node in nodes)
    return Coverage(target=target, source=source, source_version=version, operators=operators)


def refused_nodes(coverage: Coverage) -> list[OperatorCoverage]:
    """Return the operators TensorRT refuses. What only DLA lacks is not among them: the GPU runs it."""
    return [
        each
        for each in coverage.operators
        if each.placed is Placed.UNSUPPORTED and not (each.reason or "").startswith(_ON_GPU)
    ]


_ON_GPU = "on the GPU, not on DLA: "


def _operator(index: int, node: onnx.NodeProto, refused: str | None, off_dla: str | None) -> OperatorCoverage:
    reason = refused or (None if off_dla is None else f"{_ON_GPU}{off_dla}")
    return OperatorCoverage(
        index=index,
        name=(node.name or next((name for name in node.output if name), ""))[:512],
        type=(f"{node.domain}:{node.op_type}" if node.domain else node.op_type)[:128],
        placed=Placed.ACCELERATOR if reason is None else Placed.UNSUPPORTED,
        reason=None if reason is None else clip_reason(reason),
        rewrite=trt_qdq.REWRITE if refused is not None and trt_qdq.is_quantisation(node) else None,
    )


def _by_table(model: onnx.ModelProto) -> dict[int, str]:
    functions = frozenset((function.domain, function.name) for function in model.functions)
    found = ((index, trt_table.by_name(node, functions)) for index, node in enumerate(model.graph.node))
    return {index: why for index, why in found if why is not None}


def _untaken_inputs(graph: onnx.GraphProto) -> dict[int, str]:
    """Return the nodes that read an input of a type TensorRT has not."""
    wrong = {
        value.name: onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
        for value in graph.input
        if value.type.tensor_type.elem_type not in TAKEN_TYPES
    }
    return {
        index: f"reads input {name!r} of {wrong[name]}, a type TensorRT does not take"
        for index, node in enumerate(graph.node)
        for name in node.input
        if name in wrong
    }


def _spread_model_refusal(refused: Mapping[int, str], own: Mapping[int, str]) -> dict[int, str]:
    """Lay a refusal that names no node on the first node, unless our own rules have found what it is about."""
    left = {index: why for index, why in refused.items() if index != MODEL}
    if MODEL in refused and not own:
        left.setdefault(0, f"the model as a whole: {refused[MODEL]}")
    return left


def _off_dla(graph: onnx.GraphProto) -> dict[int, str]:
    facts = trt_dla.facts_of(graph)
    found = ((index, trt_dla.not_on_dla(node, facts)) for index, node in enumerate(graph.node))
    return {index: why for index, why in found if why is not None}
