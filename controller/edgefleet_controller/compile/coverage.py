"""Where the operators of a model file would run on a target, for a file that is not built yet."""

from __future__ import annotations

import importlib
from pathlib import Path

import onnx

from edgefleet_contract.base import clip_reason
from edgefleet_contract.coverage import Coverage, CoverageSource, OperatorCoverage, Placed
from edgefleet_contract.variant import Variant, parse_variant
from edgefleet_controller.compile.fault import CompileFaultError, OperatorsFaultError
from edgefleet_controller.compile.graph.onnx_graph import all_nodes
from edgefleet_controller.compile.ingest import onnx_check
from edgefleet_controller.compile.ingest.random_samples import draw
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.protocol import BuildRequest, CoverageRequest, RandomSamplesRequest
from edgefleet_controller.compile.registry import target_of
from edgefleet_controller.compile.sources.formats import TFLITE_MARK


def coverage(request: CoverageRequest) -> Coverage:
    """Return where each operator would run, in graph order, and who says so.

    An `.onnx` asked about a TFLite variant is converted first, on samples drawn at random: the operators listed are
    then those of the converted file. Where known operators keep a model from being built at all, the operators listed
    are those of the source, and these are unsupported.

    Raises:
        CompileFaultError: the file is no model of a kind this target takes, or nothing here knows the target.
    """
    path, variant = Path(request.model), parse_variant(request.variant)
    try:
        return _asked(path, variant, Path(request.work_dir))
    except OperatorsFaultError as error:
        return _refused(path, variant, error)


def _asked(path: Path, variant: Variant, work_dir: Path) -> Coverage:
    is_tflite = path.read_bytes()[4:8] == TFLITE_MARK
    if is_tflite and variant.runtime != "tflite":
        raise CompileFaultError("source", f"is a TFLite file; {variant} takes ONNX")
    if variant.runtime == "ort":
        return _ort(path, variant)
    if is_tflite:
        return _tflite(path, variant)
    if variant.runtime == "tflite":
        return _converted(path, variant, work_dir)
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
    _draw(path, variant, samples)
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


def _draw(path: Path, variant: Variant, samples: Path) -> None:
    try:
        draw(RandomSamplesRequest(source=str(path), out=str(samples)))
    except CompileFaultError as error:
        if error.what != "samples":
            raise
        build = f"fleet build MODEL --samples FILE --variant {variant} --out DIR"
        step = f"give real ones: {build}, then: fleet explain DIR/.../model.tflite --variant {variant}"
        raise CompileFaultError("samples", error.message, next_step=step) from error


def _refused(path: Path, variant: Variant, error: OperatorsFaultError) -> Coverage:
    """List a source that is not built because of some of its operators; where the others would run is not known."""
    nodes = onnx_check.nodes_of(path)
    named = {(each.type, each.name): each.why for each in error.operators}
    present = {(each.op_type, _name(each)) for node in nodes for each in _within(node)}
    # A converter may name nodes anew: then every node of that type is meant.
    by_type = {kind: why for (kind, name), why in named.items() if (kind, name) not in present}
    operators = []
    for index, node in enumerate(nodes):
        whys = (named.get((n.op_type, _name(n))) or by_type.get(n.op_type) for n in _within(node))
        why = next((each for each in whys if each is not None), None)
        placed = Placed.CPU if why is None else Placed.UNSUPPORTED
        reason = why or f"the model is not built for {variant.target} as it is, so where this would run is not known"
        rewrite = None if why is None or error.next_step is None else error.next_step[:256]
        listed = {"placed": placed, "reason": clip_reason(reason), "rewrite": rewrite}
        operators.append(_on_cpu(index, node).model_copy(update=listed))
    if all(each.placed is Placed.CPU for each in operators):
        raise error  # what is refused came up on the way: no node of the source is known to be it
    source, version = error.told_by
    return Coverage(target=variant.target, source=source, source_version=version, operators=tuple(operators))


def _within(node: onnx.NodeProto) -> tuple[onnx.NodeProto, ...]:
    """Return a node and those of the graphs it holds."""
    return tuple(all_nodes(onnx.GraphProto(node=[node])))


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
    return OperatorCoverage(index=index, name=_name(node)[:512], type=_typed(node)[:128], placed=Placed.CPU)


def _name(node: onnx.NodeProto) -> str:
    return node.name or next((output for output in node.output if output), "")


def _typed(node: onnx.NodeProto) -> str:
    return f"{node.domain}:{node.op_type}" if node.domain else node.op_type
