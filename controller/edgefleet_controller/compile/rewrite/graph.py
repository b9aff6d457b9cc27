"""Building the nodes that replace another: names, constants, shapes and attributes of the graph around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgefleet_controller.compile.graph.onnx_graph import opset_of, put_nodes
from edgefleet_controller.compile.npz import Array

Attribute: TypeAlias = Any
"""A value of an ONNX attribute: number, text, tensor or list."""


class Builder:
    """A graph in the making: nodes of a source are kept or replaced, in order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._source = model
        self.opset = opset_of(model)
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._count_n = 0
        self._constants = {each.name: each for each in model.graph.initializer}
        self._constants |= {
            node.output[0]: node.attribute[0].t
            for node in model.graph.node
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value"
        }
        values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
        self._types = {value.name: value.type.tensor_type for value in values}
        self.refusals: list[str] = []
        """Why rules left nodes as they are, where a user can do something about it."""

    def keep(self, node: onnx.NodeProto) -> None:
        """Leave a node as it is."""
        self._nodes.append(node)

    def refuse(self, node: onnx.NodeProto, why: str) -> None:
        """Note why a node is left as it is."""
        self.refusals.append(f"{node.op_type} {node.name or node.output[0]!r} is not rewritten: {why}")

    def add(self, kind: str, inputs: Sequence[str], outputs: Sequence[str] | int = 1, **attributes: Attribute) -> str:
        """Add a node; return the name of its first output.

        Args:
            kind: its operator.
            inputs: names; empty for one left out.
            outputs: names, or how many to make up.
            attributes: as ONNX names them.
        """
        names = [self.fresh(kind) for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        self._nodes.append(helper.make_node(kind, list(inputs), names, name=self.fresh(kind), **attributes))
        return names[0]

    def constant(self, values: Array | Sequence[int] | float, dtype: str | None = None) -> str:
        """Add a constant; lists are int64. Returns its name."""
        array = np.asarray(values, dtype=dtype or (np.int64 if isinstance(values, list | tuple) else None))
        name = self.fresh("constant")
        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def tensor(self, tensor: onnx.TensorProto) -> str:
        """Add a constant under a new name. Returns the name."""
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        copy.name = self.fresh("constant")
        self._initializers.append(copy)
        return copy.name

    def value(self, name: str) -> Array | None:
        """Return the values of a constant, or None where it is computed."""
        tensor = self._constants.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return a tensor's shape where every size is known, else None."""
        if name in self._constants:
            return tuple(self._constants[name].dims)
        kind = self._types.get(name)
        if kind is None or not kind.HasField("shape"):
            return None
        if not all(dim.HasField("dim_value") for dim in kind.shape.dim):
            return None
        return tuple(int(dim.dim_value) for dim in kind.shape.dim)

    def dtype(self, name: str) -> str | None:
        """Return a tensor's numpy dtype, or None where it is not known."""
        if name in self._constants:
            number = self._constants[name].data_type
        else:
            number = self._types[name].elem_type if name in self._types else 0
        return np.dtype(helper.tensor_dtype_to_np_dtype(number)).name if number else None

    def fresh(self, kind: str) -> str:
        """Return a name nothing has."""
        self._count_n += 1
        return f"edgefleet_{kind}_{self._count_n}"

    def finish(self) -> onnx.ModelProto:
        """Return the new model."""
        made = onnx.ModelProto()
        made.CopyFrom(self._source)
        put_nodes(made.graph, self._nodes)
        made.graph.initializer.extend(self._initializers)
        return made


def attribute(node: onnx.NodeProto, name: str, default: Attribute = None) -> Attribute:
    """Return an attribute's value, texts decoded, or the default."""
    found = next((each for each in node.attribute if each.name == name), None)
    if found is None:
        return default
    value = helper.get_attribute_value(found)
    return value.decode() if isinstance(value, bytes) else value


def given(node: onnx.NodeProto, place: int) -> str | None:
    """Return the name of an input, or None where it was left out."""
    return node.input[place] if place < len(node.input) and node.input[place] else None


def named(name: str, places_n: int) -> str:
    """Return how a rewrite is written in an artifact's record."""
    return name if places_n == 1 else f"{name} x{places_n}"
