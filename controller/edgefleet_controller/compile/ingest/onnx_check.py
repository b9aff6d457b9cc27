"""Check that a file is a model this version can carry, and read what it is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types

from edgefleet_contract.artifact import ClaimedPrecision, Dim, TensorSpec
from edgefleet_contract.coverage import CoverageSource
from edgefleet_controller.compile.fault import CompileFaultError, OperatorsFaultError, RefusedOperator, one_line
from edgefleet_controller.compile.graph import onnx_graph
from edgefleet_controller.compile.graph.onnx_graph import (
    STANDARD_DOMAINS,
    all_nodes,
    all_tensors,
    inner_graphs,
    opset_of,
)
from edgefleet_controller.compile.protocol import ModelRecord

MAX_SOURCE_BYTES = 2 * 1024**3 - 1
"""A protobuf message, and so an ONNX file without external data, ends here."""
MIN_OPSET = 7
"""ONNX Runtime promises to run models from opset 7 on (its compatibility document)."""
MAX_NODES = 200_000
_RUNTIME_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Domains whose operators ONNX Runtime brings along; whether it has the very operator, loading it shows."""
_DTYPES: dict[int, str] = {
    onnx.TensorProto.DOUBLE: "float64", onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16", onnx.TensorProto.INT64: "int64", onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT16: "int16", onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT64: "uint64",
    onnx.TensorProto.UINT32: "uint32", onnx.TensorProto.UINT16: "uint16", onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.BOOL: "bool",
}  # fmt: skip


def load(path: Path) -> onnx.ModelProto:
    """Return the model in a file, checked as far as its bytes and its graph go.

    Raises:
        CompileFaultError: no such file, empty, too large, truncated, not ONNX, an opset or operator that is not known,
            no nodes, or weights in other files.
    """
    model = _parse(_read(path))
    _check_opset(model)
    _check_names(model)
    _check_external_data(model)
    _check_operators(model)
    _find_shapes(model)
    _check_written_once(model.graph)
    try:
        onnx_graph.sort_nodes(model.graph)  # ONNX Runtime takes nodes in any order, and converters write them so
    except ValueError as error:
        raise _fault(str(error)) from error
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, UnicodeDecodeError) as error:
        raise _fault(f"is not a valid ONNX model: {one_line(error, 400)}") from error
    return model


def nodes_of(path: Path) -> tuple[onnx.NodeProto, ...]:
    """Return the nodes of a file's main graph as the file lists them, whether or not their operators are known.

    Raises:
        CompileFaultError: no such file, empty, too large, truncated, or not ONNX.
    """
    model = _parse(_read(path))
    _check_names(model)
    return tuple(model.graph.node)


def record(model: onnx.ModelProto, source: str) -> ModelRecord:
    """Return what a loaded model is. `source` is the digest of its file.

    Raises:
        CompileFaultError: an input or output is no plain tensor of numbers.
    """
    inputs, outputs = io_specs(model)
    nodes = list(all_nodes(model.graph))
    return ModelRecord(
        source=source,
        inputs=inputs,
        outputs=outputs,
        opset=opset_of(model),
        ir_version=model.ir_version,
        nodes_n=len(nodes),
        parameters_n=_parameters_n(model.graph),
        domains=tuple(sorted({node.domain for node in nodes} - STANDARD_DOMAINS)),
        rounds_to=rounds_to(model),
        batch_is_dynamic=all(bool(spec.shape) and isinstance(spec.shape[0], str) for spec in inputs),
        operators=dict(sorted(Counter(node.op_type for node in nodes).items())),
    )


_MULTIPLIERS = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization", "LSTM", "GRU", "RNN"}
)
_INTEGER_OPERATORS = ("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger")
_QUANTISED_OPERATORS = (*_INTEGER_OPERATORS, "MatMulNBits")


def quantised_nodes_n(model: onnx.ModelProto) -> int:
    """Return how many nodes of a model already compute on rounded activations or packed weights."""
    weights = {tensor.name for tensor in all_tensors(model.graph)}
    return sum(
        node.op_type.startswith(_QUANTISED_OPERATORS)
        or (node.op_type == "QuantizeLinear" and node.input[0] not in weights)
        for node in all_nodes(model.graph)
    )


def rounds_to(model: onnx.ModelProto) -> ClaimedPrecision | None:
    """Return what a model rounds its activations to itself, or None: weights that are only stored so round nothing."""
    tensors = {tensor.name: tensor for tensor in all_tensors(model.graph)}
    nodes = list(all_nodes(model.graph))
    steps = [node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] not in tensors]
    if any(node.op_type.startswith(_INTEGER_OPERATORS) for node in nodes):
        return "int8"
    if not steps:
        return "fp16" if _computes_in_half(model) else None
    zeros = [tensors.get(node.input[2]) if len(node.input) > 2 else None for node in steps]
    wide = {onnx.TensorProto.INT16, onnx.TensorProto.UINT16}
    return "int16x8" if all(zero is not None and zero.data_type in wide for zero in zeros) else "int8"


def _computes_in_half(model: onnx.ModelProto) -> bool:
    """Return whether activations of a model are float16 anywhere: given back, cast to, or read by more than a cast."""
    half = onnx.TensorProto.FLOAT16
    given = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == half}
    if any(value.type.tensor_type.elem_type == half for value in model.graph.output):
        return True
    return any(
        any(each.name == "to" and each.i == half for each in node.attribute)
        if node.op_type == "Cast"
        else not given.isdisjoint(node.input)
        for node in all_nodes(model.graph)
    )


def io_specs(model: onnx.ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs (those that are no initializers, as IR 3 lists them) and outputs of a model.

    Raises:
        CompileFaultError: one is a sequence, a map, text, or of a type this version cannot carry.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_spec(value, "input") for value in model.graph.input if value.name not in weights)
    outputs = tuple(_spec(value, "output") for value in model.graph.output)
    if not inputs or not outputs:
        raise _fault(f"has {len(inputs)} inputs and {len(outputs)} outputs; it needs at least one of each")
    return inputs, outputs


def _read(path: Path) -> bytes:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_SOURCE_BYTES:
            raise _fault(f"has {size_bytes} bytes; allowed: {MAX_SOURCE_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise _fault(f"cannot be read: {error.strerror or error}") from error
    if not data:
        raise _fault("is empty")
    return data


def _parse(data: bytes) -> onnx.ModelProto:
    what = "is not an ONNX model"
    if data.startswith(b"PK"):
        raise _fault(f"{what} but a zip archive", "unpack it and name the .onnx file inside")
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, UnicodeDecodeError, ValueError) as error:
        raise _fault(f"{what}, or is truncated ({len(data)} bytes do not parse)") from error
    if not model.ir_version or not model.opset_import or not model.HasField("graph"):
        raise _fault(f"{what}: it names no format version, operator set or graph")
    if not model.graph.node:
        raise _fault("holds a graph without any node: there is nothing to run")
    return model


def _check_opset(model: onnx.ModelProto) -> None:
    opset, newest = opset_of(model), onnx.defs.onnx_opset_version()
    if opset == 0:
        raise _fault("names no version of ONNX's own operator set")
    if not MIN_OPSET <= opset <= newest:
        raise _fault(
            f"uses opset {opset}; this controller's onnx knows {MIN_OPSET} to {newest}",
            f"export it with an opset from {MIN_OPSET} to {newest}",
        )
    if not 3 <= model.ir_version <= onnx.IR_VERSION:
        raise _fault(
            f"has IR version {model.ir_version}; this controller's onnx knows 3 to {onnx.IR_VERSION}",
            "export it again with a current exporter",
        )


def _check_names(model: onnx.ModelProto) -> None:
    """Refuse names that are no text: protobuf hands damaged ones over as bytes, and each library stumbles elsewhere."""
    graph = model.graph
    named = (*graph.input, *graph.output, *graph.initializer)
    wrong = next((each.name for each in named if not isinstance(each.name, str)), None)
    for node in all_nodes(graph):
        texts = (node.name, node.op_type, node.domain, *node.input, *node.output)
        wrong = wrong or next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise _fault(f"holds a name that is no text ({wrong!r}): the file is damaged")


def _check_written_once(graph: onnx.GraphProto) -> None:
    """Refuse a node that writes what is there already, as exporters do for a model that gives its input back."""
    taken = {value.name for value in graph.input}
    for node in graph.node:
        again = next((name for name in node.output if name and name in taken), None)
        if again is not None:
            raise _fault(
                f"has node {node.name or node.op_type!r} ({node.op_type}) write {again!r}, which the graph has already",
                "give the model's outputs other names than its inputs, then export it again",
            )
        taken |= {name for name in node.output if name}


def _check_external_data(model: onnx.ModelProto) -> None:
    for tensor in all_tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            where = next((entry.value for entry in tensor.external_data if entry.key == "location"), "?")
            raise _fault(
                f"keeps weight {tensor.name!r} in another file ({where!r}), which is not read here",
                "save it as one file: onnx.save(onnx.load(path), path_of_one_file)",
            )


def _find_shapes(model: onnx.ModelProto) -> None:
    """Give outputs that are declared without a shape the one inference finds: ONNX asks for it, exporters forget it."""
    for value in model.graph.input:
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            raise _fault(
                f"declares input {value.name!r} without a shape, so nothing tells what fits it",
                "export it with at least the number of axes; each size may be a name",
            )
    bare = [
        v for v in model.graph.output if v.type.HasField("tensor_type") and not v.type.tensor_type.HasField("shape")
    ]
    if not bare:
        return
    try:
        inferred = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.output}
    except (onnx.shape_inference.InferenceError, ValueError):
        return
    for value in bare:
        value.CopyFrom(inferred[value.name])


def _check_operators(model: onnx.ModelProto) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    opset = opset_of(model)
    unknown: list[RefusedOperator] = []
    for count, node in enumerate(all_nodes(model.graph)):
        if count >= MAX_NODES:
            raise _fault(f"has more than {MAX_NODES} nodes")
        if (node.domain, node.op_type) in own:
            continue
        if node.domain not in _RUNTIME_DOMAINS:
            unknown.append(_unknown_operator(node, f"custom domain {node.domain!r}"))
        elif node.domain in STANDARD_DOMAINS and not onnx.defs.has(node.op_type, max_inclusive_version=opset):
            unknown.append(_unknown_operator(node, f"unknown in opset {opset}"))
    if unknown:
        first = unknown[0]
        raise OperatorsFaultError(
            "source",
            f"has node {first.name!r} with operator {first.type!r}: {first.why}",
            tuple(unknown),
            (CoverageSource.STATIC_TABLE, f"onnx {onnx.__version__}"),
            next_step="export the model with standard ONNX operators only",
        )


def _unknown_operator(node: onnx.NodeProto, why: str) -> RefusedOperator:
    return RefusedOperator(
        node.op_type, node.name or (node.output[0] if node.output else "?"), f"ONNX Runtime does not have it ({why})"
    )


def check_weights(model: onnx.ModelProto) -> None:
    """Refuse weights that hold NaN, or infinity where they are multiplied.

    An infinity elsewhere is a mask: exporters write attention masks so.

    Raises:
        CompileFaultError: with the tensor and the node that reads it.
    """
    readers: dict[str, onnx.NodeProto] = {}
    for node in all_nodes(model.graph):
        for name in node.input:
            readers.setdefault(name, node)
    for tensor, name in _named_tensors(model.graph):
        values = _floats(tensor)
        if values is None:
            continue
        reader = readers.get(name)
        multiplied = reader is not None and reader.op_type in _MULTIPLIERS
        bad_n = int(np.isnan(values).sum() + (np.isinf(values).sum() if multiplied else 0))
        if bad_n:
            where = f" of node {reader.name or reader.output[0]!r} ({reader.op_type})" if reader is not None else ""
            raise _fault(
                f"holds NaN or infinity in {bad_n} of {values.size} values of weight {name!r}{where}",
                "train or export it again; such a model answers nothing",
            )


def _floats(tensor: onnx.TensorProto) -> np.ndarray[Any, Any] | None:
    if tensor.data_type not in {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}:
        return None
    return np.asarray(onnx.numpy_helper.to_array(tensor))


def _named_tensors(graph: onnx.GraphProto) -> Iterator[tuple[onnx.TensorProto, str]]:
    """Yield every weight with the name nodes read it by."""
    for each in (graph, *inner_graphs(graph)):
        yield from ((tensor, tensor.name) for tensor in each.initializer)
        for node in each.node:
            if node.op_type == "Constant" and node.output:
                yield from ((a.t, node.output[0]) for a in node.attribute if a.HasField("t"))


def _parameters_n(graph: onnx.GraphProto) -> int:
    return sum(math.prod(tensor.dims) for tensor in all_tensors(graph))


def _spec(value: onnx.ValueInfoProto, side: str) -> TensorSpec:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise _fault(f"has {side} {value.name!r} of type {kind or 'unknown'}; only plain tensors are supported")
    tensor = value.type.tensor_type
    if tensor.elem_type not in _DTYPES:
        name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        raise _fault(f"has {side} {value.name!r} of {name} elements; supported: {', '.join(_DTYPES.values())}")
    dims = tuple(_dim(dim, index) for index, dim in enumerate(tensor.shape.dim))
    return TensorSpec(name=value.name, dtype=_DTYPES[tensor.elem_type], shape=dims)


def _dim(dim: onnx.TensorShapeProto.Dimension, index: int) -> Dim:
    # Some exporters write -1 for an unknown size; an unnamed one gets a name by its place.
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return str(dim.dim_param)[:128] or f"dim{index}"


def _fault(message: str, next_step: str | None = None) -> CompileFaultError:
    return CompileFaultError("source", message, next_step=next_step)
