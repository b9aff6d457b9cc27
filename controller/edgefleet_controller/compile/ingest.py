"""Ingest: check a model with its samples, and write the canonical samples every artifact carries."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgefleet_controller.compile import ingest_behaviour as behaviour
from edgefleet_controller.compile import onnx_check, preprocess, samples, shapes, sources_exported, split
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ingest_behaviour import Runnable
from edgefleet_controller.compile.protocol import IngestAnswer, IngestRequest, ModelRecord, SamplesRecord
from edgefleet_controller.compile.samples import Samples

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
    given = samples.load(request.samples, record.inputs, request.preprocess, "samples", top1=request.top1)
    samples.check_classes(given.labels, record.outputs)
    first = next(preprocess.batches(given.arrays, record.inputs, request.preprocess))
    fault = shapes.dynamic_fault(record.inputs, {name: each.shape for name, each in first.items()}, request.dynamic)
    if fault is not None:
        raise CompileFaultError("dynamic", fault)
    output_bytes = behaviour.try_samples(runnable, given, record, request.preprocess)
    golden, calibration, overlaps = _divide(request, record, given, output_bytes)
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
    request: IngestRequest, record: ModelRecord, given: Samples, output_bytes: int
) -> tuple[Samples, Samples, bool]:
    """Return golden samples, calibration samples, and whether they overlap."""
    limit_n = max(1, split.MAX_CALIBRATION_BYTES // max(given.sample_bytes, 1))
    chosen = split.choose(
        given.count_n,
        given.labels,
        golden_limit=split.golden_limit_n(given.sample_bytes, output_bytes),
        calibration_limit=limit_n,
        calibration_given=request.calibration is not None,
    )
    golden = given.take(chosen.golden)
    if request.calibration is None:
        return golden, given.take(chosen.calibration), chosen.overlaps
    extra = samples.load(request.calibration, record.inputs, request.preprocess, "calibration", top1=False)
    samples.check_calibration(given, extra)
    order = split.balanced_order(extra.count_n, None)[: min(split.MAX_GIVEN_CALIBRATION_N, limit_n)]
    return golden, extra.take(order), False


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
