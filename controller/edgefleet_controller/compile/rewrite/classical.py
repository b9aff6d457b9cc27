"""Operators of ONNX's machine learning domain that are one operator of its own domain."""

from __future__ import annotations

import math

import numpy as np
import onnx

from edgefleet_controller.compile.rewrite.graph import Builder, attribute


def binarizer(node: onnx.NodeProto, builder: Builder) -> bool:
    """Binarizer: 1 above the threshold."""
    if builder.dtype(node.input[0]) != "float32":
        return False
    threshold = np.asarray(attribute(node, "threshold", 0.0), dtype=np.float32)
    above = builder.add("Greater", [node.input[0], builder.constant(threshold)])
    builder.add("Cast", [above], node.output, to=onnx.TensorProto.FLOAT)
    return True


def feature_extractor(node: onnx.NodeProto, builder: Builder) -> bool:
    """ArrayFeatureExtractor: some columns of the last axis."""
    shape, made = builder.shape(node.input[0]), builder.shape(node.output[0])
    places = builder.shape(node.input[1])
    if shape is None or places is None or len(shape) < 2:
        return False
    columns_n = math.prod(places)
    columns = builder.add("Reshape", [node.input[1], builder.constant([columns_n])])
    picked = builder.add("Gather", [node.input[0], columns], axis=len(shape) - 1)
    whole = list(made) if made is not None else [*shape[:-1], columns_n]
    builder.add("Reshape", [picked, builder.constant(whole)], node.output)
    return True
