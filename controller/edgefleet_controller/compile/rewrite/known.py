"""What is known of a graph whose input shapes are fixed: tensors that follow from constants and inferred shapes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgefleet_controller.compile.graph.onnx_graph import definitions, reads_of
from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.rewrite.graph import Builder, attribute

MAX_NODES_N = 256
"""Nodes a value may follow through: shapes and conditions take dozens."""
MAX_ELEMENTS = 4_096
"""Size of a constant that takes part: shapes and axes are small."""


class Known:
    """The values a graph holds whatever its inputs are.

    Args:
        model: shapes inferred as far as they can be.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._builder = Builder(model)
        self._makers = {name: node for node in model.graph.node for name in node.output if name}

    def value(self, name: str) -> Array | None:
        """Return a tensor's value, or None where it depends on what an input holds, or on too much."""
        found: dict[str, Array] = {}
        nodes: dict[str, onnx.NodeProto] = {}
        waiting = [name]
        while waiting:
            wanted = waiting.pop()
            if not wanted or wanted in found or wanted in nodes:
                continue
            value = self._given(wanted)
            if value is not None:
                found[wanted] = value
            elif wanted not in self._makers or len(nodes) >= MAX_NODES_N:
                return None
            else:
                maker = self._makers[wanted]
                nodes[wanted] = maker
                waiting += sorted(reads_of(maker) - set(_made_inside(maker)))
        return found[name] if name in found else self._computed(name, nodes, found)

    def _given(self, name: str) -> Array | None:
        """Return the value of a small constant, or of the shape or size of a tensor whose shape is inferred."""
        maker = self._makers.get(name)
        if maker is None or maker.op_type not in {"Shape", "Size"}:
            constant = self._builder.value(name)
            return constant if constant is not None and constant.size <= MAX_ELEMENTS else None
        shape = self._builder.shape(maker.input[0])
        if shape is None:
            return None
        if maker.op_type == "Size":
            return np.asarray(np.prod(shape, dtype=np.int64))
        return np.asarray(shape[attribute(maker, "start", 0) : attribute(maker, "end")], dtype=np.int64)

    def _computed(self, name: str, nodes: dict[str, onnx.NodeProto], found: dict[str, Array]) -> Array | None:
        needed = {id(node) for node in nodes.values()}
        graph = helper.make_graph(
            [node for node in self._model.graph.node if id(node) in needed],
            "part",
            [],
            [onnx.ValueInfoProto(name=name)],
            [numpy_helper.from_array(value, each) for each, value in found.items()],
        )
        part = helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        try:
            return session.Session(part.SerializeToString()).run({})[0]
        except session.RUNTIME_ERRORS:  # a branch that is never taken may be impossible
            return None


def _made_inside(node: onnx.NodeProto) -> Iterator[str]:
    for each in node.attribute:
        for graph in [each.g] if each.HasField("g") else each.graphs:
            yield from definitions(graph)
            for inner in graph.node:
                yield from _made_inside(inner)
