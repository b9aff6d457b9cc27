"""Kinds of model sources, told by a file's first bytes and its name, and what each can become. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Literal

from edgefleet_contract.variant import Variant
from edgefleet_controller.compile.protocol import ModelRecord

Format = Literal["onnx", "tflite", "torch-program", "torch-module", "keras"]

FILE_NAMES: Mapping[Format, str] = {
    "onnx": "source.onnx",
    "tflite": "source.tflite",
    "torch-program": "source.pt2",
    "torch-module": "source.py",
    "keras": "source.keras",
}
"""What a source is called in the folder it is worked on in: readers choose by suffix."""
_HOOK = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*):([A-Za-z_][A-Za-z0-9_]*)")
TFLITE_MARK = b"TFL3"
"""TFLite's file identifier, at byte 4."""
_HDF5, _NUMPY, _ZIP, _PICKLE = b"\x89HDF", b"\x93NUMPY", b"PK", b"\x80\x02"
TAKEN = "ONNX (.onnx), TFLite (.tflite), torch.export (.pt2), Keras (.keras) or module:function"
"""What a source may be, in words."""
_KERAS_STEP = "save it as a .keras file with Keras 3: keras.saving.load_model(PATH).save('model.keras')"
_SAVED_MODEL_STEP = (
    "convert it where TensorFlow is: `python -m tf2onnx.convert --saved-model FOLDER --output model.onnx` for every "
    "target, or tf.lite.TFLiteConverter.from_saved_model(FOLDER) to a .tflite file for tflite/* only"
)
_TORCH_STEP = (
    "export the model: torch.export.save(torch.export.export(model.eval(), example_inputs), 'model.pt2'), or "
    "torch.onnx.export(model, example_inputs, 'model.onnx', dynamo=True)"
)


def hook_of(text: str) -> tuple[str, str] | None:
    """Return the file and the function of a source written `module:function`, or None: it is a file's path."""
    found = _HOOK.fullmatch(text)
    return (found[1].replace(".", "/") + ".py", found[2]) if found else None


def is_torch(text: str) -> bool:
    """Return whether a source, as the manifest writes it, is PyTorch's."""
    return text.lower().endswith(".pt2") or hook_of(text) is not None


def format_of(text: str, head: bytes) -> Format:
    """Return the format of a source that nothing speaks against; see `wrong_source`.

    Args:
        text: the source as the manifest writes it.
        head: its first bytes.
    """
    if hook_of(text) is not None:
        return "torch-module"
    if head[4:8] == TFLITE_MARK:
        return "tflite"
    if head.startswith(_ZIP):
        return "keras" if text.lower().endswith(".keras") else "torch-program"
    return "onnx"


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
    if name.endswith(".py"):
        return "is Python code", f"name the function that returns the model: {name.removesuffix('.py')}:FUNCTION"
    if name.endswith(".pt2") and not head.startswith(_ZIP):
        return "is no program saved by torch.export.save, which writes a ZIP archive", _TORCH_STEP
    return _wrong_zip(name) if head.startswith(_ZIP) else None


def _wrong_zip(name: str) -> tuple[str, str] | None:
    suffix = name.rpartition(".")[2].lower()
    if suffix in {"keras", "pt2"}:
        return None
    if suffix in {"pt", "pth", "bin"}:
        return f"is a PyTorch file of weights or TorchScript; a source is {TAKEN}", _TORCH_STEP
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
