"""ONNX Runtime on this machine's CPU: the one place of the compiler that loads models to run them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as states

from edgefleet_controller.compile.fault import CompileFaultError, one_line
from edgefleet_controller.compile.npz import Array, Arrays

VERSION: str = ort.__version__

RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    states.Fail, states.InvalidArgument, states.InvalidGraph, states.InvalidProtobuf, states.NotImplemented,
    states.RuntimeException, states.EPFail, states.EngineError, states.NoModel, states.NoSuchFile,
    # Damaged files can make the binding itself stumble over a name that is no UTF-8.
    UnicodeDecodeError, ValueError, RuntimeError,
)  # fmt: skip


class Session:
    """A loaded model, run with one thread."""

    def __init__(self, model: Path | bytes, *, optimise: bool = True) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        source = model if isinstance(model, bytes) else str(model)
        self._session: Any = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self.output_names: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())

    def run(self, feeds: Arrays) -> list[Array]:
        """Return the outputs for one set of inputs, in the model's order."""
        return [np.asarray(output) for output in self._session.run(None, dict(feeds))]

    def run_all(self, feeds: Iterable[Arrays]) -> list[Array]:
        """Return each output for all feeds, one after the other, stacked along a new first axis."""
        columns = zip(*(self.run(feed) for feed in feeds), strict=True)
        return [np.stack(column) for column in columns]


def save_optimised(model: Path, out: Path) -> None:
    """Write what this machine's ONNX Runtime makes of a model file before it runs it. Raises `RUNTIME_ERRORS`."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.optimized_model_filepath = str(out)
    ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def open_source(model: Path) -> Session:
    """Load a user's model.

    Raises:
        CompileFaultError: ONNX Runtime refuses it.
    """
    try:
        return Session(model)
    except RUNTIME_ERRORS as error:
        raise CompileFaultError(
            "source",
            f"is refused by ONNX Runtime {ort.__version__}: {short(error)}",
            next_step="export it with operators and an opset this ONNX Runtime supports",
        ) from error


def short(error: Exception, limit_chars: int = 400) -> str:
    """Return an error's text on one line, shortened, without the runtime's own prefix."""
    prefix = "[ONNXRuntimeError] : "
    return one_line(error, limit_chars + len(prefix)).removeprefix(prefix)[:limit_chars]


def sqnr_db(reference: Sequence[Array], candidate: Sequence[Array]) -> float:
    """Return the signal-to-quantisation-noise ratio over all outputs, in dB, at most 200.

    It is -200 where the noise is not finite or the reference is all zero.
    """
    signal = noise = 0.0
    for ours, theirs in zip(reference, candidate, strict=True):
        wanted = ours.astype(np.float64)
        signal += float(np.sum(wanted**2))
        noise += float(np.sum((wanted - theirs.astype(np.float64)) ** 2))
    if not np.isfinite(noise) or signal <= 0.0:
        return -200.0
    return 200.0 if noise == 0.0 else float(np.clip(10 * np.log10(signal / noise), -200.0, 200.0))
