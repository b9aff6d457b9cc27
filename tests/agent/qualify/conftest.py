"""The digit classifier on real digits: its source's outputs, and those of honest artifacts made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from edgefleet_agent.qualify.parity.tensor import Array

EXAMPLES = Path(__file__).parents[3] / "manifests" / "examples"
MODEL = EXAMPLES / "models" / "mnist_cnn_fp32.onnx"

Outputs = dict[str, Array]


def _images(name: str) -> Array:
    images = np.load(EXAMPLES / "data" / name)["image"]
    return np.asarray(((images - 33.3285) / 78.5655).astype(np.float32)[:, None])


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._feeds: Iterator[dict[str, Array]] = iter([{"image": _images("digits_calibration.npz")}])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


@dataclass(frozen=True)
class Digits:
    """Reference outputs and labels of 1,000 digits, and the way to run variations of the model on them."""

    reference: Outputs
    labels: Array
    folder: Path

    def run(self, model: Path | onnx.ModelProto, *, optimise: bool = True, threads: int = 1) -> Outputs:
        return run_digits(model, optimise=optimise, threads=threads)

    def static_int8(self, **options: Any) -> Outputs:
        target = self.folder / "static.onnx"
        quantize_static(MODEL, target, _Reader(), quant_format=QuantFormat.QDQ, **options)
        return run_digits(target)

    def dynamic_int8(self) -> Outputs:
        target = self.folder / "dynamic.onnx"
        quantize_dynamic(MODEL, target, weight_type=QuantType.QInt8)
        return run_digits(target)

    def edited(self, edit: Callable[[dict[str, Array]], None]) -> Outputs:
        """Return outputs of the model after `edit` changed its weights in place, by name."""
        model = onnx.load(MODEL)
        weights = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
        edit(weights)
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
        return run_digits(model)


def run_digits(model: Path | onnx.ModelProto, *, optimise: bool = True, threads: int = 1) -> Outputs:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return {"logits": session.run(None, {"image": _images("digits.npz")})[0]}


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    labels = np.load(EXAMPLES / "data" / "digits.npz")["labels"]
    return Digits(run_digits(MODEL), labels, tmp_path_factory.mktemp("digits"))


HEALTHY: dict[str, tuple[str, Callable[[Digits], Outputs]]] = {
    "itself": ("fp32", lambda digits: digits.run(MODEL)),
    "fp32 unoptimised": ("fp32", lambda digits: digits.run(MODEL, optimise=False)),
    "fp32 on two threads": ("fp32", lambda digits: digits.run(MODEL, threads=2)),
    "fp16 weights": ("fp16", lambda digits: digits.edited(_round_to_half)),
    "int8 dynamic": ("int8-dynamic", Digits.dynamic_int8),
    "int8 min-max": ("int8", Digits.static_int8),
    "int8 per channel": ("int8", lambda digits: digits.static_int8(per_channel=True)),
    "int8 reduced range": ("int8", lambda digits: digits.static_int8(per_channel=True, reduce_range=True)),
    "int8 entropy": ("int8", lambda digits: digits.static_int8(calibrate_method=CalibrationMethod.Entropy)),
    "int8 percentile": ("int8", lambda digits: digits.static_int8(calibrate_method=CalibrationMethod.Percentile)),
    # Saturates in the kernels of processors without VNNI: 15 dB, and still 97.6 % right.
    "int8 unsigned": ("int8", lambda digits: digits.static_int8(activation_type=QuantType.QUInt8, per_channel=True)),
}


def _round_to_half(weights: dict[str, Array]) -> None:
    for name, weight in weights.items():
        if weight.dtype == np.float32:
            weights[name] = weight.astype(np.float16).astype(np.float32)


@pytest.fixture(scope="session", params=list(HEALTHY))
def healthy(request: pytest.FixtureRequest, digits: Digits) -> tuple[str, Outputs]:
    """Return (claimed precision, outputs) of an honest artifact of the digit model."""
    precision, make = HEALTHY[request.param]
    return precision, make(digits)
