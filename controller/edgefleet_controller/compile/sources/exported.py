"""Sources that become ONNX first, in the framework they come from, which also gives the reference outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefleet_controller.compile import npz
from edgefleet_controller.compile.ingest import states
from edgefleet_controller.compile.ingest.behaviour import Runnable, Runner, try_samples
from edgefleet_controller.compile.ingest.samples import Samples
from edgefleet_controller.compile.key import keras_versions, torch_versions
from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.protocol import IngestRequest, ModelRecord, Origin

_ERRORS: tuple[type[Exception], ...] = (RuntimeError, ValueError, TypeError, IndexError)
"""What both frameworks raise of inputs that do not fit."""


@dataclass(frozen=True)
class Exported:
    """A source that was written as ONNX.

    Attributes:
        framework: PyTorch or Keras.
        version: its version.
        tools: what exported it.
        open: names of the ONNX file's outputs → what runs the source itself.
    """

    framework: str
    version: str
    tools: dict[str, str]
    open: Callable[[tuple[str, ...]], Runner]


def export(request: IngestRequest, out: Path) -> Exported | None:
    """Write a source as ONNX into `out`; None: it is ONNX or TFLite already.

    Raises:
        CompileFaultError: the framework is not installed, or the source cannot be read or exported.
    """
    suffix = Path(request.source).suffix
    if suffix in {".pt2", ".py"}:
        return _export_torch(request, out)
    return _export_keras(Path(request.source), out) if suffix == ".keras" else None


def _export_torch(request: IngestRequest, out: Path) -> Exported:
    from edgefleet_controller.compile.sources import torch as sources_torch

    source = Path(request.source)
    if source.suffix == ".pt2":
        torch = sources_torch.open_program(source)
    else:
        inputs = sources_torch.example_inputs(request.samples, request.preprocess)
        torch = sources_torch.open_module(source, request.function or "", inputs)
    sources_torch.export(torch, out)
    tools = dict(torch_versions())
    return Exported("PyTorch", tools["torch"], tools, lambda names: sources_torch.Runner(torch, names))


def _export_keras(source: Path, out: Path) -> Exported:
    from edgefleet_controller.compile.sources import keras as sources_keras

    keras = sources_keras.KerasSource(source)
    keras.export(out)
    tools = dict(keras_versions())
    return Exported("Keras", tools["keras"], tools, lambda names: sources_keras.Runner(keras, names))


def refer(source: Exported, request: IngestRequest, record: ModelRecord, golden: Samples, out: Path) -> Origin:
    """Write the framework's own outputs on golden samples into `out`, as the worker writes those of a model file.

    Raises:
        CompileFaultError: the framework fails, or what `try_samples` refuses.
    """
    names = tuple(spec.name for spec in record.outputs)
    try_samples(Runnable(lambda: source.open(names), _ERRORS), golden, record, request.preprocess)
    _write(source, golden, record, request, out)
    with Path(request.source).open("rb") as stream:
        digest = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
    return Origin(digest=digest, framework=f"{source.framework} {source.version}", tools=source.tools)


def _write(
    source: Exported,
    golden: Samples,
    record: ModelRecord,
    request: IngestRequest,
    out: Path,
) -> None:
    names = tuple(spec.name for spec in record.outputs)
    runner = source.open(names)
    runnable = Runnable(lambda: runner, _ERRORS)
    runs = [made for _, _, made in states.steps(runnable, golden, record, request.preprocess, request.state)]
    judged = [name for name in names if name not in request.state] or names
    npz.write(out, {name: _joined([run[name] for run in runs]) for name in judged})


def _joined(parts: list[Array]) -> Array:
    first = parts[0]
    return np.concatenate(parts) if first.ndim and first.shape[0] == 1 else np.stack(parts)
