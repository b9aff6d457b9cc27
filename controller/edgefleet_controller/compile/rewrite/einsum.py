"""Einsum with a constant matrix as the product it is, for quantisers that know MatMul alone."""

from __future__ import annotations

import math

import numpy as np
import onnx

from edgefleet_controller.compile.rewrite.graph import Builder, attribute


def constant_product(node: onnx.NodeProto, builder: Builder) -> bool:
    """Einsum of a tensor and constant float32 weights that contracts axes: MatMul between a Transpose and a Reshape.

    Left as it is: an index repeated in a term, in all three terms, or summed over in one alone; an ellipsis.
    """
    equation = attribute(node, "equation", "").replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    if len(node.input) != 2 or len(terms) != 2 or "->" not in equation or "." in equation:
        return False
    wanted = equation.partition("->")[2]
    values = [builder.value(name) for name in node.input]
    place = next((place for place in (1, 0) if values[place] is not None), None)
    if place is None or any(len(set(each)) != len(each) for each in (*terms, wanted)):
        return False
    weights, fixed, moving = values[place], terms[place], terms[1 - place]
    if weights is None or weights.dtype != np.float32 or weights.ndim != len(fixed):
        return False
    summed = [index for index in moving if index in fixed]
    rows, columns = [[index for index in term if index not in summed] for term in (moving, fixed)]
    if not summed or set(wanted) != {*rows, *columns} or len(wanted) != len(rows) + len(columns):
        return False
    sizes = dict(zip(fixed, weights.shape, strict=True))
    matrix = weights.transpose([fixed.index(index) for index in (*summed, *columns)])
    matrix = matrix.reshape(math.prod(sizes[index] for index in summed), -1)
    name = _transposed(builder, node.input[1 - place], moving, [*rows, *summed])
    if len(summed) > 1:
        name = builder.add("Reshape", [name, builder.constant([0] * len(rows) + [len(matrix)])])
    name = builder.add("MatMul", [name, builder.constant(np.ascontiguousarray(matrix))])
    if len(columns) != 1:
        shape = [0] * len(rows) + [sizes[index] for index in columns]
        name = builder.add("Reshape", [name, builder.constant(shape)])
    last = _transposed(builder, name, [*rows, *columns], list(wanted))
    builder.add("Identity", [last], node.output)
    return True


def _transposed(builder: Builder, name: str, given: str | list[str], wanted: list[str]) -> str:
    order = [given.index(index) for index in wanted]
    return name if order == sorted(order) else builder.add("Transpose", [name], perm=order)
