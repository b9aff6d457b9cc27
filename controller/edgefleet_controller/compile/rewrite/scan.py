"""Scan over a fixed number of steps, unrolled: the body is repeated with names of its own."""

from __future__ import annotations

import numpy as np
import onnx

from edgefleet_controller.compile.rewrite.graph import Builder, attribute

MAX_STEPS_N = 256
MAX_NODES_N = 20_000


def unrolled(node: onnx.NodeProto, builder: Builder) -> bool:
    """Scan along first axes, forwards, without graphs inside its body."""
    body = attribute(node, "body")
    scanned_n = attribute(node, "num_scan_inputs")
    states_n = len(node.input) - scanned_n
    shape = builder.shape(node.input[states_n])
    odd = any(
        any(attribute(node, name) or ())
        for name in ("scan_input_axes", "scan_input_directions", "scan_output_axes", "scan_output_directions")
    )
    inner = any(each.HasField("g") for part in body.node for each in part.attribute)
    if shape is None or odd or inner or builder.opset < 9 or not shape or not 0 < shape[0] <= MAX_STEPS_N:
        return False
    if shape[0] * len(body.node) > MAX_NODES_N:
        return False
    states = list(node.input[:states_n])
    rows: list[list[str]] = [[] for _ in body.output[states_n:]]
    constants = {each.name: builder.tensor(each) for each in body.initializer}
    for step in range(shape[0]):
        place = builder.constant(np.asarray(step, dtype=np.int64))
        scanned = [builder.add("Gather", [name, place], axis=0) for name in node.input[states_n:]]
        names = {**constants, **dict(zip((value.name for value in body.input), [*states, *scanned], strict=True))}
        _repeat(body, builder, names)
        made = [names.get(value.name, value.name) for value in body.output]
        states = made[:states_n]
        for row, name in zip(rows, made[states_n:], strict=True):
            row.append(_as_row(builder, name))
    for name, output in zip(states, node.output, strict=False):
        if output:
            builder.add("Identity", [name], [output])
    for row, output in zip(rows, node.output[states_n:], strict=True):
        if output:
            builder.add("Concat", row, [output], axis=0)
    return True


def _as_row(builder: Builder, name: str) -> str:
    if builder.opset < 13:
        return builder.add("Unsqueeze", [name], axes=[0])
    return builder.add("Unsqueeze", [name, builder.constant([0])])


def _repeat(body: onnx.GraphProto, builder: Builder, names: dict[str, str]) -> None:
    """Add the body's nodes once; `names` leads from its names to those of this step, and learns its outputs."""
    for part in body.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(part)
        for place, name in enumerate(copy.input):
            copy.input[place] = names.get(name, name)
        for place, name in enumerate(copy.output):
            if name:
                names[name] = copy.output[place] = builder.fresh("scan")
        copy.name = builder.fresh("scan")
        builder.keep(copy)
