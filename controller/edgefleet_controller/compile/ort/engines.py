"""What each execution provider of ONNX Runtime wants of a model file: data.

Files for all of them are portable ONNX; on the builder each is run by the CPU provider, which shows its numbers and
nothing of its speed or placement. None of these providers was ever run on its hardware by us: devices prove it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from edgefleet_controller.compile.npz import Arrays
from edgefleet_controller.compile.protocol import OptionValue
from edgefleet_controller.compile.quantise.qdq import QdqLayout


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    Attributes:
        name: as ONNX Runtime names it.
        layout: how it wants Q and DQ.
        options: provider options for every precision.
        by_precision: further options for one precision.
        fixed_shapes: whether it takes fixed shapes only, so that sizes are read off the samples.
    """

    name: str
    layout: QdqLayout
    options: Mapping[str, str] = field(default_factory=dict)
    by_precision: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    fixed_shapes: bool = False


PROVIDERS: Mapping[str, Provider] = {
    "cpu": Provider("CPUExecutionProvider", QdqLayout.U8S8),
    "cuda": Provider("CUDAExecutionProvider", QdqLayout.S8S8),
    "tensorrt": Provider(
        "TensorrtExecutionProvider",
        QdqLayout.TENSORRT,
        by_precision={"fp16": {"trt_fp16_enable": "1"}, "int8": {"trt_int8_enable": "1", "trt_fp16_enable": "1"}},
    ),
    "coreml": Provider(
        "CoreMLExecutionProvider",
        QdqLayout.U8S8_FULL,
        {"ModelFormat": "MLProgram", "RequireStaticInputShapes": "1"},
        fixed_shapes=True,
    ),
    "qnn": Provider(
        "QNNExecutionProvider",
        QdqLayout.U8S8_FULL,
        by_precision={"fp16": {"enable_htp_fp16_precision": "1"}},
        fixed_shapes=True,
    ),
    "openvino": Provider("OpenVINOExecutionProvider", QdqLayout.U8S8_FULL),
    "xnnpack": Provider("XnnpackExecutionProvider", QdqLayout.S8S8),
}
"""Options as ONNX Runtime's documentation of each provider names them (read 2026-11)."""


def provider_options(engine: str, precision: str, asked: Mapping[str, str]) -> dict[str, str]:
    """Return the options an artifact carries to its provider: ours for the precision, and before them what is asked."""
    provider = PROVIDERS[engine]
    return {**provider.options, **provider.by_precision.get(precision, {}), **asked}


def provider_of(engine: str) -> dict[str, OptionValue]:
    """Return the provider as an artifact records it; nothing for the CPU."""
    if engine == "cpu":
        return {}
    told = "on this builder by the CPU provider only; never run on its hardware by us"
    return {"provider": PROVIDERS[engine].name, "executed": told}


def fix_shapes(model: onnx.ModelProto, feed: Arrays) -> dict[str, OptionValue]:
    """Give every input the size it has in a feed, in place; return the sizes in words, or nothing if all were fixed."""
    changed: dict[str, list[int]] = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in feed or all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims):
            continue
        changed[value.name] = list(feed[value.name].shape)
        for dim, size in zip(dims, feed[value.name].shape, strict=True):
            dim.dim_value = size
    if not changed:
        return {}
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    model.CopyFrom(onnx.shape_inference.infer_shapes(model))
    return {"fixed_shapes": "; ".join(f"{name} {shape}" for name, shape in changed.items())}
