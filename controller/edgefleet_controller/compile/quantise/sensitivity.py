"""How much noise each layer adds when it alone is quantised.

One model holds every layer twice, in float and rounded, behind a switch a layer: one session, one run a layer and
sample, instead of one quantised file a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefleet_controller.compile.graph.onnx_graph import put_nodes, replace_input
from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.quantise.mixed_search import Candidate
from edgefleet_controller.compile.quantise.qdq import WEIGHTED, is_transformer, layers
from edgefleet_controller.compile.quantise.ranges import Observed, Ranges

MAX_CANDIDATES = 96
_OTHERS = frozenset(
    {"Add", "Mul", "Sub", "Div", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "Softmax", "Tanh",
     "LayerNormalization", "InstanceNormalization", "BatchNormalization", "LeakyRelu", "HardSwish", "Resize"}
)  # fmt: skip
"""Operators without weights of their own whose inputs the quantiser rounds."""
_WORK_ELEMENTS = 3_000_000_000
"""Rounded elements over all runs: about a minute on one core."""
_MIN_SAMPLES_N, _MAX_SAMPLES_N = 2, 32
_SWITCH = "edgefleet_switch_"


def measure(
    model: onnx.ModelProto,
    ranges: Ranges,
    seen: Mapping[str, Observed],
    feeds: Sequence[Arrays],
    *,
    reduce_range: bool,
    symmetric: bool,
) -> list[Candidate]:
    """Return every layer with its noise, in graph order; the largest `MAX_CANDIDATES` by weight where there are more.

    Args:
        model: float32, shapes inferred, every node named.
        ranges: low and high of each float tensor.
        seen: what the tensors held, for their sizes.
        feeds: calibration feeds; as many are used as keep the work bounded.
        reduce_range: whether weights have 7 bits.
        symmetric: whether activations have no zero point.
    """
    chosen = _choose(model, ranges)
    switched = _switched(model, chosen, ranges, reduce_range=reduce_range, symmetric=symmetric)
    runner = session.Session(switched.SerializeToString())
    elements_n = max(1, sum(each.elements_n for each in seen.values()))
    samples_n = int(np.clip(_WORK_ELEMENTS // (elements_n * max(1, len(chosen))), _MIN_SAMPLES_N, _MAX_SAMPLES_N))
    noise = _noise(runner, [node.name for node in chosen], feeds[:samples_n])
    weights = layers(model)
    return [
        Candidate(
            node.name,
            node.op_type,
            weights.get(node.name, 0),
            4 * sum(seen[name].elements_n for name in _rounded(node, ranges) if name in seen),
            noise[node.name],
        )
        for node in chosen
    ]


def _choose(model: onnx.ModelProto, ranges: Ranges) -> list[onnx.NodeProto]:
    weights = layers(model)
    only_weights = is_transformer(model)
    nodes = [
        node
        for node in model.graph.node
        if _rounded(node, ranges) and (node.name in weights or (not only_weights and node.op_type in _OTHERS))
    ]
    largest = sorted(nodes, key=lambda node: -weights.get(node.name, 0))[:MAX_CANDIDATES]
    kept = {node.name for node in largest}
    return [node for node in nodes if node.name in kept]


def _rounded(node: onnx.NodeProto, ranges: Ranges) -> list[str]:
    """Return the inputs of a node that flow through the graph and would be rounded."""
    places = node.input[:1] if node.op_type in WEIGHTED and node.op_type != "MatMul" else node.input
    return [name for name in dict.fromkeys(places) if name in ranges]


def _switched(
    model: onnx.ModelProto, chosen: Sequence[onnx.NodeProto], ranges: Ranges, *, reduce_range: bool, symmetric: bool
) -> onnx.ModelProto:
    """Return the model with each chosen layer in float and rounded, and a boolean input that chooses."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    wanted = {node.name for node in chosen}
    rebuilt: list[onnx.NodeProto] = []
    rounded: set[str] = set()
    for index, node in enumerate(graph.node):
        if node.name in wanted:
            switch = f"{_SWITCH}{node.name}"
            graph.input.append(helper.make_tensor_value_info(switch, TensorProto.BOOL, []))
            for name in _rounded(node, ranges):
                if name not in rounded:
                    rebuilt += _round_activation(graph, name, ranges[name], symmetric=symmetric)
                    rounded.add(name)
                rebuilt.append(_where(switch, f"{name}_rounded", name, f"{name}_at_{index}"))
                replace_input(node, name, f"{name}_at_{index}")
            if node.op_type in WEIGHTED and node.input[1] in weights:
                name = node.input[1]
                graph.initializer.append(_round_weight(weights[name], node, f"{name}_at_{index}_rounded", reduce_range))
                rebuilt.append(_where(switch, f"{name}_at_{index}_rounded", name, f"{name}_at_{index}"))
                node.input[1] = f"{name}_at_{index}"
        rebuilt.append(node)
    put_nodes(graph, rebuilt)
    return copy


def _round_activation(
    graph: onnx.GraphProto, name: str, span: tuple[float, float], *, symmetric: bool
) -> list[onnx.NodeProto]:
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    scale = max(-low, high) / 127 if symmetric else (high - low) / 255
    zero = 0 if symmetric or scale <= 0 else int(np.clip(round(-low / scale), 0, 255))
    kind = np.int8 if symmetric else np.uint8
    graph.initializer.append(numpy_helper.from_array(np.asarray(scale or 1.0, np.float32), f"{name}_step"))
    graph.initializer.append(numpy_helper.from_array(np.asarray(zero, kind), f"{name}_zero"))
    constants = [f"{name}_step", f"{name}_zero"]
    return [
        helper.make_node("QuantizeLinear", [name, *constants], [f"{name}_levels"]),
        helper.make_node("DequantizeLinear", [f"{name}_levels", *constants], [f"{name}_rounded"]),
    ]


def _round_weight(tensor: onnx.TensorProto, node: onnx.NodeProto, name: str, reduce_range: bool) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    axis = _channel_axis(node, values.ndim)
    others = tuple(each for each in range(values.ndim) if each != axis)
    limit = 64 if reduce_range and not _is_depthwise(node, values) else 127
    step = np.maximum(np.abs(values).max(axis=others, keepdims=True), 1e-30) / limit
    return numpy_helper.from_array((np.clip(np.rint(values / step), -limit, limit) * step).astype(np.float32), name)


def _channel_axis(node: onnx.NodeProto, rank: int) -> int:
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return 0 if transposed else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, rank - 1)


def _is_depthwise(node: onnx.NodeProto, values: Array) -> bool:
    groups_n = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return node.op_type == "Conv" and groups_n > 1 and values.shape[:2] == (groups_n, 1)


def _where(switch: str, yes: str, no: str, out: str) -> onnx.NodeProto:
    return helper.make_node("Where", [switch, yes, no], [out])


def _noise(runner: session.Session, names: Sequence[str], feeds: Sequence[Arrays]) -> dict[str, float]:
    """Return each layer's noise power relative to the outputs' power, as the mean over outputs and samples."""
    off = {f"{_SWITCH}{name}": np.asarray(False) for name in names}
    total = dict.fromkeys(names, 0.0)
    for feed in feeds:
        reference = runner.run({**feed, **off})
        for name in names:
            got = runner.run({**feed, **off, f"{_SWITCH}{name}": np.asarray(True)})
            total[name] += relative_power(reference, got) / len(feeds)
    return total


def relative_power(reference: Sequence[Array], got: Sequence[Array]) -> float:
    """Return the noise power in outputs, relative to their own, as the mean over float outputs; 1e6: not finite."""
    shares = [
        float(np.sum((a.astype(np.float64) - b) ** 2)) / max(float(np.sum(a.astype(np.float64) ** 2)), 1e-30)
        for a, b in zip(reference, got, strict=True)
        if a.dtype.kind == "f"
    ]
    return float(np.nan_to_num(np.mean(shares), nan=1e6, posinf=1e6)) if shares else 0.0
