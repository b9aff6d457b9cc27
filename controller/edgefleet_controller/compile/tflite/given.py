"""A TFLite file as a source: what it takes, gives and computes in, and how it is run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
from pydantic import ValidationError

from edgefleet_contract.artifact import Dim, DType, TensorSpec
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ingest.behaviour import Runnable
from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.protocol import ModelRecord
from edgefleet_controller.compile.tflite import flatbuffer, graph
from edgefleet_controller.compile.tflite.flatbuffer import DamagedFileError
from edgefleet_controller.compile.tflite.graph import Graph
from edgefleet_controller.compile.tflite.interpreter import Interpreter, Port, RefusedError
from edgefleet_controller.compile.tflite.precision import precision_of

EDGETPU_OPERATOR = "edgetpu-custom-op"
_DTYPES = frozenset(get_args(DType))


class Runner:
    """A TFLite file that is run on inputs of whatever size they have.

    Args:
        data: the file.

    Raises:
        RefusedError: it cannot be prepared.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._interpreter = Interpreter(data)
        self.output_names = tuple(port.name for port in self._interpreter.outputs)

    def run(self, feeds: Arrays) -> list[Array]:
        """Return the outputs for one set of inputs, in the file's order. Raises RefusedError."""
        wanted = {port.index: feeds[port.name].shape for port in self._interpreter.inputs}
        if any(port.shape != wanted[port.index] for port in self._interpreter.inputs):
            self._interpreter = Interpreter(self._data, shapes=wanted)
        return self._interpreter.run(feeds)


def open_source(data: bytes, digest: str) -> tuple[ModelRecord, Runnable]:
    """Return what a file is and how to run it.

    Args:
        data: the file.
        digest: its digest.

    Raises:
        CompileFaultError: it is damaged, was compiled for an Edge TPU, holds NaN weights, or LiteRT refuses it.
    """
    found = read(data)
    _check_operators(data)
    _check_weights(found)
    try:
        interpreter = Interpreter(data)
    except RefusedError as error:
        raise CompileFaultError(
            "source",
            f"is refused by LiteRT: {error}",
            next_step="convert it again, with TFLite's own operators only (no Flex or custom ones)",
        ) from error
    _try_once(interpreter)
    return _record(found, interpreter, digest), Runnable(lambda: Runner(data), (RefusedError, KeyError))


def read(data: bytes) -> Graph:
    """Return the main graph of a source. Raises CompileFaultError where the file is damaged."""
    try:
        return graph.read(data)
    except DamagedFileError as error:
        raise CompileFaultError("source", str(error), next_step="convert or copy it again") from error


def specs(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of a source, sizes that may change by name. Raises CompileFaultError."""
    record, _ = open_source(path.read_bytes(), "sha256:" + "0" * 64)
    return record.inputs, record.outputs


def _try_once(interpreter: Interpreter) -> None:
    """Run a file on zeros, so that a graph XNNPACK prepared and cannot run is known; a model may not take zeros."""
    taken = interpreter.delegated
    try:
        interpreter.run({port.name: np.zeros(port.shape, port.dtype) for port in interpreter.inputs})
    except (RefusedError, TypeError):
        interpreter.delegated = taken


def _record(found: Graph, interpreter: Interpreter, digest: str) -> ModelRecord:
    precision = precision_of(found)
    engine = "xnnpack" if interpreter.delegated else "cpu"
    inputs, outputs = _specs(interpreter.inputs, "input"), _specs(interpreter.outputs, "output")
    constants = {each.index: each for op in found.operators for each in op.inputs if each is not None and each.data}
    return ModelRecord(
        source=digest,
        format="tflite",
        precision=precision,
        reference=f"tflite/{engine}/{precision}",
        inputs=inputs,
        outputs=outputs,
        nodes_n=len(found.operators),
        parameters_n=sum(int(np.prod(each.shape, dtype=np.int64)) for each in constants.values()),
        domains=(),
        batch_is_dynamic=all(bool(spec.shape) and isinstance(spec.shape[0], str) for spec in inputs),
        operators=dict(sorted(Counter(op.type for op in found.operators).items())),
    )


def _specs(ports: tuple[Port, ...], side: str) -> tuple[TensorSpec, ...]:
    names = [port.name for port in ports]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not ports:
        problem = f"has two {side}s named {twice!r}" if ports else f"has no {side}s"
        raise CompileFaultError("source", problem, next_step="convert it again with a name for each")
    return tuple(_spec(port, side) for port in ports)


def _spec(port: Port, side: str) -> TensorSpec:
    if port.dtype not in _DTYPES:
        msg = f"has {side} {port.name!r} of type {port.dtype}; supported: {', '.join(get_args(DType))}"
        raise CompileFaultError("source", msg)
    shape: tuple[Dim, ...] = tuple(
        size if size >= 0 else "batch" if axis == 0 else f"dim{axis}" for axis, size in enumerate(port.declared)
    )
    try:
        return TensorSpec.model_validate({"name": port.name, "dtype": port.dtype, "shape": shape})
    except ValidationError as error:
        raise CompileFaultError("source", f"has {side} {port.name[:200]!r} with a name out of bounds") from error


def _check_operators(data: bytes) -> None:
    if EDGETPU_OPERATOR in flatbuffer.custom_operators(data):
        raise CompileFaultError(
            "source",
            "was compiled for the Edge TPU already, which nothing on the builder runs, so nothing could be compared",
            next_step="give the int8 .tflite it was compiled from",
        )


def _check_weights(found: Graph) -> None:
    for op in found.operators:
        for tensor in op.inputs:
            values = tensor.values() if tensor is not None and tensor.dtype in {"float32", "float16"} else None
            if tensor is not None and values is not None and np.isnan(values).any():
                raise CompileFaultError(
                    "source",
                    f"holds NaN in weight {tensor.name[:200]!r} of {op.name[:200]!r} ({op.type})",
                    next_step="train or convert it again; such a model answers nothing",
                )
