"""Normalise the fp32 file: onnxslim folds constants and fuses, in a child, and the result is checked by numbers."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx

from edgefleet_contract.artifact import TensorSpec
from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.protocol import BuildRequest
from edgefleet_controller.compile.quantise.judge import Judge, open_judge

logger = logging.getLogger(__name__)

TIMEOUT_S = 120.0
_JUDGED_N = 16
_MIN_DB = 100.0
"""Fusing a batch norm rounds its weights once: 120 dB and more on our models."""
_MAX_GROWTH = 1.02
_PROGRAM = "import sys, onnx, onnxslim; onnx.save(onnxslim.slim(onnx.load(sys.argv[1])), sys.argv[2])"


def normalise(
    model: onnx.ModelProto, request: BuildRequest, inputs: tuple[TensorSpec, ...]
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the model with fewer nodes, and the rewrite's name; the model as it is where that does not help.

    It is kept as it is when onnxslim fails, hangs, changes names, types or outputs, saves no node, or folds small
    weights into large ones.
    """
    slim = _slim(model, Path(request.work_dir))
    if slim is None or len(slim.graph.node) >= len(model.graph.node) or not _same_contract(model, slim):
        return model, ()
    if slim.ByteSize() > _MAX_GROWTH * model.ByteSize():
        return model, ()
    judge = open_judge(request, inputs, _JUDGED_N)
    try:
        outputs = judge.run(slim.SerializeToString())
    except session.RUNTIME_ERRORS as error:
        logger.warning("the slimmed model does not run: %s", session.short(error))
        return model, ()
    if not _same_outputs(judge, outputs):
        logger.warning("the slimmed model computes something else; the source is kept")
        return model, ()
    saved_n = len(model.graph.node) - len(slim.graph.node)
    return slim, (f"onnxslim: {saved_n} of {len(model.graph.node)} nodes folded",)


def _slim(model: onnx.ModelProto, work_dir: Path) -> onnx.ModelProto | None:
    given, made = work_dir / "to-slim.onnx", work_dir / "slim.onnx"
    onnx.save(model, given)
    argv = [sys.executable, "-c", _PROGRAM, str(given), str(made)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        logger.warning("onnxslim gave no answer in %.0f s", TIMEOUT_S)
        return None
    if done.returncode != 0 or not made.exists():
        logger.warning("onnxslim failed: %s", done.stderr[-500:])
        return None
    return onnx.load(made)


def _same_contract(model: onnx.ModelProto, slim: onnx.ModelProto) -> bool:
    def contract(each: onnx.ModelProto) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        weights = {tensor.name for tensor in each.graph.initializer}
        inputs = [(v.name, v.type.tensor_type.elem_type) for v in each.graph.input if v.name not in weights]
        return inputs, [(v.name, v.type.tensor_type.elem_type) for v in each.graph.output]

    return contract(model) == contract(slim)


def _same_outputs(judge: Judge, outputs: list[Array]) -> bool:
    for wanted, got in zip(judge.reference, outputs, strict=True):
        if wanted.shape != got.shape or wanted.dtype != got.dtype:
            return False
        if wanted.dtype.kind != "f" and not np.array_equal(wanted, got):
            return False
    floats = [(a, b) for a, b in zip(judge.reference, outputs, strict=True) if a.dtype.kind == "f"]
    if not floats or all(np.array_equal(a, b, equal_nan=True) for a, b in floats):
        return True
    return session.sqnr_db([a for a, _ in floats], [b for _, b in floats]) >= _MIN_DB
