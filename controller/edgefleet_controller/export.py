"""An artifact as a folder that needs nothing of ours: its files, and a short script for the plain runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgefleet_contract.artifact import ArtifactDocument, FileRole, InputTransform, TensorMap
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.workbench import write_folder

SCRIPT = "run.py"

_ORT = """import os
import numpy as np
import onnxruntime as ort

os.chdir(os.path.dirname(os.path.abspath(__file__)))
session = ort.InferenceSession("{model}", providers=["CPUExecutionProvider"])
samples = np.load("samples.npz")
feeds = {{}}
{feeds}
for name, value in zip([output.name for output in session.get_outputs()], session.run(None, feeds)):
    print(name, value.shape, value.ravel()[:8])
"""

_TFLITE = """import os
import numpy as np
from ai_edge_litert.interpreter import Interpreter

os.chdir(os.path.dirname(os.path.abspath(__file__)))
interpreter = Interpreter("{model}")
details = {{detail["name"]: detail["index"] for detail in interpreter.get_input_details()}}
samples = np.load("samples.npz")
feeds = {{}}
{feeds}
for name, value in feeds.items():
    interpreter.resize_tensor_input(details[name], value.shape)
interpreter.allocate_tensors()
for name, value in feeds.items():
    interpreter.set_tensor(details[name], value)
interpreter.invoke()
for detail in interpreter.get_output_details():
    value = interpreter.get_tensor(detail["index"])
    print(detail["name"], value.shape, value.ravel()[:8])
"""

_TEMPLATES = {"ort": _ORT, "tflite": _TFLITE, "tensorrt": _ORT}
_TO_BATCH = {("nhw", "nchw"): "[:, None]", ("nhw", "nhwc"): "[..., None]"}
_MOVES = {("nhwc", "nchw"): (0, 3, 1, 2), ("nchw", "nhwc"): (0, 2, 3, 1)}


def export_artifact(document: ArtifactDocument, place: Callable[[str], Path], folder: Path) -> Path:
    """Write an artifact and its script into a folder; return the script's path.

    Args:
        document: the artifact.
        place: file name → where it lies.
        folder: where to; one of an earlier export is replaced.

    Raises:
        UserInputError: the folder cannot be written, or no plain runtime runs this variant here.
    """
    source = script(document)
    write_folder(document, place, folder)
    path = folder / SCRIPT
    path.write_text(source, encoding="utf-8")
    return path


def script(document: ArtifactDocument) -> str:
    """Return a Python program that runs the artifact on its first sample with the plain runtime.

    Raises:
        UserInputError: no plain runtime takes the file of this variant.
    """
    template = _TEMPLATES.get(parse_variant(document.variant).runtime)
    model = document.file(FileRole.MODEL)
    if template is None or model is None:
        msg = f"{document.variant}: this file runs only under TensorRT itself on its own GPU"
        raise UserInputError(msg, next_step="export another variant of the model")
    feeds = "\n".join(_feed(document, spec.name, spec.dtype, len(spec.shape)) for spec in document.io.inputs)
    return template.format(model=model.name, feeds=feeds)


def _feed(document: ArtifactDocument, name: str, dtype: str, rank: int) -> str:
    """Return the line that makes one input of the first sample, as the artifact records it."""
    transform = document.io.preprocess.get(name)
    value = f"samples[{name!r}][:1]"
    if transform is not None:
        value = _transformed(value, transform)
    mapped = document.io.input_map.get(name, TensorMap(name=name))
    value = f"np.asarray({value}, np.{dtype})"
    if transform is None:
        value = f"{value}.reshape(samples[{name!r}][:1].shape[-{rank}:])" if rank else f"{value}.reshape(())"
    if mapped.axes:
        value = f"np.ascontiguousarray({value}.transpose({mapped.axes}))"
    return f"feeds[{mapped.name!r}] = {value}"


def _transformed(value: str, transform: InputTransform) -> str:
    wanted = transform.layout.value if transform.layout else None
    given = transform.sample_layout.value if transform.sample_layout else wanted
    if (given, wanted) in _TO_BATCH:
        value += _TO_BATCH[given, wanted]  # type: ignore[index]
    elif (given, wanted) in _MOVES:
        value = f"{value}.transpose({_MOVES[given, wanted]})"  # type: ignore[index]
    shape = "(1, -1, 1, 1)" if wanted == "nchw" else "-1"
    mean, std = _numbers(transform.mean, shape), _numbers(transform.std, shape)
    return f"({value}.astype(np.float32) - {mean}) * {transform.scale!r} / {std}"


def _numbers(value: float | tuple[float, ...], shape: str) -> str:
    if isinstance(value, tuple):
        return f"np.array({list(value)}, np.float32).reshape({shape})"
    return repr(value)
