"""Two ONNX graphs side by side: which tensors of a candidate mean what of the reference, and parts cut out of them.

Needs the `onnx` package, which devices do not have.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from edgefleet_contract.errors import UserInputError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    from edgefleet_agent.runtimes.base import Array

log = logging.getLogger(__name__)

_DEQUANTISED = ("_DequantizeLinear_Output", "_dequantized", "_DequantizeLinear")
"""What quantisers append to a tensor's name for its dequantised copy."""
_CLAMPS = frozenset({"Relu", "Clip"})
"""Quantisers drop these where the range of the quantised tensor does the same, and give their name to what is left
before it: only the dequantised copy is then what the reference's tensor is."""
_OWN = "#candidate"
PART_OUTPUT = "part_output"
"""What a part that was cut out calls its only output, in reference and candidate alike."""
_MAX_NODES = 20_000


@dataclass(frozen=True)
class Graph:
    """One model's main graph, indexed by tensor."""

    model: ModelProto

    @cached_property
    def nodes(self) -> tuple[NodeProto, ...]:
        """Return the operators in the file's order, which ONNX says is one of computation; constants aside."""
        return tuple(node for node in self.model.graph.node if node.op_type != "Constant")

    @cached_property
    def producers(self) -> Mapping[str, NodeProto]:
        """Return the operator that computes each tensor; constants are none."""
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def constants(self) -> frozenset[str]:
        """Return tensors whose value is in the file, or computed from such alone."""
        known = {tensor.name for tensor in self.model.graph.initializer}
        known |= {name for node in self.model.graph.node if node.op_type == "Constant" for name in node.output}
        for node in self.nodes:
            if all(name in known for name in reads(node) if name) and any(node.input):
                known |= set(node.output)
        return frozenset(known)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Return the inputs a caller feeds."""
        held = {tensor.name for tensor in self.model.graph.initializer}
        return tuple(value.name for value in self.model.graph.input if value.name not in held)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Return the outputs a caller gets."""
        return tuple(value.name for value in self.model.graph.output)

    @cached_property
    def types(self) -> Mapping[str, int]:
        """Return ONNX element types by tensor, as far as they can be inferred."""
        import onnx

        graph = self.model.graph
        try:
            graph = onnx.shape_inference.infer_shapes(self.model).graph
        except Exception:  # inference is a help; what it cannot tell, the run-time values do
            log.info("shapes could not be inferred", exc_info=True)
        infos = (*graph.value_info, *graph.input, *graph.output)
        return {info.name: info.type.tensor_type.elem_type for info in infos if info.type.tensor_type.elem_type}

    def sole_reader(self, tensor: str) -> NodeProto | None:
        """Return the operator that alone reads a tensor."""
        readers = [node for node in self.nodes if tensor in reads(node)]
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None


def load_graph(path: str) -> Graph:
    """Read a model file.

    Raises:
        UserInputError: it is no ONNX file, or larger than 20,000 operators.
    """
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf raises its own kinds
        msg = f"{path}: bisecting needs ONNX files, and this is none: {type(error).__name__}"
        raise UserInputError(msg) from error
    if len(model.graph.node) > _MAX_NODES:
        msg = f"{path}: {len(model.graph.node)} operators; at most {_MAX_NODES} can be bisected"
        raise UserInputError(msg)
    return Graph(model)


def reads(node: NodeProto) -> tuple[str, ...]:
    """Return the tensors an operator reads, those its subgraphs take from outside included."""
    inner = [name for attribute in node.attribute if attribute.HasField("g") for name in _outer_reads(attribute.g)]
    return (*node.input, *inner)


def _outer_reads(graph: GraphProto) -> Iterator[str]:
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        yield from (name for name in reads(node) if name and name not in own)


def align(reference: Graph, candidate: Graph) -> dict[str, str]:
    """Return candidate tensor → reference tensor, for every computed tensor both files name."""
    pairs: dict[str, str] = {}
    for name in candidate.producers:
        twin = _twin(name, reference, candidate)
        if twin is not None and name not in candidate.constants and twin not in reference.constants:
            pairs[name] = twin
    return pairs


def _twin(name: str, reference: Graph, candidate: Graph) -> str | None:
    if name in reference.producers:
        clamped = reference.producers[name].op_type in _CLAMPS
        return None if clamped and candidate.producers[name].op_type not in _CLAMPS else name
    base = next((name.removesuffix(suffix) for suffix in _DEQUANTISED if name.endswith(suffix)), None)
    if base is None or (base not in reference.producers and base not in reference.inputs):
        return None
    reader = reference.sole_reader(base)
    if reader is not None and reader.op_type in _CLAMPS and reader.output[0] not in candidate.producers:
        return str(reader.output[0])
    return base


def exposing(graph: Graph, tensors: Iterable[str]) -> ModelProto:
    """Return a copy of a model that also gives these tensors."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    given = set(graph.outputs)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors) if name not in given)
    return model


def islands(candidate: Graph, pairs: Mapping[str, str], values: Mapping[str, Array]) -> ModelProto:
    """Return the candidate with every tensor of `pairs` fed from outside, and computed beside under a name of its own.

    So each operator between two known tensors works on the reference's values, and one run shows all of them.

    Args:
        candidate: the candidate.
        pairs: candidate tensor → reference tensor.
        values: one sample of each reference tensor, for its type and shape.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(candidate.model)
    graph = model.graph
    del graph.output[:]
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name in pairs:
                node.output[place] = name + _OWN
                graph.output.append(onnx.ValueInfoProto(name=name + _OWN))
    graph.input.extend(
        onnx.helper.make_tensor_value_info(name, element_type(name, candidate, values[twin]), None)
        for name, twin in pairs.items()
    )
    del graph.value_info[:]
    return model


def computed(name: str) -> str:
    """Return under what name `islands` computes a tensor."""
    return name + _OWN


def element_type(name: str, candidate: Graph, value: Array) -> int:
    """Return the ONNX type a tensor of the candidate has."""
    import onnx

    return candidate.types.get(name) or int(onnx.helper.np_dtype_to_tensor_dtype(value.dtype))


def island_nodes(graph: Graph, output: str, known: Iterable[str]) -> tuple[list[NodeProto], list[str]]:
    """Return (operators, inputs) of the part that computes `output` from known tensors, constants left out."""
    stops = set(known) - {output}
    wanted, inputs, seen = [output], [], set()
    needed: set[int] = set()
    while wanted:
        name = wanted.pop()
        node = graph.producers.get(name)
        if name in seen or not name:
            continue
        seen.add(name)
        if name in stops or name in graph.inputs:
            inputs.append(name)
        elif node is not None:
            needed.add(id(node))
            wanted.extend(reads(node))
    return [node for node in graph.nodes if id(node) in needed], inputs


def extract(
    graph: Graph, output: str, known: Iterable[str], values: Mapping[str, Array], renamed: Mapping[str, str]
) -> ModelProto:
    """Return the part that computes `output` as a model of its own that gives `part_output`.

    Inputs have a free first axis where it was 1.

    Args:
        graph: the model to cut from.
        output: the tensor the part gives.
        known: tensors at which the part may begin.
        values: one sample of each input, for its shape and type.
        renamed: input → the name it is to have, where that is another.
    """
    import onnx

    nodes, inputs = island_nodes(graph, output, known)
    part = onnx.ModelProto()
    part.CopyFrom(graph.model)
    used = {name for node in nodes for name in reads(node)}
    constants = [node for node in graph.model.graph.node if node.op_type == "Constant" and set(node.output) & used]
    held = [tensor for tensor in graph.model.graph.initializer if tensor.name in used]
    renames = [
        onnx.helper.make_node("Identity", [renamed.get(name, name)], [name]) for name in inputs if name in renamed
    ]
    body = onnx.helper.make_graph(
        [*constants, *renames, *nodes, onnx.helper.make_node("Identity", [output], [PART_OUTPUT])],
        "part",
        [
            onnx.helper.make_tensor_value_info(
                renamed.get(name, name), element_type(name, graph, values[name]), _free_first(values[name])
            )
            for name in inputs
        ],
        [onnx.ValueInfoProto(name=PART_OUTPUT)],
        held,
    )
    part.graph.CopyFrom(body)
    return part


def _free_first(value: Array) -> list[int | str]:
    return ["batch" if place == 0 and size == 1 else size for place, size in enumerate(value.shape)]
