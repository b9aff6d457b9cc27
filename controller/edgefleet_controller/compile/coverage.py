"""Where the operators of a model file would run on a target, for a file that is not built yet."""

from __future__ import annotations

import importlib
from pathlib import Path

import onnx

from edgefleet_contract.coverage import Coverage, CoverageSource, OperatorCoverage, Placed
from edgefleet_contract.variant import Variant, parse_variant
from edgefleet_controller.compile import onnx_check, session
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.protocol import BuildRequest, CoverageRequest, RandomSamplesRequest
from edgefleet_controller.compile.random_samples import draw
from edgefleet_controller.compile.registry import target_of
from edgefleet_controller.compile.sources import TFLITE_MARK


def coverage(request: CoverageRequest) -> Coverage:
    """Return where each operator would run, in graph order, and who says so.

    An `.onnx` asked about a TFLite variant is converted first, on samples drawn at random: the operators listed are
    then those of the converted file.

    Raises:
        CompileFaultError: the file is no model of a kind this target takes, or nothing here knows the target.
    """
    path, variant = Path(request.model), parse_variant(request.variant)
    is_tflite = path.read_bytes()[4:8] == TFLITE_MARK
    if is_tflite and variant.runtime != "tflite":
        raise CompileFaultError("source", f"is a TFLite file; {variant} takes ONNX")
    if variant.runtime == "ort":
        return _ort(path, variant)
    if is_tflite:
        return _tflite(path, variant)
    if variant.runtime == "tflite":
        return _converted(path, variant, Path(request.work_dir))
    found: Coverage = importlib.import_module(target_of(variant).module).coverage_of(path, variant.target)
    return found


def _tflite(path: Path, variant: Variant) -> Coverage:
    from edgefleet_controller.compile.tflite import given
    from edgefleet_controller.compile.tflite.coverage import coverage_of

    given.read(path.read_bytes())
    found = coverage_of(path, variant.target)
    if found is None:
        raise CompileFaultError(
            "variant",
            f"{variant.target}: no table says which operators it takes, only the engine itself does",
            family="unsupported",
            next_step="qualify it on a device (fleet apply): the evidence holds where each operator ran",
        )
    return found


def _converted(path: Path, variant: Variant, work_dir: Path) -> Coverage:
    target = target_of(variant)
    samples, out, scratch = work_dir / "random.npz", work_dir / f"model{target.suffix}", work_dir / "scratch"
    scratch.mkdir()
    draw(RandomSamplesRequest(source=str(path), out=str(samples)))
    module = importlib.import_module(target.module)
    made = module.build(
        BuildRequest(
            model="model",
            variant=str(variant),
            source=str(path),
            samples=str(samples),
            calibration=str(samples),
            out=str(out),
            work_dir=str(scratch),
        )
    )
    told: Coverage | None = made.coverage
    return told or _tflite(out, variant)


def _ort(path: Path, variant: Variant) -> Coverage:
    """Ask ONNX Runtime here, which has its CPU kernels; what another provider takes, only its device tells."""
    if variant.engine != "cpu":
        raise CompileFaultError(
            "variant",
            f"{variant.target}: which operators it takes, ONNX Runtime tells only where that provider is",
            family="unsupported",
            next_step="qualify it on a device (fleet apply): the evidence holds where each operator ran",
        )
    model = onnx_check.load(path)
    session.open_source(path)
    return Coverage(
        target=variant.target,
        source=CoverageSource.RUNTIME,
        source_version=f"onnxruntime {session.VERSION}",
        operators=tuple(_on_cpu(index, node) for index, node in enumerate(model.graph.node)),
    )


def _on_cpu(index: int, node: onnx.NodeProto) -> OperatorCoverage:
    name = node.name or next((output for output in node.output if output), "")
    return OperatorCoverage(index=index, name=name[:512], type=_typed(node)[:128], placed=Placed.CPU)


def _typed(node: onnx.NodeProto) -> str:
    return f"{node.domain}:{node.op_type}" if node.domain else node.op_type
