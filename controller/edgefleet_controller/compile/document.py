"""An artifact's document: what a build came to, in the words of the contract. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from edgefleet_contract.artifact import (
    ArtifactDocument,
    ArtifactFile,
    ClaimedPrecision,
    CoverageSummary,
    EvidenceLevel,
    HostCheck,
    IoContract,
    Material,
    Provenance,
    TensorSpec,
)
from edgefleet_contract.base import clip_reason
from edgefleet_contract.coverage import Coverage, Placed
from edgefleet_contract.evidence import ParityVerdict
from edgefleet_contract.job import CompareAnswer
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.compile.key import tool_versions
from edgefleet_controller.compile.protocol import BuildAnswer
from edgefleet_controller.compile.records import CheckedModel

_COARSENESS = ("fp32", "fp16", "int16x8", "bf16", "int8-dynamic", "int8", "int4")
"""Precisions, the finest first."""
COVERAGE_FILE = "coverage.json"
DRAWN = "the samples were drawn at random, which proves little"


def make_document(
    checked: CheckedModel,
    variant: str,
    *,
    key: str,
    made: BuildAnswer,
    files: Sequence[ArtifactFile],
    host_check: HostCheck,
) -> ArtifactDocument:
    """Return the document of a build.

    Args:
        checked: the model and its samples.
        variant: what was built.
        key: the build key.
        made: what the compile step answered.
        files: the artifact's files.
        host_check: how it compared with its source here.
    """
    options = dict(made.options)
    calibrated = "calibration" in options
    if calibrated:
        options["calibration_overlaps_samples"] = checked.samples_record.calibration_overlaps
    return ArtifactDocument(
        model=checked.name,
        variant=variant,
        source=checked.source,
        samples_level=checked.samples_level,
        claim=claim_beyond(checked, variant),
        io=IoContract(
            inputs=tuple(_with_layout(spec, checked) for spec in made.inputs),
            outputs=made.outputs,
            preprocess=checked.preprocess,
            input_map=made.input_map,
            output_map=made.output_map,
            state=checked.state,
            bound=made.bound,
        ),
        files=tuple(files),
        build_key=key,
        options=options,
        provider_options=made.provider_options,
        toolchain=dict(tool_versions()) | (checked.origin.tools if checked.origin else {}),
        min_runtime=made.min_runtime,
        calibration=checked.calibration if calibrated else None,
        rewrites=made.rewrites,
        host_check=host_check,
        coverage=None if made.coverage is None else summarise(made.coverage),
        provenance=_provenance(checked, calibrated=calibrated),
    )


def claim_beyond(checked: CheckedModel, variant: str) -> ClaimedPrecision | None:
    """Return what a variant's outputs are held to where the source computes coarser than it, else None.

    A source that rounds to 8 bits differs from itself by single steps wherever sums are added in another order; no
    artifact of it can be nearer, whatever precision it is computed in.
    """
    source = checked.model.rounds_to
    finer = source is not None and _COARSENESS.index(parse_variant(variant).precision) < _COARSENESS.index(source)
    return source if finer else None


def not_run(variant: str, made: BuildAnswer) -> HostCheck:
    """Return the check of an artifact that nothing on the builder can run."""
    return HostCheck(
        level=made.level or EvidenceLevel.BUILT_NOT_EXECUTED,
        reason=f"the builder has nothing that runs {variant}; the device proves it",
    )


def ran(checked: CheckedModel, variant: str, ran_as: str, answer: CompareAnswer) -> HostCheck:
    """Return the check of a model file that ran on the builder."""
    metric = answer.parity.metric
    random, failed = checked.samples_level == "random", answer.verdict is ParityVerdict.FAIL
    return HostCheck(
        level=EvidenceLevel.EXECUTED_ON_DEVICE if ran_as == variant else EvidenceLevel.EMULATED,
        ran_as=ran_as,
        verdict="fail" if failed else "weak" if random or answer.verdict is ParityVerdict.WEAK else "pass",
        n_samples=answer.parity.n_samples,
        agreement=answer.parity.agreement,
        worst_sqnr_db=answer.parity.worst_sqnr_db,
        metric_reference=metric.reference if metric else None,
        metric_measured=metric.measured if metric else None,
        reason=DRAWN if random and not failed else answer.reason or _compared_with(checked),
    )


def _compared_with(checked: CheckedModel) -> str | None:
    if checked.origin is None:
        return None
    return f"compared with {checked.origin.framework} itself, from which its ONNX source was exported"


def self_check(
    checked: CheckedModel, variant: str, ran_as: str, answer: CompareAnswer | None, problem: str | None
) -> HostCheck:
    """Return the check of an artifact that is its own source.

    Args:
        checked: the model and its samples.
        variant: what was built.
        ran_as: whose outputs were compared with the reference's.
        answer: how they compared; None where nothing else could run it.
        problem: why nothing else could, where something should have.
    """
    drawn = " on samples drawn at random" if checked.samples_level == "random" else ""
    kind = f"the file is its own source, so this says nothing of its answers: {checked.model.reference} ran it{drawn}"
    if answer is None:
        why = f"{kind}; {problem}" if problem else f"{kind}, and no other kernels on the builder can"
        return HostCheck(
            level=EvidenceLevel.EXECUTED_ON_DEVICE if checked.model.reference == variant else EvidenceLevel.EMULATED,
            ran_as=ran_as,
            verdict="weak" if problem or checked.samples_level == "random" else "pass",
            n_samples=checked.samples_record.golden_n,
            agreement=1.0,
            reason=clip_reason(why),
        )
    metric, failed = answer.parity.metric, answer.verdict is ParityVerdict.FAIL
    said = f"{kind}, and {ran_as} {'disagrees: ' + (answer.reason or 'no reason given') if failed else 'agrees'}"
    weak = failed or answer.verdict is ParityVerdict.WEAK or checked.samples_level == "random"
    return HostCheck(
        level=EvidenceLevel.EXECUTED_ON_DEVICE if checked.model.reference == variant else EvidenceLevel.EMULATED,
        ran_as=ran_as,
        verdict="weak" if weak else "pass",
        n_samples=answer.parity.n_samples,
        agreement=answer.parity.agreement,
        worst_sqnr_db=answer.parity.worst_sqnr_db,
        metric_reference=metric.reference if metric else None,
        metric_measured=metric.measured if metric else None,
        reason=clip_reason(said),
    )


def summarise(coverage: Coverage) -> CoverageSummary:
    """Return a coverage report in numbers."""
    counts, first = coverage.counts, coverage.first_blocking
    blocking = (
        None if first is None else f"{first.index} {first.type} {first.name}: {first.reason or first.placed.value}"
    )
    return CoverageSummary(
        source=coverage.source,
        source_version=coverage.source_version,
        accelerator_n=counts[Placed.ACCELERATOR.value],
        cpu_n=counts[Placed.CPU.value],
        unsupported_n=counts[Placed.UNSUPPORTED.value],
        first_blocking=None if blocking is None else blocking[:1024],
    )


def _provenance(checked: CheckedModel, *, calibrated: bool) -> Provenance:
    materials = [Material(name="source", digest=checked.source), Material(name="samples", digest=checked.samples)]
    if checked.origin is not None:
        materials.insert(0, Material(name="exported from", digest=checked.origin.digest))
    if calibrated:
        materials.append(Material(name="calibration", digest=checked.calibration))
    return Provenance(materials=tuple(materials), license=checked.license)


def _with_layout(spec: TensorSpec, checked: CheckedModel) -> TensorSpec:
    transform = checked.preprocess.get(spec.name)
    return spec.model_copy(update={"layout": transform.layout}) if transform is not None else spec
