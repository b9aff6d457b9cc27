"""SmoothQuant: move outlier channels of activations into the weights behind them (Xiao et al., 2023, equation 4).

For a product `x @ w` with channels j, `x_j / s_j` and `w_j * s_j` give the same result with
`s_j = max|x_j| ** strength / max|w_j| ** (1 - strength)`. The division is folded into the layer norm in front where
only smoothed products read it, else it is one Mul.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefleet_controller.compile.graph.onnx_graph import put_nodes
from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.ort import session

STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Strengths of migration that are tried; the paper uses 0.5 and, for models with many outliers, 0.75."""
_LEAST = 1e-5


@dataclass(frozen=True)
class Smoothed:
    """A smoothed model and how many products were smoothed, and divisions folded."""

    model: onnx.ModelProto
    products_n: int
    folded_n: int


def products(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Return the activations that enter products with constant weights: tensor → names of the products."""
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type not in {"MatMul", "Gemm"} or node.input[1] not in weights or node.input[0] in weights:
            continue
        if not any(attribute.name == "transA" and attribute.i for attribute in node.attribute):
            found.setdefault(node.input[0], []).append(node.name)
    return found


def channel_absmax(model: onnx.ModelProto, feeds: Sequence[Arrays]) -> dict[str, Array]:
    """Return the largest absolute value of each channel (last axis) of every tensor that enters a product."""
    wanted = list(products(model))
    given = {value.name for value in model.graph.input}
    augmented = onnx.ModelProto()
    augmented.CopyFrom(model)
    already = {value.name for value in model.graph.output}
    augmented.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in wanted
        if name not in given and name not in already
    )
    runner = session.Session(augmented.SerializeToString())
    largest: dict[str, Array] = {}
    for feed in feeds:
        found = dict(zip(runner.output_names, runner.run(feed), strict=True))
        for name in wanted:
            array = np.asarray(feed[name] if name in given else found[name])
            channels = np.abs(array.reshape(-1, array.shape[-1])).max(axis=0, initial=0.0)
            largest[name] = np.maximum(largest.get(name, channels), channels)
    return largest


def smooth(model: onnx.ModelProto, absmax: Mapping[str, Array], strength: float) -> Smoothed:
    """Return the model smoothed; its outputs are the same up to rounding.

    Args:
        model: float32, every node named; it is not changed.
        absmax: largest absolute value of each channel, by tensor.
        strength: 0 leaves all of the difficulty in activations, 1 moves all of it into weights.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    edit = _Edit(copy)
    folded_n = products_n = 0
    for tensor, names in products(model).items():
        nodes = [edit.nodes[name] for name in names]
        scale = _scale(absmax[tensor], [edit.rows(node) for node in nodes], strength)
        if scale is None:
            continue
        for node in nodes:
            edit.multiply_rows(node, scale)
        products_n += len(nodes)
        if edit.fold(tensor, names, scale):
            folded_n += 1
        else:
            edit.insert_mul(tensor, nodes, scale)
    edit.finish()
    return Smoothed(copy, products_n, folded_n)


def _scale(absmax: Array, rows: Sequence[Array], strength: float) -> Array | None:
    """Return s of each channel, or None where sizes do not fit."""
    if any(len(each) != len(absmax) for each in rows):
        return None
    weight_max = np.max([np.abs(each).max(axis=1) for each in rows], axis=0)
    scale = np.maximum(absmax, _LEAST) ** strength / np.maximum(weight_max, _LEAST) ** (1 - strength)
    usable = (absmax > 0) & (weight_max > 0)
    return np.where(usable, np.maximum(scale, _LEAST), 1.0).astype(np.float32)


class _Edit:
    """Changes to one graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self.nodes = {node.name: node for node in model.graph.node}
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._types = {value.name: value for value in model.graph.value_info}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[str]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node.name)
        self._results = {value.name for value in model.graph.output}
        self._inserted: list[tuple[onnx.NodeProto, str]] = []

    def rows(self, node: onnx.NodeProto) -> Array:
        """Return a product's weight with input channels first."""
        values: Array = numpy_helper.to_array(self._weights[node.input[1]])
        return values.T if is_transposed(node) else values

    def multiply_rows(self, node: onnx.NodeProto, scale: Array) -> None:
        """Multiply a product's weight by one factor an input channel; other readers keep theirs."""
        made = self.rows(node) * scale[:, None]
        made = made.T if is_transposed(node) else made
        self._set(node, 1, np.ascontiguousarray(made))

    def fold(self, tensor: str, readers: Sequence[str], scale: Array) -> bool:
        """Divide the layer norm that makes a tensor, where only `readers` read it; return whether that was possible."""
        maker = self._makers.get(tensor)
        if maker is None or tensor in self._results or set(self._readers[tensor]) != set(readers):
            return False
        if maker.op_type == "LayerNormalization":
            places = [place for place in (1, 2) if place < len(maker.input) and maker.input[place]]
            return self._divide([(maker, place) for place in places], scale)
        if maker.op_type == "Mul":
            return self._divide([(maker, place) for place in self._constants(maker)], scale)
        if maker.op_type != "Add" or len(self._constants(maker)) != 1:
            return False
        place = self._constants(maker)[0]
        inner_name = maker.input[1 - place]
        inner = self._makers.get(inner_name)
        if inner is None or inner.op_type != "Mul" or len(self._readers[inner_name]) != 1:
            return False
        factors = [(inner, each) for each in self._constants(inner)]
        return len(factors) == 1 and self._divide([(maker, place), *factors], scale)

    def insert_mul(self, tensor: str, nodes: Sequence[onnx.NodeProto], scale: Array) -> None:
        """Multiply a tensor by 1/s for these readers only."""
        smoothed, factor = f"{tensor}_smoothed", f"{tensor}_smoothing"
        self._graph.initializer.append(numpy_helper.from_array((1 / scale).astype(np.float32), factor))
        made = helper.make_node("Mul", [tensor, factor], [smoothed], name=f"{nodes[0].name}_smoothing")
        self._inserted.append((made, nodes[0].name))
        for node in nodes:
            node.input[0] = smoothed
        if tensor in self._types:
            value = self._graph.value_info.add()
            value.CopyFrom(self._types[tensor])
            value.name = smoothed

    def finish(self) -> None:
        """Put new nodes in front of their first readers."""
        before = {reader: made for made, reader in self._inserted}
        ordered: list[onnx.NodeProto] = []
        for node in self._graph.node:
            if node.name in before:
                ordered.append(before[node.name])
            ordered.append(node)
        put_nodes(self._graph, ordered)

    def _constants(self, node: onnx.NodeProto) -> list[int]:
        return [place for place, name in enumerate(node.input) if name in self._weights]

    def _divide(self, places: Sequence[tuple[onnx.NodeProto, int]], scale: Array) -> bool:
        found = [self._weights.get(node.input[place]) for node, place in places]
        fits = bool(places) and all(
            tensor is not None and (tuple(tensor.dims)[-1:] == (len(scale),) or np.prod(tensor.dims) == 1)
            for tensor in found
        )
        if not fits:
            return False
        for node, place in places:
            self._set(node, place, numpy_helper.to_array(self._weights[node.input[place]]) / scale)
        return True

    def _set(self, node: onnx.NodeProto, place: int, values: Array) -> None:
        old = node.input[place]
        tensor = numpy_helper.from_array(values.astype(np.float32), old)
        if len(self._readers.get(old, [])) == 1:
            self._weights[old].CopyFrom(tensor)
            return
        tensor.name = f"{old}_of_{node.name}"
        self._graph.initializer.append(tensor)
        self._weights[tensor.name] = self._graph.initializer[-1]
        self._readers[tensor.name] = [node.name]
        node.input[place] = tensor.name


def is_transposed(node: onnx.NodeProto) -> bool:
    """Return whether a Gemm has its weight with output channels first."""
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
