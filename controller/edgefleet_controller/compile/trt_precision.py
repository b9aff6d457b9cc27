"""A model's types as TensorRT reads them: precision is said in the ONNX (fp16 casts, QDQ) and nowhere else."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgefleet_contract.artifact import TensorSpec
from edgefleet_controller.compile import calibrate, session
from edgefleet_controller.compile.calibrate_qdq import WEIGHTED
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.protocol import BuildRequest, OptionValue

logger = logging.getLogger(__name__)

Made = tuple[onnx.ModelProto, dict[str, OptionValue]]
Inputs = tuple[TensorSpec, ...]

FP16_MAX = 65504.0
_CONVERTER_ERRORS: tuple[type[Exception], ...] = (
    *session.RUNTIME_ERRORS, onnx.checker.ValidationError, TypeError, KeyError, IndexError, AttributeError,
    OverflowError,
)  # fmt: skip


def make(request: BuildRequest, model: onnx.ModelProto, inputs: Inputs, precision: str) -> Made:
    """Return the model in a precision, and how it was made.

    Args:
        request: what is built; its calibration samples are read for int8.
        model: the checked source; it may be changed.
        inputs: the source's inputs.
        precision: fp32, fp16 or int8.

    Raises:
        CompileFaultError: the model cannot be converted, or its calibration tells nothing.
    """
    maker: Callable[[], Made] = {
        "fp32": lambda: (model, {}),
        "fp16": lambda: to_fp16(model),
        "int8": lambda: _to_int8(request, inputs),
    }[precision]
    return maker()


def to_fp16(model: onnx.ModelProto) -> Made:
    """Return the model computing in float16 between inputs and outputs of the source's own types.

    Nodes with a weight beyond float16's range, and operators the converter knows to overflow, stay in float32.

    Raises:
        CompileFaultError: the converter fails on this model.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    kept = _beyond_fp16(model)
    try:
        made = convert_float_to_float16(model, keep_io_types=True, node_block_list=kept)
        sort_nodes(made.graph)
        onnx.checker.check_model(made)
    except _CONVERTER_ERRORS as error:
        logger.exception("conversion to float16 failed")
        reason = f"ONNX Runtime's float16 converter cannot handle it: {type(error).__name__}: {session.short(error)}"
        raise CompileFaultError("variant", reason) from error
    casts_n = sum(node.op_type == "Cast" for node in made.graph.node)
    return made, {"fp16_casts_n": casts_n, "fp32_nodes_for_range_n": len(kept)}


def _to_int8(request: BuildRequest, inputs: Inputs) -> Made:
    chosen = calibrate.quantize(request, inputs, calibrate.QdqLayout.TENSORRT)
    made = onnx.load(Path(chosen.path))
    _float_operands(made.graph)
    pairs_n = sum(node.op_type == "QuantizeLinear" for node in made.graph.node)
    if pairs_n == 0:
        raise CompileFaultError(
            "variant", "int8 applies to Conv, Gemm and MatMul with constant weights; it has none", family="unsupported"
        )
    return made, {**chosen.options, "quantised_tensors_n": pairs_n}


def _float_operands(graph: onnx.GraphProto) -> None:
    """Store constants that are no weights of a product as float: TensorRT's builder takes no quantised summand."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    weights = {node.input[1] for node in graph.node if node.op_type in WEIGHTED and len(node.input) > 1}
    kept = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants and node.output[0] not in weights:
            graph.initializer.append(_dequantised(node, constants))
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _dequantised(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> onnx.TensorProto:
    values, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if scale.ndim == 1 and values.ndim > 1:
        scale = scale.reshape([-1 if place == axis % values.ndim else 1 for place in range(values.ndim)])
    return numpy_helper.from_array((values.astype(np.float32) * scale).astype(np.float32), node.output[0])


def _beyond_fp16(model: onnx.ModelProto) -> list[str]:
    """Return the nodes of the main graph that read a weight float16 cannot hold; they need names to be kept."""
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    beyond = {tensor.name for tensor in model.graph.initializer if _is_beyond(tensor)}
    return [node.name for node in model.graph.node if beyond.intersection(node.input)]


def _is_beyond(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != TensorProto.FLOAT:
        return False
    values = np.abs(numpy_helper.to_array(tensor))
    return bool(np.any(values[np.isfinite(values)] > FP16_MAX))


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Order nodes so that each stands after what it reads, keeping their order otherwise.

    The float16 converter appends its casts at the end, which ONNX forbids and strict readers refuse.
    """
    nodes = list(graph.node)
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waits = [{maker[name] for name in reads(node) if name in maker} - {index} for index, node in enumerate(nodes)]
    readers: list[list[int]] = [[] for _ in nodes]
    for index, needed in enumerate(waits):
        for each in needed:
            readers[each].append(index)
    ready = [index for index, needed in enumerate(waits) if not needed]
    heapq.heapify(ready)
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(nodes[index])
        for reader in readers[index]:
            waits[reader].discard(index)
            if not waits[reader]:
                heapq.heappush(ready, reader)
    del graph.node[:]
    graph.node.extend(order)


def reads(node: onnx.NodeProto) -> set[str]:
    """Return every tensor a node reads, those its branches and bodies take from outside included."""
    read = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
            for inner in graph.node:
                read |= reads(inner)
    return read
