"""What passes over ONNX graphs share: their nodes and tensors, inner graphs included, and how nodes are replaced."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgefleet_controller.compile.npz import Array

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
"""How the domain of ONNX's own operators is written."""

_CONSTANTS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
_IR_OF_CONSTANTS = 4
"""Weights need not be inputs since this IR version."""


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators a model uses; 0 where it names none."""
    return max((int(entry.version) for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), default=0)


def inner_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs inside a graph's nodes (branches and loop bodies), at any depth."""
    pending = [graph]
    while pending:
        for node in pending.pop().node:
            for attribute in node.attribute:
                inner = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
                pending += inner
                yield from inner


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of a graph, inner graphs included."""
    for each in (graph, *inner_graphs(graph)):
        yield from each.node


def all_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every weight: initializers and tensors in attributes, in inner graphs too."""
    for each in (graph, *inner_graphs(graph)):
        yield from own_tensors(each)


def own_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the weights of a graph itself, inner graphs left out."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.HasField("t") else attribute.tensors


def none_found(model: onnx.ModelProto) -> str:
    """Return, for a refusal, that a model has no such weights; what lies inside control flow is named apart.

    A branch or body may also read weights of the graph around it.
    """
    inner_n = _float_weights_inside(model.graph)
    if not inner_n:
        return "it has none"
    return f"its main graph has none, and the {inner_n} float32 tensors its If, Loop or Scan read inside stay float32"


def _float_weights_inside(graph: onnx.GraphProto) -> int:
    inner = list(inner_graphs(graph))
    read = {name for each in inner for node in each.node for name in node.input}
    tensors = [tensor for each in inner for tensor in own_tensors(each)]
    tensors += [tensor for tensor in graph.initializer if tensor.name in read]
    return sum(tensor.data_type == onnx.TensorProto.FLOAT for tensor in tensors)


def reads_of(node: onnx.NodeProto) -> set[str]:
    """Return every name a node reads, those its inner graphs read included."""
    reads = set(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            reads |= names_read(graph)
    return reads


def names_read(graph: onnx.GraphProto) -> set[str]:
    """Return every name that nodes of a graph read, those inside branches and bodies included."""
    return {name for node in all_nodes(graph) for name in node.input}


def definitions(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield every name a graph itself defines: inputs, weights, and what its nodes make."""
    yield from (value.name for value in graph.input)
    yield from (each.name for each in graph.initializer)
    yield from (name for node in graph.node for name in node.output if name)


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors of a graph wherever it, or a graph inside it that defines no such name itself, speaks of them.

    Args:
        graph: changed in place.
        names: old name → new name.
    """
    for named in (*graph.input, *graph.initializer, *graph.output, *graph.value_info):
        named.name = names.get(named.name, named.name)
    for node in graph.node:
        for places in (node.input, node.output):
            for place, name in enumerate(places):
                places[place] = names.get(name, name)
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                own = set(definitions(inner))
                rename(inner, {old: new for old, new in names.items() if old not in own})


def put_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Make these the nodes of a graph; they may be nodes it has now."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def sort_nodes(graph: onnx.GraphProto) -> bool:
    """Put nodes in an order in which each follows what it reads, changing as little as can be; tell if that took any.

    Raises:
        ValueError: nodes that wait for each other.
    """
    maker = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    readers: dict[int, list[int]] = {}
    waits_n = []
    for place, node in enumerate(graph.node):
        makers = {maker[name] for name in reads_of(node) if name in maker}
        waits_n.append(len(makers))
        for other in makers:
            readers.setdefault(other, []).append(place)
    ready = [place for place, count_n in enumerate(waits_n) if not count_n]
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for place in readers.get(order[-1], ()):
            waits_n[place] -= 1
            if not waits_n[place]:
                heapq.heappush(ready, place)
    if len(order) < len(waits_n):
        stuck = graph.node[next(place for place, count_n in enumerate(waits_n) if count_n)]
        raise ValueError(f"has nodes that wait for each other, among them {stuck.name or stuck.op_type}")
    moved = order != sorted(order)
    if moved:
        put_nodes(graph, [graph.node[place] for place in order])
    return moved


def replace_input(node: onnx.NodeProto, old: str, new: str) -> None:
    """Let a node read another tensor wherever it reads `old`."""
    for place, name in enumerate(node.input):
        if name == old:
            node.input[place] = new


def with_constants(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """Return a copy in which these inputs are constants of their values."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kept = [value for value in made.graph.input if value.name not in values]
    del made.graph.input[:]
    made.graph.input.extend(kept)
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in values.items())
    return made


def with_plain_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with Constant nodes of scalars and lists as initializers: converters know tensors only."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kept = []
    for node in made.graph.node:
        kind = node.attribute[0].name if node.op_type == "Constant" and node.attribute else ""
        if kind in _CONSTANTS:
            value = np.asarray(helper.get_attribute_value(node.attribute[0]), dtype=_CONSTANTS[kind])
            made.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        else:
            kept.append(node)
    if len(kept) == len(model.graph.node):
        return model
    put_nodes(made.graph, kept)
    made.ir_version = max(made.ir_version, _IR_OF_CONSTANTS)
    return made


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with inferred shapes, as far as they can be inferred."""
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return model
