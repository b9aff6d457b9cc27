"""Ingest: check a model with its samples, and write the canonical samples every artifact carries."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ingest import behaviour, onnx_check, preprocess, samples, shapes, split, states
from edgefleet_controller.compile.ingest.behaviour import Runnable
from edgefleet_controller.compile.ingest.samples import Samples
from edgefleet_controller.compile.protocol import IngestAnswer, IngestRequest, ModelRecord, SamplesRecord
from edgefleet_controller.compile.sources import exported as sources_exported

SAMPLES_FILE = "samples.npz"
CALIBRATION_FILE = "calibration.npz"
EXPORTED_FILE = "exported.onnx"
REFERENCE_FILE = "reference.npz"


def ingest(request: IngestRequest) -> IngestAnswer:
    """Check everything and write `samples.npz` and `calibration.npz` into the request's folder.

    Raises:
        CompileFaultError: the model or its samples are not usable; nothing of worth was written.
    """
    exported = sources_exported.export(request, Path(request.out_dir, EXPORTED_FILE))
    source = Path(request.source) if exported is None else Path(request.out_dir, EXPORTED_FILE)
    record, runnable = _open_tflite(source) if source.suffix == ".tflite" else _open_onnx(source)
    samples.check_preprocess(record.inputs, request.preprocess)
    states.check(record, request.state, request.constants, request.preprocess)
    made = samples.Made(tuple(request.state.values()), request.constants)
    given = samples.load(request.samples, record.inputs, request.preprocess, "samples", top1=request.top1, made=made)
    samples.check_classes(given.labels, record.outputs)
    first = next(preprocess.batches(given.arrays, record.inputs, request.preprocess))
    fault = shapes.dynamic_fault(record.inputs, {name: each.shape for name, each in first.items()}, request.dynamic)
    if fault is not None:
        raise CompileFaultError("dynamic", fault)
    output_bytes = behaviour.try_samples(runnable, given, record, request.preprocess, request.constants)
    golden, calibration, overlaps = _divide(request, record, (given, runnable, made), output_bytes)
    origin = None
    if exported is not None:
        origin = sources_exported.refer(exported, request, record, golden, Path(request.out_dir, REFERENCE_FILE))
    golden.write(Path(request.out_dir, SAMPLES_FILE))
    calibration.write(Path(request.out_dir, CALIBRATION_FILE))
    return IngestAnswer(
        model=record,
        origin=origin,
        samples=SamplesRecord(
            given_n=given.count_n,
            golden_n=golden.count_n,
            calibration_n=calibration.count_n,
            calibration_overlaps=overlaps,
            labelled=golden.labels is not None,
            golden_bytes=golden.sample_bytes * golden.count_n,
        ),
    )


def _open_onnx(source: Path) -> tuple[ModelRecord, Runnable]:
    model = onnx_check.load(source)
    record = onnx_check.record(model, _digest(source))
    onnx_check.check_weights(model)
    return record, behaviour.onnx_runnable(model, source)


def _open_tflite(source: Path) -> tuple[ModelRecord, Runnable]:
    from edgefleet_controller.compile.tflite import given

    return given.open_source(source.read_bytes(), _digest(source))


def _divide(
    request: IngestRequest, record: ModelRecord, whole: tuple[Samples, Runnable, samples.Made], output_bytes: int
) -> tuple[Samples, Samples, bool]:
    """Return golden samples, calibration samples, and whether they overlap; all with the source's own states."""
    given, runnable, made = whole
    limit_n = max(1, split.MAX_CALIBRATION_BYTES // max(given.sample_bytes, 1))
    chosen = _choose(request, record, given, (split.golden_limit_n(given.sample_bytes, output_bytes), limit_n))
    given = _with_states(request, record, given, runnable, np.union1d(chosen.golden, chosen.calibration))
    golden = given.take(chosen.golden)
    if request.calibration is None:
        return golden, replace(given.take(chosen.calibration), sequences=None), chosen.overlaps
    extra = samples.load(request.calibration, record.inputs, request.preprocess, "calibration", top1=False, made=made)
    samples.check_calibration(given, extra, made)
    order = split.balanced_order(extra.count_n, None)[: min(split.MAX_GIVEN_CALIBRATION_N, limit_n)]
    extra = _with_states(request, record, extra, runnable, order)
    return golden, replace(extra.take(order), sequences=None), False


def _choose(request: IngestRequest, record: ModelRecord, given: Samples, limits: tuple[int, int]) -> split.Split:
    """Choose samples at random, or whole sequences where samples are steps of such."""
    golden_limit, calibration_limit = limits
    calibration_given = request.calibration is not None
    if request.state or given.sequences is not None or states.keeps_state(record):
        as_is = record.format == "tflite"  # nothing is calibrated, so nothing is set apart for it
        chosen = split.choose_sequences(
            states.bounds(given.sequences, given.count_n),
            golden_limit=golden_limit,
            calibration_limit=calibration_limit,
            calibration_given=calibration_given or as_is,
        )
        return replace(chosen, calibration=chosen.golden[:1], overlaps=True) if as_is else chosen
    return split.choose(
        given.count_n,
        given.labels,
        golden_limit=golden_limit,
        calibration_limit=calibration_limit,
        calibration_given=calibration_given,
    )


def _with_states(
    request: IngestRequest, record: ModelRecord, given: Samples, runnable: Runnable, indices: split.Indices
) -> Samples:
    if not request.state:
        return given
    return states.fill(runnable, given, record, request.preprocess, request.state, indices)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
