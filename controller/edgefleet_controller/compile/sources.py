"""Kinds of model sources, told by a file's first bytes and its name, and what each can become. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from edgefleet_contract.variant import Variant
from edgefleet_controller.compile.protocol import ModelRecord

Format = Literal["onnx", "tflite"]

FILE_NAMES: Mapping[Format, str] = {"onnx": "source.onnx", "tflite": "source.tflite"}
"""What a source is called in a build's folder: readers choose by suffix."""
TFLITE_MARK = b"TFL3"
"""TFLite's file identifier, at byte 4."""
_HDF5, _NUMPY, _ZIP, _PICKLE = b"\x89HDF", b"\x93NUMPY", b"PK", b"\x80\x02"
TAKEN = "ONNX (.onnx) or TFLite (.tflite)"
"""What a source may be, in words."""
_KERAS_STEP = (
    "convert it where TensorFlow is: `python -m tf2onnx.convert --keras MODEL --output model.onnx` for every target, "
    "or `tf.lite.TFLiteConverter` to a .tflite file for tflite/* only"
)
_SAVED_MODEL_STEP = _KERAS_STEP.replace("--keras MODEL", "--saved-model FOLDER")
_TORCH_STEP = "export it: torch.onnx.export(model, example_inputs, 'model.onnx', dynamo=True)"


def format_of(head: bytes) -> Format:
    """Return the format of a source whose first bytes nothing speaks against; see `wrong_source`."""
    return "tflite" if head[4:8] == TFLITE_MARK else "onnx"


def wrong_source(name: str, head: bytes) -> tuple[str, str] | None:
    """Return what a file shows to be that is no source, and what to do about it; None when nothing speaks against it.

    Args:
        name: the file's name; a ZIP archive's suffix tells what it is meant as.
        head: its first bytes, at least 16 where it has them.
    """
    if head.startswith(_NUMPY):
        return f"is a NumPy array, not a model; a source is {TAKEN}", "name the model's file"
    if head.startswith(_HDF5):
        return f"is a Keras file (HDF5); a source is {TAKEN}", _KERAS_STEP
    if head.startswith(_PICKLE):
        return (
            f"is a Python pickle (weights saved by PyTorch?), which is never loaded; a source is {TAKEN}",
            _TORCH_STEP,
        )
    return _wrong_zip(name) if head.startswith(_ZIP) else None


def _wrong_zip(name: str) -> tuple[str, str]:
    suffix = name.rpartition(".")[2].lower()
    if suffix == "keras":
        return f"is a Keras model; a source is {TAKEN}", _KERAS_STEP
    if suffix in {"pt", "pth", "pt2", "bin"}:
        return f"is a PyTorch file; a source is {TAKEN}", _TORCH_STEP
    return f"is a ZIP archive (`.npz`, `.keras`, `.pt`?), not a model; a source is {TAKEN}", "name the model's file"


def wrong_folder(names: Collection[str]) -> tuple[str, str] | None:
    """Return the same of a folder holding files of these names; None where it is no model in a folder."""
    if "saved_model.pb" not in names:
        return None
    return f"is a TensorFlow SavedModel (a folder); a source is one file: {TAKEN}", _SAVED_MODEL_STEP


def refusal(model: ModelRecord, variant: Variant) -> str | None:
    """Return why a variant cannot be made of this source, or None; what no source could become, `buildable` tells."""
    if model.format != "tflite":
        return None
    held = f"its source is a TFLite file in {model.precision}"
    if variant.runtime != "tflite":
        return f"{held}; {variant.runtime} takes ONNX, and nothing here turns TFLite into ONNX"
    if variant.precision != model.precision:
        return f"{held}, which is shipped as it is: other precisions are made of a float ONNX source only"
    if variant.engine == "xnnpack" and model.reference.startswith("tflite/cpu/"):
        return f"{held} that XNNPACK could not prepare on the builder; tflite/cpu/{model.precision} runs it"
    return None


def other_kernels(variant: str) -> str | None:
    """Return the variant of LiteRT's built-in kernels where `variant` is XNNPACK's; else None."""
    runtime, engine, precision = variant.split("/")
    return f"{runtime}/cpu/{precision}" if engine == "xnnpack" else None


def own_chains(model: ModelRecord) -> Mapping[str, tuple[str, ...]] | None:
    """Return the default chain of each built-in class for a source that the usual ones do not fit, or None."""
    if model.format != "tflite":
        return None
    kept = model.precision
    on_cpu = (f"tflite/xnnpack/{kept}", f"tflite/cpu/{kept}")
    coral = (f"tflite/edgetpu/{kept}",) if kept == "int8" else ()
    phone = (f"tflite/gpu/{kept}",) if kept in {"fp32", "fp16"} else ()
    return {"jetson": on_cpu, "coral": (*coral, *on_cpu), "phone": (*phone, *on_cpu), "cpu": on_cpu}
