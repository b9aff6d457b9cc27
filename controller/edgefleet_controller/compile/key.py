"""The build key: a digest of everything that can change an artifact's bytes."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from edgefleet_contract.artifact import InputTransform
from edgefleet_contract.base import canonical_json, digest_bytes
from edgefleet_contract.tuning import Recipe
from edgefleet_controller.compile.archive import ZLIB_VERSION

FORMAT = "edgefleet/build/v1"
RECIPE_VERSION = "5"
"""Counted up whenever the same inputs would be built into other bytes."""
_TOOLS = (
    "edgefleet", "onnx", "onnxruntime", "numpy", "onnxslim", "scipy",
    "onnx2tf", "onnxsim", "onnxoptimizer", "litert-quantizer", "ai-edge-litert", "flatbuffers",
    "tensorrt-rtx-cu13-bindings",
)  # fmt: skip


@cache
def tool_versions() -> Mapping[str, str]:
    """Return the tools that make artifacts and their versions, read without importing them.

    The machine's architecture is one of them: constant folding and calibration run in floating point here.
    """
    versions = {name: _version(name) for name in _TOOLS}
    vendor = "present" if shutil.which("edgetpu_compiler") else "missing"
    return {
        **versions,
        "edgetpu_compiler": vendor,
        "zlib": ZLIB_VERSION,
        "machine": platform.machine(),
        "recipe": RECIPE_VERSION,
    }


def torch_versions() -> Mapping[str, str]:
    """Return what exports PyTorch's sources and its version, read without importing it."""
    return {"torch": _version("torch"), "onnxscript": _version("onnxscript")}


def keras_versions() -> Mapping[str, str]:
    """Return what exports Keras' sources and its version, read without importing it."""
    tensorflow = next((name for name in ("tensorflow", "tensorflow-cpu") if _version(name) != "missing"), "tensorflow")
    return {"keras": _version("keras"), "tensorflow": _version(tensorflow), "tf2onnx": _version("tf2onnx")}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def build_key(
    *,
    model: str,
    source: str,
    samples: str,
    calibration: str,
    preprocess: Mapping[str, InputTransform],
    dynamic: Mapping[str, Mapping[str, tuple[int, int, int]]],
    state: Mapping[str, str],
    constants: Mapping[str, int | float],
    task: str | None,
    license: str | None,  # noqa: A002 - the field's name
    samples_level: str,
    recipe: Recipe,
    options: Mapping[str, str],
    variant: str,
    tools: Mapping[str, str],
    reference: str | None = None,
) -> str:
    """Return the key of a build. `source`, `samples`, `calibration` and `reference` are digests of canonical files."""
    return digest_bytes(
        canonical_json(
            {
                "format": FORMAT,
                "model": model,
                "source": source,
                "samples": samples,
                "calibration": calibration,
                "preprocess": {name: transform.model_dump(mode="json") for name, transform in preprocess.items()},
                "dynamic": {name: dict(axes) for name, axes in dynamic.items()},
                "state": dict(state),
                "constants": dict(constants),
                "task": task,
                "license": license,
                "samples_level": samples_level,
                "recipe": recipe.model_dump(mode="json"),
                "options": dict(options),
                "variant": variant,
                "tools": dict(tools),
                **({"reference": reference} if reference else {}),
            }
        )
    )


def check_key(parts: Mapping[str, object], tools: Mapping[str, str]) -> str:
    """Return the key of a check: of the files and settings that decide what `ingest` says and writes."""
    return digest_bytes(canonical_json({"format": "edgefleet/check/v1", **parts, "tools": dict(tools)}))
