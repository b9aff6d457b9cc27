"""Static int8 for ONNX Runtime on CPU: prepare the graph, calibrate by several methods, keep the best.

Layout U8S8 (activations uint8, weights int8 per channel): on x86 with VNNI it ran 2.2 times as fast as fp32 where ONNX
Runtime's default S8S8 was slower than fp32. Weights use 7 of their 8 bits: x86 without VNNI multiplies with VPMADDUBSW,
which saturates on full-range weights (measured with AVX2: EfficientNet-Lite0 7.3 dB instead of 18.0), while 7 bits are
exact on every CPU (12.8 dB everywhere), and an artifact must compute the same on all devices it goes to. Depthwise
convolutions have a kernel of their own that does not saturate, and suffer most from coarse weights: they keep all 8
bits (13.9 dB, still exact).

No calibration method wins everywhere, so each is judged on samples.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgefleet_contract.artifact import TensorSpec
from edgefleet_controller.compile import npz, preprocess, session
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.protocol import BuildRequest, OptionValue
from edgefleet_controller.compile.samples import LABELS
from edgefleet_controller.compile.split import Indices

logger = logging.getLogger(__name__)

METHODS = (CalibrationMethod.MinMax, CalibrationMethod.Percentile, CalibrationMethod.Entropy)
_QUANTISER_ERRORS: tuple[type[Exception], ...] = (
    *session.RUNTIME_ERRORS,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
)
"""What its Python code raises over graphs it did not foresee."""
_HISTOGRAM_CHUNK_N = 8
"""Samples whose intermediate tensors are held at once while histograms are taken."""
_HISTOGRAM_MAX_N = 64
_JUDGE_MAX_N = 256


@dataclass(frozen=True)
class Scored:
    """A quantised model and how it did on the judging samples."""

    path: Path
    method: str
    sqnr_db: float
    top1: float | None

    @property
    def rank(self) -> tuple[float, float]:
        """Return what the best is chosen by: the metric first, then the noise."""
        return (0.0 if self.top1 is None else self.top1, self.sqnr_db)


@dataclass(frozen=True)
class Chosen:
    """The winner, and every figure the choice was made by."""

    path: Path
    options: dict[str, OptionValue]


@dataclass(frozen=True)
class Judge:
    """Golden samples with the source's outputs on them."""

    feeds: list[Arrays]
    reference: list[Array]
    labels: Indices | None

    def score(self, path: Path, method: str) -> Scored:
        """Run a candidate on all samples."""
        outputs = session.Session(path).run_all(self.feeds)
        return Scored(path, method, session.sqnr_db(self.reference, outputs), self.top1(outputs))

    def top1(self, outputs: list[Array]) -> float | None:
        """Return the share of right classes, or None without labels or without one row of scores a sample."""
        scores = outputs[0].reshape(len(outputs[0]), -1)
        if self.labels is None or outputs[0].ndim > 3 or scores.shape[1] < 2:
            return None
        return float(np.mean(scores.argmax(axis=1) == self.labels))


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Feeds of one sample each, for ONNX Runtime's calibrators."""

    def __init__(self, feeds: list[Arrays]) -> None:
        self._feeds = feeds
        self._left = iter(feeds)

    def __len__(self) -> int:
        return len(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with these samples."""
        self._left = iter(self._feeds[start_index:end_index])

    def get_next(self) -> Arrays | None:
        """Return the next feed, or None at the end."""
        return next(self._left, None)


def prepare(source: Path, work_dir: Path) -> Path:
    """Return the source with shapes inferred and operators fused by portable rules, as quantisation wants it.

    Raises:
        CompileFaultError: ONNX Runtime's preparation does not manage this model.
    """
    prepared = work_dir / "prepared.onnx"
    with quantisation_faults():
        # Symbolic shape inference would need sympy; plain inference after optimisation finds the same on CNNs.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    return prepared


def quantize_best(request: BuildRequest, inputs: tuple[TensorSpec, ...]) -> Chosen:
    """Quantise by each method and keep the best by top-1, then by signal-to-noise ratio.

    Raises:
        CompileFaultError: no method gives a model that runs.
    """
    work_dir = Path(request.work_dir)
    prepared = prepare(Path(request.source), work_dir)
    calibration = npz.read(Path(request.calibration))
    feeds = list(preprocess.batches(calibration, inputs, request.preprocess))
    judge = _judge(request, inputs)
    scored = [_quantize(prepared, work_dir, feeds, method, judge) for method in METHODS]
    best = max(scored, key=lambda each: each.rank)
    logger.info("calibration %s wins: %s", best.method, scored)
    return Chosen(best.path, _options(best, scored, feeds_n=len(feeds), judged_n=len(judge.feeds)))


def _judge(request: BuildRequest, inputs: tuple[TensorSpec, ...]) -> Judge:
    golden = _spread(npz.read(Path(request.samples)))
    feeds = list(preprocess.batches(golden, inputs, request.preprocess))
    return Judge(feeds, session.open_source(Path(request.source)).run_all(feeds), golden.get(LABELS))


def _spread(arrays: Arrays) -> dict[str, Array]:
    """Return up to `_JUDGE_MAX_N` samples, evenly spread: files are often sorted by class."""
    count_n = len(next(iter(arrays.values())))
    places = np.unique(np.linspace(0, count_n - 1, min(count_n, _JUDGE_MAX_N)).astype(np.int64))
    return {name: array[places] for name, array in arrays.items()}


def _quantize(prepared: Path, work_dir: Path, feeds: list[Arrays], method: CalibrationMethod, judge: Judge) -> Scored:
    out = work_dir / f"int8-{method.name.lower()}.onnx"
    started_s = time.monotonic()
    extra: dict[str, Any] = {"TensorQuantOverrides": _full_range_weights(onnx.load(prepared))}
    if method is not CalibrationMethod.MinMax:
        feeds = feeds[:_HISTOGRAM_MAX_N]
        chunk_n = min(_HISTOGRAM_CHUNK_N, len(feeds))
        feeds = feeds[: len(feeds) // chunk_n * chunk_n]
        extra["CalibStridedMinMax"] = chunk_n  # despite its name it chunks every method
    with quantisation_faults():
        quantize_static(
            str(prepared),
            str(out),
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
            extra_options=extra,
        )
        scored = judge.score(out, method.name.lower())
    logger.info("%s took %.1f s", method.name, time.monotonic() - started_s)
    return scored


def _full_range_weights(model: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """Return the quantiser's overrides that give depthwise weights all 8 bits: weight → one entry a channel."""
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    each: dict[str, Any] = {"quant_type": QuantType.QInt8, "reduce_range": False}
    overrides = {}
    for node in model.graph.node:
        shape = dims.get(node.input[1], ()) if node.op_type == "Conv" else ()
        groups_n = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if len(shape) == 4 and groups_n > 1 and shape[:2] == (groups_n, 1):
            overrides[node.input[1]] = [{"axis": 0, **each}, *([each] * (shape[0] - 1))]
    return overrides


def _options(best: Scored, scored: list[Scored], *, feeds_n: int, judged_n: int) -> dict[str, OptionValue]:
    options: dict[str, OptionValue] = {
        "layout": "qdq, activations uint8, weights int8 per channel, 7 bits, depthwise 8 bits",
        "calibration": best.method,
        "calibration_samples_n": feeds_n,
        "judged_on_samples_n": judged_n,
    }
    for each in scored:
        options[f"{each.method}_sqnr_db"] = round(each.sqnr_db, 2)
        if each.top1 is not None:
            options[f"{each.method}_top1"] = round(each.top1, 6)
    return options


@contextmanager
def quantisation_faults() -> Iterator[None]:
    """Turn what the quantiser raises over a model it cannot handle into a fault with its words."""
    try:
        yield
    except _QUANTISER_ERRORS as error:
        logger.exception("quantisation failed")
        reason = f"ONNX Runtime's quantiser cannot handle it: {type(error).__name__}: {session.short(error)}"
        raise CompileFaultError("variant", reason) from error
