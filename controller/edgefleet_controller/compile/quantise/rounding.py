"""Round weights so that a layer's outputs keep their values, not its weights (GPTQ; Frantar et al., 2023).

The nearest level of each weight is the best choice only where inputs are independent. Here input channels are rounded
one after the other, and what rounding one of them did to the outputs is taken back by those that follow, as far as the
channels go together on calibration samples. The result is float32 on the very grid a quantiser finds for the original
weights, so any quantiser with a symmetric scale a channel reproduces it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.quantise import smooth

DAMPING = 0.01
"""Of the mean second moment, added to each channel's: the value of the paper, for channels that hardly vary."""
MAX_WORK = 400_000_000_000
"""Multiplications for all layers of a model, half a minute on one core; the layers beyond it are rounded to the
nearest level."""
_BLOCK = 128
"""Input channels whose corrections are kept until the block is done, so that most of the work is matrix products."""


def second_moments(model: onnx.ModelProto, feeds: Sequence[Arrays]) -> dict[str, Array]:
    """Return `x^T x` summed over all rows of all samples, f64[channels, channels], for every tensor entering a product.

    Args:
        model: float32, every node named.
        feeds: calibration feeds, one sample each.
    """
    wanted = list(smooth.products(model))
    given = {value.name for value in model.graph.input}
    already = {value.name for value in model.graph.output}
    augmented = onnx.ModelProto()
    augmented.CopyFrom(model)
    augmented.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted if name not in given | already
    )
    runner = session.Session(augmented.SerializeToString())
    moments: dict[str, Array] = {}
    for feed in feeds:
        found = {**feed, **dict(zip(runner.output_names, runner.run(feed), strict=True))}
        for name in wanted:
            rows = found[name].reshape(-1, found[name].shape[-1]).astype(np.float64)
            moments[name] = moments.get(name, 0.0) + rows.T @ rows
    return moments


@dataclass(frozen=True)
class Fitted:
    """A model with weights on their grid, and those weights as they were, by name."""

    model: onnx.ModelProto
    exact: dict[str, onnx.TensorProto]


def fitted(model: onnx.ModelProto, moments: Mapping[str, Array], limit: int) -> Fitted:
    """Return the model with the weights of its products on the grid of their output channels.

    Args:
        model: float32, every node named; it is not changed.
        moments: second moments of the products' inputs, as `second_moments` gives them.
        limit: largest level of the grid: 127 for 8 bits, 64 for 7.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    nodes = {node.name: node for node in copy.graph.node}
    uses_n = Counter(name for node in copy.graph.node for name in node.input)
    exact: dict[str, onnx.TensorProto] = {}
    work = 0
    for tensor, name in ((tensor, name) for tensor, names in smooth.products(copy).items() for name in names):
        node, held = nodes[name], weights[nodes[name].input[1]]
        values: Array = numpy_helper.to_array(held)
        rows = values.T if smooth.is_transposed(node) else values
        work += len(rows) ** 2 * (len(rows) + rows.shape[1])
        if uses_n[held.name] > 1 or len(rows) != len(moments[tensor]) or work > MAX_WORK:
            continue
        made = round_rows(rows, moments[tensor], limit)
        made = made.T if smooth.is_transposed(node) else made
        exact[held.name] = onnx.TensorProto.FromString(held.SerializeToString())
        held.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(made), held.name))
    return Fitted(copy, exact)


def restored(model: onnx.ModelProto, exact: Mapping[str, onnx.TensorProto], nodes: Collection[str]) -> onnx.ModelProto:
    """Return the model in which these nodes have their exact weights again: layers in float need no grid."""
    names = {name for node in model.graph.node if node.name in nodes for name in node.input} & exact.keys()
    if not names:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(exact[tensor.name])
    return copy


def round_rows(weight: Array, moments: Array, limit: int) -> Array:
    """Return a weight on the grid of its output channels, rounded so that `x @ weight` changes least.

    The largest weight of each output channel keeps its value: it decides the grid.

    Args:
        weight: f32[inputs, outputs].
        moments: f64[inputs, inputs], second moments of the inputs.
        limit: largest level.
    """
    rows_n = len(weight)
    step = np.maximum(np.abs(weight).max(axis=0), 1e-30).astype(np.float64) / limit
    diagonal = np.diag(moments).copy()
    order = np.argsort(-diagonal, kind="stable")
    damped = moments[np.ix_(order, order)] + np.eye(rows_n) * max(DAMPING * float(diagonal.mean()), 1e-12)
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = weight[order].astype(np.float64)
    keeps = np.abs(weight[order]).argmax(axis=0)
    done = np.empty_like(left)
    for start in range(0, rows_n, _BLOCK):
        stop = min(rows_n, start + _BLOCK)
        errors = np.empty((stop - start, left.shape[1]))
        for row in range(start, stop):
            rounded = np.clip(np.rint(left[row] / step), -limit, limit) * step
            done[row] = np.where(keeps == row, weight[order[row]], rounded)
            errors[row - start] = (left[row] - done[row]) / factor[row, row]
            left[row + 1 : stop] -= np.outer(factor[row, row + 1 : stop], errors[row - start])
        left[stop:] -= factor[start:stop, stop:].T @ errors
    made = np.empty_like(weight)
    made[order] = done.astype(np.float32)
    return made
