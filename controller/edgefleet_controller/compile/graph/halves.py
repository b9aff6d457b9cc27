"""Sources in float16, for targets and quantisers that know float32 alone: a copy with every half widened.

A float32 holds every float16, so weights keep their values, and what the copy computes is nearer to the mathematics
than the source. TFLite files then take and give float32, as their contract says; ONNX files keep the source's types
at their edges, behind casts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefleet_contract.variant import parse_variant
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.graph import onnx_graph
from edgefleet_controller.compile.ingest import onnx_check, preprocess
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest

NAME = "float16-widened"
_PRECISIONS = frozenset({"fp32", "int8", "int8-dynamic", "int4"})
"""Of ONNX Runtime: those whose float tensors are float32."""
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "stash_type", "output_datatype", "output_dtype"})
"""Attributes of operators that name a type."""


def widened(request: BuildRequest) -> BuildRequest:
    """Return the request for a float32 copy of a float16 source; the same request where nothing is to widen.

    A source that is quantised already stays as it is: what it holds in float16 are scales.
    """
    variant = parse_variant(request.variant)
    wanted = variant.runtime == "tflite" or (variant.runtime == "ort" and variant.precision in _PRECISIONS)
    if not wanted or Path(request.source).suffix != ".onnx":
        return request
    model = onnx.load(request.source)
    given = _half_inputs(model)
    if not widen(model) or onnx_check.quantised_nodes_n(model):
        return request
    work = Path(request.work_dir)
    onnx.save(model, work / "widened.onnx")
    changed = {"source": str(work / "widened.onnx")}
    for key in ("samples", "calibration"):
        arrays = npz.read(Path(getattr(request, key)))
        wide = {name: each.astype(np.float32) if name in given else each for name, each in arrays.items()}
        npz.write(work / f"widened-{key}.npz", wide)
        changed[key] = str(work / f"widened-{key}.npz")
    return request.model_copy(update=changed)


def told(answer: BuildAnswer, request: BuildRequest) -> BuildAnswer:
    """Return the answer to a build of the widened source, saying so; an ONNX file gets the source's edges again.

    Args:
        answer: to the build of `widened(request)`, whose file lies at `request.out`.
        request: as it was for the source.
    """
    said: dict[str, object] = {"rewrites": (NAME, *answer.rewrites)}
    if parse_variant(request.variant).runtime == "ort":
        from edgefleet_controller.compile.ort import probe as ort_probe
        from edgefleet_controller.compile.ort import target as ort

        source, made = onnx.load(request.source), onnx.load(request.out)
        narrow_edges(made, source)
        ort.save_plain(made, Path(request.out))
        said["inputs"], said["outputs"] = onnx_check.io_specs(made)
        if answer.notes:  # the time of the source itself, not of its copy
            specs = onnx_check.io_specs(source)[0]
            feed = preprocess.feed(npz.read(Path(request.samples)), specs, request.preprocess, 0)
            said["notes"] = ort_probe.speed(Path(request.source), Path(request.out), feed)
    return answer.model_copy(update=said)


def widen(model: onnx.ModelProto) -> bool:
    """Make every float16 of a graph, weights and types alike, float32; tell whether there was any."""
    found_n = 0
    for tensor in onnx_graph.all_tensors(model.graph):
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
            found_n += 1
    for graph in (model.graph, *onnx_graph.inner_graphs(model.graph)):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
                found_n += 1
    for node in onnx_graph.all_nodes(model.graph):
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
                found_n += 1
    return found_n > 0


def narrow_edges(made: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """Give a widened graph, changed in place, the source's float16 inputs and outputs, each behind a cast."""
    graph = made.graph
    inputs = _half_inputs(source)
    halves = {value.name for value in source.graph.output if _is_half(value)}
    outputs = halves - inputs
    taken = {name for node in onnx_graph.all_nodes(graph) for name in (*node.input, *node.output)}
    wide = {name: _fresh(f"{name}_float32", taken) for name in sorted(inputs | outputs)}
    onnx_graph.rename(graph, wide)
    back = {other: name for name, other in wide.items()}
    for value in (*graph.input, *graph.output):
        if value.name in back:
            value.name = back[value.name]
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    before = [_cast(name, wide[name], TensorProto.FLOAT) for name in sorted(inputs)]
    after = [_cast(wide[name], name, TensorProto.FLOAT16) for name in sorted(outputs)]
    onnx_graph.put_nodes(graph, [*before, *graph.node, *after])


def _half_inputs(model: onnx.ModelProto) -> set[str]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return {value.name for value in model.graph.input if _is_half(value) and value.name not in weights}


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _is_half(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT16)


def _cast(read: str, written: str, dtype: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [read], [written], name=f"{written}_cast", to=dtype)
