"""Which variants this version can build: data, readable without onnx, onnxruntime or any converter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgefleet_contract.variant import ENGINES, PRECISIONS, Variant

TEST_RUNTIMES_ENV = "EDGEFLEET_TEST_RUNTIMES"
_MODULES = "edgefleet_controller.compile"


@dataclass(frozen=True)
class Target:
    """A module that builds variants of one runtime.

    Attributes:
        module: where its `build(request) -> BuildAnswer` is.
        engines: engines it builds for.
        precisions: precisions it makes.
        needs: what must be installed on the controller.
        on_host: engine → engine the builder runs the result under, for the check against the source, or
            `runtime/engine` where another runtime runs the same file; an engine left out is not run on the builder.
        suffix: how the model file's name ends.
        refused: `engine/precision` → the true reason why that pair is not made.
    """

    module: str
    engines: frozenset[str]
    precisions: frozenset[str]
    needs: tuple[str, ...] = ()
    on_host: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ".onnx"
    refused: Mapping[str, str] = field(default_factory=dict)


_ORT_REFUSED: Mapping[str, str] = {
    **{
        f"{engine}/{precision}": f"{precision} is built for ONNX Runtime's CPU provider only in this version"
        for engine in ENGINES["ort"]
        if engine != "cpu"
        for precision in ("int8-dynamic", "int4", "bf16")
    },
    "coreml/int8": "ONNX Runtime's CoreML provider takes no QuantizeLinear or DequantizeLinear, so an int8 model would "
    "run on the CPU; build coreml/fp16",
    "qnn/fp32": "Qualcomm's HTP has no float32; build qnn/fp16 or qnn/int8",
}
_TFLITE_TAKES: Mapping[str, tuple[str, ...]] = {
    "gpu": ("fp32", "fp16"),
    "nnapi": ("fp16", "int8"),
    "coreml": ("fp32", "fp16", "int8"),
    "edgetpu": ("int8",),
}
_TFLITE_REFUSED: Mapping[str, str] = {
    f"{engine}/{precision}": f"tflite/{engine} is built in {', '.join(takes)} only, not {precision}"
    for engine, takes in _TFLITE_TAKES.items()
    for precision in PRECISIONS
    if precision not in takes
}

TARGETS: Mapping[str, Target] = {
    "ort": Target(
        f"{_MODULES}.ort.target",
        frozenset(ENGINES["ort"]),
        frozenset({"fp32", "fp16", "bf16", "int8", "int8-dynamic", "int4"}),
        ("onnx", "onnxruntime", "onnxslim", "scipy"),
        on_host=dict.fromkeys(ENGINES["ort"], "cpu"),
        refused=_ORT_REFUSED,
    ),
    "tflite": Target(
        f"{_MODULES}.tflite.target",
        frozenset(ENGINES["tflite"]),
        frozenset({"fp32", "fp16", "int8", "int8-dynamic", "int16x8"}),
        ("onnx", "onnxruntime", "onnx2tf", "onnxsim", "litert_quantizer", "ai_edge_litert"),
        on_host={engine: "cpu" if engine == "cpu" else "xnnpack" for engine in ENGINES["tflite"]},
        suffix=".tflite",
        refused=_TFLITE_REFUSED,
    ),
    "tensorrt": Target(
        f"{_MODULES}.tensorrt.target",
        frozenset({"gpu", "dla"}),
        frozenset({"fp32", "fp16", "int8"}),
        ("onnx", "onnxruntime"),
        on_host={"gpu": "ort/cpu", "dla": "ort/cpu"},
        refused={"dla/fp32": "DLA computes in fp16 and int8 only"},
    ),
    "tensorrt-rtx": Target(
        f"{_MODULES}.tensorrt.rtx",
        frozenset({"gpu"}),
        frozenset({"fp32", "fp16", "int8"}),
        ("onnx", "onnxruntime", "tensorrt_rtx_bindings"),
        suffix=".plan",
    ),
    "misbehave": Target(
        f"{_MODULES}.misbehave",
        frozenset(ENGINES["misbehave"]),
        frozenset({"fp32", "int8"}),
        refused={"wrong/int8": "wrong outputs are a fault of the test runtime, not of a converter: ask for fp32"},
    ),
}


def target_of(variant: Variant) -> Target:
    """Return the target that builds a variant; `buildable` must have said it can. Raises KeyError otherwise."""
    return TARGETS[variant.runtime]


def host_variant(variant: Variant) -> Variant | None:
    """Return the variant the builder runs an artifact as, for the check against its source; None: it cannot."""
    engine = target_of(variant).on_host.get(variant.engine)
    if engine is None:
        return None
    runtime, _, other = engine.rpartition("/")
    return variant._replace(runtime=runtime or variant.runtime, engine=other)


def buildable(variant: Variant, *, test_runtimes: bool | None = None) -> str | None:
    """Return None when this version can build the variant, else the true reason why not.

    Args:
        variant: what is asked for.
        test_runtimes: whether runtimes that misbehave on purpose may be built; default: as the environment says.
    """
    allowed = os.environ.get(TEST_RUNTIMES_ENV) == "1" if test_runtimes is None else test_runtimes
    target = TARGETS.get(variant.runtime)
    if target is None:
        return f"no builder for runtime {variant.runtime} in this version"
    if variant.runtime == "misbehave" and not allowed:
        return f"the controller was started without test runtimes ({TEST_RUNTIMES_ENV}=1)"
    if variant.engine not in target.engines:
        return f"{variant.runtime} is built for {_list(target.engines)} only in this version, not for {variant.engine}"
    if variant.precision not in target.precisions:
        return f"{variant.target} is built in {_list(target.precisions)} only in this version, not {variant.precision}"
    return target.refused.get(f"{variant.engine}/{variant.precision}")


def all_buildable() -> tuple[str, ...]:
    """Return every variant this version can build, but those that misbehave on purpose."""
    return tuple(
        f"{runtime}/{engine}/{precision}"
        for runtime, engines in ENGINES.items()
        for engine in engines
        for precision in PRECISIONS
        if buildable(Variant(runtime, engine, precision), test_runtimes=False) is None
    )


def needs(variant: Variant) -> tuple[str, ...]:
    """Return the packages the controller needs to build a variant; none for a runtime this version does not build."""
    target = TARGETS.get(variant.runtime)
    return target.needs if target is not None else ()


def _list(values: frozenset[str]) -> str:
    return ", ".join(sorted(values))
