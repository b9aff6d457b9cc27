"""A model's types as TensorRT reads them: precision is said in the ONNX (fp16 casts, QDQ) and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from edgefleet_contract.artifact import TensorSpec
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph.onnx_graph import none_found, put_nodes
from edgefleet_controller.compile.ort import fp16
from edgefleet_controller.compile.protocol import BuildRequest, OptionValue
from edgefleet_controller.compile.quantise import calibrate
from edgefleet_controller.compile.quantise.qdq import WEIGHTED

Made = tuple[onnx.ModelProto, dict[str, OptionValue]]
Inputs = tuple[TensorSpec, ...]


def make(request: BuildRequest, model: onnx.ModelProto, inputs: Inputs, precision: str) -> Made:
    """Return the model in a precision, and how it was made. Inputs and outputs keep the source's types.

    Args:
        request: what is built; its calibration samples are read for fp16 (what would overflow) and int8.
        model: the model in the request's source; it may be changed.
        inputs: its inputs.
        precision: fp32, fp16 or int8.

    Raises:
        CompileFaultError: the model cannot be converted, or its calibration tells nothing.
    """
    maker: Callable[[], Made] = {
        "fp32": lambda: (model, {}),
        "fp16": lambda: fp16.build(request, inputs),
        "int8": lambda: _to_int8(request, inputs),
    }[precision]
    return maker()


def _to_int8(request: BuildRequest, inputs: Inputs) -> Made:
    chosen = calibrate.quantize(request, inputs, calibrate.QdqLayout.TENSORRT)
    made = onnx.load(chosen.path)
    _float_operands(made.graph)
    pairs_n = sum(node.op_type == "QuantizeLinear" for node in made.graph.node)
    if pairs_n == 0:
        reason = f"int8 applies to Conv, Gemm and MatMul with constant weights; {none_found(made)}"
        raise CompileFaultError("variant", reason, family="unsupported")
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
    put_nodes(graph, kept)


def _dequantised(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> onnx.TensorProto:
    values, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if scale.ndim == 1 and values.ndim > 1:
        scale = scale.reshape([-1 if place == axis % values.ndim else 1 for place in range(values.ndim)])
    return numpy_helper.from_array((values.astype(np.float32) * scale).astype(np.float32), node.output[0])
