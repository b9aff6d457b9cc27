"""Ingest: check a model with its samples, and write the canonical samples every artifact carries."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from edgefleet_controller.compile import ingest_behaviour as behaviour
from edgefleet_controller.compile import onnx_check, preprocess, samples, shapes, split
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ingest_behaviour import Runnable
from edgefleet_controller.compile.key import torch_versions
from edgefleet_controller.compile.protocol import IngestAnswer, IngestRequest, ModelRecord, Origin, SamplesRecord
from edgefleet_controller.compile.samples import Samples

if TYPE_CHECKING:
    from edgefleet_controller.compile.sources_torch import TorchSource

SAMPLES_FILE = "samples.npz"
CALIBRATION_FILE = "calibration.npz"
EXPORTED_FILE = "exported.onnx"
REFERENCE_FILE = "reference.npz"


def ingest(request: IngestRequest) -> IngestAnswer:
    """Check everything and write `samples.npz` and `calibration.npz` into the request's folder.

    Raises:
        CompileFaultError: the model or its samples are not usable; nothing of worth was written.
    """
    given_source = Path(request.source)
    torch = _open_torch(request, given_source)
    source = Path(request.out_dir, EXPORTED_FILE) if torch is not None else given_source
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
    origin = None if torch is None else _torch_reference(torch, request, record, golden)
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


def _open_torch(request: IngestRequest, source: Path) -> TorchSource | None:
    """Export a source of PyTorch's to ONNX; None: it is none."""
    if source.suffix not in {".pt2", ".py"}:
        return None
    from edgefleet_controller.compile import sources_torch

    if source.suffix == ".pt2":
        torch = sources_torch.open_program(source)
    else:
        inputs = sources_torch.example_inputs(request.samples, request.preprocess)
        torch = sources_torch.open_module(source, request.function or "", inputs)
    sources_torch.export(torch, Path(request.out_dir, EXPORTED_FILE))
    return torch


def _torch_reference(torch: TorchSource, request: IngestRequest, record: ModelRecord, golden: Samples) -> Origin:
    """Write PyTorch's own outputs on the golden samples; try the first of them as a source's are tried."""
    from edgefleet_controller.compile import sources_torch

    names = tuple(spec.name for spec in record.outputs)
    runner = sources_torch.Runner(torch, names)
    runnable = Runnable(lambda: sources_torch.Runner(torch, names), (RuntimeError, ValueError, TypeError))
    behaviour.try_samples(runnable, golden, record, request.preprocess)
    feeds = list(preprocess.batches(golden.arrays, record.inputs, request.preprocess))
    sources_torch.reference_outputs(runner, feeds, Path(request.out_dir, REFERENCE_FILE))
    return Origin(digest=_digest(Path(request.source)), tools=dict(torch_versions()))


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
