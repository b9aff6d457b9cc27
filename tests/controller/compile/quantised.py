"""Models and requests for tests of quantisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefleet_controller.compile import npz
from edgefleet_controller.compile.ort.session import Session
from edgefleet_controller.compile.protocol import BuildRequest

Model = onnx.ModelProto


def tensor(name: str, values: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), name)


def model_of(
    nodes: list[Any], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], weights: list[Any]
) -> Model:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def wide_range(spread: float = 3000.0) -> Model:
    """Return a classifier `image` f32[n, 8, 8, 8] → `logits` f32[n, 6] whose channels reach depthwise in unlike ranges.

    A quarter of the channels is `spread` times as large as the others until the depthwise convolution divides them
    again: one scale for the whole tensor rounds the others to nothing.
    """
    generator = np.random.default_rng(5)
    gains = np.where(np.arange(32) % 4 == 0, spread, 1.0)
    expand = generator.normal(size=(32, 8, 1, 1)) * 0.3 * gains[:, None, None, None]
    depthwise = generator.normal(size=(32, 1, 3, 3)) * 0.3 / gains[:, None, None, None]
    nodes = [
        helper.make_node("Conv", ["image", "expand"], ["wide"], name="expand"),
        helper.make_node("Relu", ["wide"], ["cut"], name="cut"),
        helper.make_node("Conv", ["cut", "depthwise"], ["even"], name="depthwise", group=32, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["even"], ["even_cut"], name="even_cut"),
        helper.make_node("Conv", ["even_cut", "body"], ["deep"], name="body", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["deep"], ["deep_cut"], name="deep_cut"),
        helper.make_node("Flatten", ["deep_cut"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "head", "bias"], ["logits"], name="head"),
    ]
    weights = [
        tensor("expand", expand),
        tensor("depthwise", depthwise),
        tensor("body", generator.normal(size=(32, 32, 3, 3)) * 0.1),
        tensor("head", generator.normal(size=(512, 6))),
    ]
    inputs, outputs = {"image": ["n", 8, 8, 8]}, {"logits": ["n", 6]}
    biased = model_of(nodes, inputs, outputs, [*weights, tensor("bias", np.zeros(6))])
    images = generator.normal(size=(64, 8, 8, 8)).astype(np.float32)
    middle = Session(biased.SerializeToString()).run({"image": images})[0].mean(axis=0)
    return model_of(nodes, inputs, outputs, [*weights, tensor("bias", -middle)])


def outlier_transformer(outlier: float = 60.0, width: int = 32, length: int = 6) -> Model:
    """Return `x` f32[n, 6, 32] → `y` f32[n, 6, 32]: one transformer layer whose norms leave two channels far out."""
    generator = np.random.default_rng(7)
    scale = np.ones(width)
    scale[[3, 17]] = outlier

    def weight(rows: int, columns: int) -> Any:
        values = generator.normal(size=(rows, columns)) / rows**0.5
        if rows == width:
            values[[3, 17]] /= outlier
        return values

    names = {"query": (width, width), "key": (width, width), "value": (width, width), "out": (width, width),
             "up": (width, 4 * width), "down": (4 * width, width)}  # fmt: skip
    weights = [tensor(name, weight(*shape)) for name, shape in names.items()]
    weights += [tensor("scale", scale), tensor("zeros", np.zeros(width)), tensor("root", width**0.5)]
    norm: Any = {"axis": -1, "epsilon": 1e-5}
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "zeros"], ["h"], name="norm1", **norm),
        *[helper.make_node("MatMul", ["h", each], [f"{each}s"], name=each) for each in ("query", "key", "value")],
        helper.make_node("Transpose", ["keys"], ["turned"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["querys", "turned"], ["products"], name="products"),
        helper.make_node("Div", ["products", "root"], ["scaled"], name="scaled"),
        helper.make_node("Softmax", ["scaled"], ["shares"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["shares", "values"], ["mixed"], name="mix"),
        helper.make_node("MatMul", ["mixed", "out"], ["attended"], name="out"),
        helper.make_node("Add", ["attended", "x"], ["middle"], name="add1"),
        helper.make_node("LayerNormalization", ["middle", "scale", "zeros"], ["h2"], name="norm2", **norm),
        helper.make_node("MatMul", ["h2", "up"], ["ups"], name="up"),
        helper.make_node("Relu", ["ups"], ["active"], name="relu"),
        helper.make_node("MatMul", ["active", "down"], ["downs"], name="down"),
        helper.make_node("Add", ["downs", "middle"], ["y"], name="add2"),
    ]
    return model_of(nodes, {"x": ["n", length, width]}, {"y": ["n", length, width]}, weights)


def clear_cases(model: Model, images: Any, wanted_n: int) -> Any:
    """Return the images whose decision is clearest: near ties flip by any rounding and say nothing."""
    logits = np.sort(Session(model.SerializeToString()).run({"image": images})[0], axis=1)
    return images[np.argsort(logits[:, -2] - logits[:, -1], kind="stable")[:wanted_n]]


def request_for(
    folder: Path, model: Model, variant: str, arrays: dict[str, Any], *, labelled: bool = False, **more: Any
) -> BuildRequest:
    """Return a request to build a model, with samples and calibration samples written; labels are the model's own."""
    (folder / "scratch").mkdir(exist_ok=True)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    count_n = len(next(iter(arrays.values())))
    golden = {name: each[: count_n // 2] for name, each in arrays.items()}
    if labelled:
        runner = Session(model.SerializeToString())
        feeds = [{name: each[i : i + 1] for name, each in golden.items()} for i in range(count_n // 2)]
        golden = {**golden, "labels": np.array([runner.run(feed)[0].argmax() for feed in feeds])}
    npz.write(folder / "samples.npz", golden)
    npz.write(folder / "calibration.npz", {name: each[count_n // 2 :] for name, each in arrays.items()})
    return BuildRequest(
        model="tiny",
        variant=variant,
        source=str(folder / "m.onnx"),
        samples=str(folder / "samples.npz"),
        calibration=str(folder / "calibration.npz"),
        out=str(folder / "out.onnx"),
        work_dir=str(folder / "scratch"),
        **more,
    )
