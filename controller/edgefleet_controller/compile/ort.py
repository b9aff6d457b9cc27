"""Target `ort/cpu`: ONNX files for ONNX Runtime's CPU kernels, in fp32, int8 (static QDQ) and int8-dynamic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx

from edgefleet_contract.artifact import TensorSpec
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.compile import calibrate, onnx_check
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest, OptionValue

Inputs = tuple[TensorSpec, ...]
Made = tuple[onnx.ModelProto, dict[str, OptionValue]]

DYNAMIC_OPERATORS = ("Attention", "LSTM", "MatMul")
"""Operators with dynamically quantised CPU kernels; Gemm becomes MatMul on the way. Conv is left out on purpose: its
ConvInteger is slower than fp32."""
_QUANTISED = frozenset(
    {"DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QAttention"}
)


def build(request: BuildRequest) -> BuildAnswer:
    """Write the model file of the requested variant.

    Raises:
        CompileFaultError: the model has nothing this precision applies to, or its quantisation fails.
    """
    model = onnx_check.load(Path(request.source))
    inputs, outputs = onnx_check.io_specs(model)
    made, options = _MAKERS[parse_variant(request.variant).precision](request, model, inputs)
    save_plain(made, Path(request.out))
    return BuildAnswer(inputs=inputs, outputs=outputs, options=options)


def _fp32(request: BuildRequest, model: onnx.ModelProto, inputs: Inputs) -> Made:  # noqa: ARG001 - one shape for all
    """Ship the checked source without its notes. What a runtime fuses depends on its machine: it does that itself."""
    return model, {}


def _int8(request: BuildRequest, model: onnx.ModelProto, inputs: Inputs) -> Made:  # noqa: ARG001 - one shape for all
    chosen = calibrate.quantize(request, inputs)
    return onnx.load(chosen.path), chosen.options


def _int8_dynamic(request: BuildRequest, model: onnx.ModelProto, inputs: Inputs) -> Made:  # noqa: ARG001 - one shape for all
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = Path(request.work_dir, "dynamic.onnx")
    with calibrate.quantisation_faults():
        quantize_dynamic(
            calibrate.prepare(Path(request.source), Path(request.work_dir)),
            out,
            op_types_to_quantize=list(DYNAMIC_OPERATORS),
            per_channel=True,
            reduce_range=True,  # for the reason given in `calibrate`
            weight_type=QuantType.QInt8,
        )
    made = onnx.load(out)
    quantised_n = sum(node.op_type in _QUANTISED for node in made.graph.node)
    if quantised_n == 0:
        raise CompileFaultError(
            "variant",
            f"int8-dynamic applies to {', '.join(DYNAMIC_OPERATORS)} and Gemm with constant weights; it has none",
            family="unsupported",
        )
    return made, {"weights": "int8 per channel, 7 bits", "quantised_nodes_n": quantised_n}


_MAKERS: Mapping[str, Callable[[BuildRequest, onnx.ModelProto, Inputs], Made]] = {
    "fp32": _fp32,
    "int8": _int8,
    "int8-dynamic": _int8_dynamic,
}


def save_plain(model: onnx.ModelProto, path: Path) -> None:
    """Write a model without notes and metadata, so that equal graphs are equal bytes wherever they were exported."""
    for graph in (model.graph, *onnx_check.inner_graphs(model.graph)):
        for item in (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info, graph):
            _strip(item)
    _strip(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _strip(item: onnx.ModelProto | onnx.GraphProto | onnx.NodeProto | onnx.TensorProto | onnx.ValueInfoProto) -> None:
    item.ClearField("doc_string")
    item.ClearField("metadata_props")
