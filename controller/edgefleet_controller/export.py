"""An artifact as a folder that needs nothing of ours: its files, and a short script for the plain runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from edgefleet_contract.artifact import ArtifactDocument, FileRole, InputTransform, IoContract, TensorMap
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.workbench import SCRIPT, write_folder

_ORT_OPENED = """import os
import numpy as np
import onnxruntime as ort

os.chdir(os.path.dirname(os.path.abspath(__file__)))
session = ort.InferenceSession("{model}", providers=["CPUExecutionProvider"])
samples = np.load("samples.npz")
"""

_ORT = (
    _ORT_OPENED
    + """feeds = {{}}
{feeds}
outputs = dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds)))
outputs = {{{outputs}}}
for name, value in outputs.items():
    print(name, value.shape, value.ravel()[:8])
"""
)

_TFLITE_OPENED = """import os
import numpy as np
from ai_edge_litert.interpreter import Interpreter

os.chdir(os.path.dirname(os.path.abspath(__file__)))
interpreter = Interpreter("{model}")
details = {{detail["name"]: detail["index"] for detail in interpreter.get_input_details()}}
samples = np.load("samples.npz")
"""

_TFLITE = (
    _TFLITE_OPENED
    + """feeds = {{}}
{feeds}
for name, value in feeds.items():
    interpreter.resize_tensor_input(details[name], value.shape)
interpreter.allocate_tensors()
for name, value in feeds.items():
    interpreter.set_tensor(details[name], value)
interpreter.invoke()
outputs = {{each["name"]: interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()}}
outputs = {{{outputs}}}
for name, value in outputs.items():
    print(name, value.shape, value.ravel()[:8])
"""
)

_EACH_STEP = """{sequences}
for i in range(len(sequences)):
    feeds = {{}}
    {feeds}
    if i and sequences[i] == sequences[i - 1]:
        feeds.update(state)
"""
_STEP_DONE = """    {state}
    outputs = {{{outputs}}}
    print(i, *(outputs[name].ravel()[:8] for name in {answers}))
"""

_ORT_STEPS = (
    _ORT_OPENED
    + """names = [output.name for output in session.get_outputs()]
"""
    + _EACH_STEP
    + """    outputs = dict(zip(names, session.run(None, feeds)))
"""
    + _STEP_DONE
)

_TFLITE_STEPS = (
    _TFLITE_OPENED
    + """interpreter.allocate_tensors()
"""
    + _EACH_STEP
    + """    for name, value in feeds.items():
        interpreter.set_tensor(details[name], value)
    interpreter.invoke()
    outputs = {{each["name"]: interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()}}
"""
    + _STEP_DONE
)

_TEMPLATES = {"ort": (_ORT, _ORT_STEPS), "tflite": (_TFLITE, _TFLITE_STEPS), "tensorrt": (_ORT, _ORT_STEPS)}
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

    Where states are fed back, on all samples, each sequence from its first state.

    Raises:
        UserInputError: no plain runtime takes the file of this variant.
    """
    templates = _TEMPLATES.get(parse_variant(document.variant).runtime)
    model = document.file(FileRole.MODEL)
    if templates is None or model is None:
        msg = f"{document.variant}: this file runs only under TensorRT itself on its own GPU"
        raise UserInputError(msg, next_step="export another variant of the model")
    stateless, stateful = templates
    if document.io.state:
        return stateful.format(model=model.name, **_steps(document.io))
    feeds = "\n".join(_feeds(document.io, ":1"))
    return stateless.format(model=model.name, feeds=feeds, outputs=_outputs(document.io))


def _steps(io: IoContract) -> dict[str, str]:
    """Return the parts of a program that feeds states back."""
    inputs, outputs = ({name: _held(maps, name) for name in names} for maps, names in _edges(io))
    first = io.inputs[0].name
    states = [
        f"{inputs[given].name!r}: {_moved(f'outputs[{outputs[name].name!r}]', outputs[name].axes, inputs[given].axes)}"
        for name, given in io.state.items()
    ]
    answers = [name for name in outputs if name not in io.state]
    one = f"np.zeros(len(samples[{first!r}]))"
    return {
        "sequences": f'sequences = samples["sequences"] if "sequences" in samples else {one}',
        "feeds": "\n    ".join(_feeds(io, "i:i + 1")),
        "state": f"state = {{{', '.join(states)}}}",
        "outputs": _outputs(io),
        "answers": str(answers or list(outputs)),
    }


def _outputs(io: IoContract) -> str:
    """Return the items of a dictionary of the outputs by the source's names, in its order of axes."""
    held = {spec.name: _held(io.output_map, spec.name) for spec in io.outputs}
    return ", ".join(f"{name!r}: {_moved(f'outputs[{each.name!r}]', each.axes, ())}" for name, each in held.items())


def _edges(io: IoContract) -> tuple[tuple[Mapping[str, TensorMap], tuple[str, ...]], ...]:
    return (
        (io.input_map, tuple(spec.name for spec in io.inputs)),
        (io.output_map, tuple(spec.name for spec in io.outputs)),
    )


def _held(maps: Mapping[str, TensorMap], name: str) -> TensorMap:
    return maps.get(name, TensorMap(name=name))


def _moved(value: str, gives: tuple[int, ...], takes: tuple[int, ...]) -> str:
    """Return a tensor in another order of axes: both are orders of the source's axes, and empty is its own."""
    if gives == takes:
        return value
    source = range(len(gives or takes))
    back = [(gives or tuple(source)).index(axis) for axis in source]
    return f"np.ascontiguousarray({value}.transpose({[back[axis] for axis in takes or source]}))"


def _feeds(io: IoContract, rows: str) -> list[str]:
    return [_feed(io, spec.name, spec.dtype, (len(spec.shape), rows)) for spec in io.inputs]


def _feed(io: IoContract, name: str, dtype: str, rank_and_rows: tuple[int, str]) -> str:
    """Return the line that makes one input of one sample, as the artifact records it."""
    rank, rows = rank_and_rows
    transform = io.preprocess.get(name)
    value = f"samples[{name!r}][{rows}]"
    if transform is not None:
        value = _transformed(value, transform)
    mapped = _held(io.input_map, name)
    value = f"np.asarray({value}, np.{dtype})"
    if transform is None:
        value = f"{value}.reshape(samples[{name!r}][{rows}].shape[-{rank}:])" if rank else f"{value}.reshape(())"
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
