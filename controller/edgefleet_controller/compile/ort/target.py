"""Target `ort`: ONNX files for ONNX Runtime, one module a precision, one row a provider in `ort_engines`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import onnx

from edgefleet_contract.artifact import TensorSpec
from edgefleet_contract.variant import Variant, parse_variant
from edgefleet_controller.compile import npz, registry
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph import normalise, onnx_graph
from edgefleet_controller.compile.graph.passed_on import PassedOn, set_aside
from edgefleet_controller.compile.ingest import onnx_check, preprocess
from edgefleet_controller.compile.ort import fp16, int4
from edgefleet_controller.compile.ort import gather as ort_gather
from edgefleet_controller.compile.ort import int8 as ort_int8
from edgefleet_controller.compile.ort import probe as ort_probe
from edgefleet_controller.compile.ort.engines import PROVIDERS, fix_shapes, provider_of, provider_options
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest, OptionValue
from edgefleet_controller.compile.quantise import calibrate

Inputs = tuple[TensorSpec, ...]
Options = dict[str, OptionValue]
Made = tuple[onnx.ModelProto, Options]

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
    variant = parse_variant(request.variant)
    source = onnx_check.load(Path(request.source))
    inputs, outputs = onnx_check.io_specs(source)
    if variant.precision != "fp32" and (quantised_n := onnx_check.quantised_nodes_n(source)):
        raise CompileFaultError(
            "variant",
            f"the source is quantised already ({quantised_n} nodes round or hold packed weights)",
            next_step=f"build {_as_it_is(variant)}, which ships it as it is, or give the float model",
            family="unsupported",
        )
    passed = PassedOn()
    if variant.precision != "fp32":
        request, passed = set_aside(request)
    made, options = _MAKERS[variant.precision](request, source, inputs)
    passed.put_back(made)
    rewrites = _rewrites(source, variant.precision)
    if variant.precision == "fp32":
        made, rewrites = normalise.normalise(made, request, inputs)
    if PROVIDERS[variant.engine].fixed_shapes:
        options |= fix_shapes(made, _first_feed(request, inputs))
        inputs, outputs = onnx_check.io_specs(made)
    options |= provider_of(variant.engine)
    save_plain(made, Path(request.out))
    notes: Options = {}
    if variant.engine == "cpu" and variant.precision != "fp32":
        options |= ort_probe.fused(Path(request.out), variant.precision)
        notes = ort_probe.speed(Path(request.source), Path(request.out), _first_feed(request, inputs))
    return BuildAnswer(
        inputs=inputs,
        outputs=outputs,
        options=options,
        provider_options=provider_options(variant.engine, variant.precision, request.options),
        rewrites=rewrites,
        notes=notes,
    )


def _as_it_is(variant: Variant) -> str:
    """Return the variant that ships a source unchanged: fp32 of the same engine, or of the CPU where that has none."""
    plain = variant._replace(precision="fp32")
    return str(plain if registry.buildable(plain) is None else plain._replace(engine="cpu"))


def _rewrites(source: onnx.ModelProto, precision: str) -> tuple[str, ...]:
    """Return what preparing a source for a precision changes in it."""
    opset = onnx_graph.opset_of(source)
    raised = (f"opset {opset} to {calibrate.MIN_OPSET}",) if opset < calibrate.MIN_OPSET else ()
    if precision == "fp16":
        return raised
    return (*raised, *calibrate.products_written_out(source)[1], "onnxruntime basic optimisation")


def _first_feed(request: BuildRequest, inputs: Inputs) -> npz.Arrays:
    return next(preprocess.batches(npz.read(Path(request.samples)), inputs, request.preprocess))


def _fp32(request: BuildRequest, model: onnx.ModelProto, inputs: Inputs) -> Made:  # noqa: ARG001 - one shape for all
    """Ship the checked source without its notes. What a runtime fuses depends on its machine: it does that itself."""
    return model, {}


def _fp16(request: BuildRequest, model: onnx.ModelProto, inputs: Inputs) -> Made:  # noqa: ARG001 - one shape for all
    return fp16.build(request, inputs)


def _bf16(request: BuildRequest, model: onnx.ModelProto, inputs: Inputs) -> NoReturn:  # noqa: ARG001 - one shape for all
    raise ort_probe.no_bfloat16(model)


def _int4(request: BuildRequest, model: onnx.ModelProto, inputs: Inputs) -> Made:  # noqa: ARG001 - one shape for all
    return int4.build(request, inputs)


def _int8(request: BuildRequest, model: onnx.ModelProto, inputs: Inputs) -> Made:  # noqa: ARG001 - one shape for all
    layout = PROVIDERS[parse_variant(request.variant).engine].layout
    chosen = ort_int8.quantize(request, inputs, layout)
    made = onnx.load(chosen.path)
    return made, chosen.options | _tables(made)


def _tables(made: onnx.ModelProto) -> Options:
    tables_n = ort_gather.quantize_tables(made)
    return {"int8_tables_n": tables_n} if tables_n else {}


def _int8_dynamic(request: BuildRequest, model: onnx.ModelProto, inputs: Inputs) -> Made:  # noqa: ARG001 - one shape for all
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = Path(request.work_dir, "dynamic.onnx")
    with calibrate.quantisation_faults():
        prepared = calibrate.prepare(Path(request.source), Path(request.work_dir))
        quantize_dynamic(
            prepared,
            out,
            nodes_to_exclude=_standard_attention(onnx.load(prepared)),
            op_types_to_quantize=list(DYNAMIC_OPERATORS),
            per_channel=True,
            reduce_range=True,  # for the reason given in `calibrate`
            weight_type=QuantType.QInt8,
            extra_options={"EnableSubgraph": True},
        )
    made = onnx.load(out)
    quantised_n = sum(node.op_type in _QUANTISED for node in onnx_graph.all_nodes(made.graph))
    if quantised_n == 0:
        raise CompileFaultError(
            "variant",
            f"int8-dynamic applies to {', '.join(DYNAMIC_OPERATORS)} and Gemm with constant weights; it has none",
            family="unsupported",
        )
    return made, {"weights": "int8 per channel, 7 bits", "quantised_nodes_n": quantised_n, **_tables(made)}


def _standard_attention(model: onnx.ModelProto) -> list[str]:
    """Return the nodes of ONNX's own Attention: the quantiser takes them for ONNX Runtime's, whose inputs differ."""
    return [
        node.name
        for node in onnx_graph.all_nodes(model.graph)
        if node.op_type == "Attention" and node.domain in onnx_graph.STANDARD_DOMAINS
    ]


_MAKERS: Mapping[str, Callable[[BuildRequest, onnx.ModelProto, Inputs], Made]] = {
    "fp32": _fp32,
    "fp16": _fp16,
    "bf16": _bf16,
    "int8": _int8,
    "int8-dynamic": _int8_dynamic,
    "int4": _int4,
}


def save_plain(model: onnx.ModelProto, path: Path) -> None:
    """Write a model without notes and metadata, so that equal graphs are equal bytes wherever they were exported."""
    for graph in (model.graph, *onnx_graph.inner_graphs(model.graph)):
        for item in (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info, graph):
            _strip(item)
    _strip(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _strip(item: onnx.ModelProto | onnx.GraphProto | onnx.NodeProto | onnx.TensorProto | onnx.ValueInfoProto) -> None:
    item.ClearField("doc_string")
    item.ClearField("metadata_props")
