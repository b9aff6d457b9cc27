"""Parity of two model files on samples, or of two files of outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgefleet_agent.feeding import without
from edgefleet_agent.match import Match, match_tensors
from edgefleet_agent.model_file import bare_variant, claimed_precision, is_tflite
from edgefleet_agent.preprocess import InputMismatchError
from edgefleet_agent.runtimes.base import Array, Session
from edgefleet_agent.runtimes.float_edges import with_float_edges
from edgefleet_agent.runtimes.mapped import mapped, to_source
from edgefleet_agent.samples import Samples, SamplesError, load_arrays, load_samples
from edgefleet_agent.tasks import in_samples_order, open_model, outputs_of, samples_for
from edgefleet_contract.accept import MetricAccept
from edgefleet_contract.artifact import ClaimedPrecision, TensorSpec
from edgefleet_contract.base import clip_reason
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import Bisection, BisectStatus, ParityCheck, ParityResult, ParityVerdict, Task
from edgefleet_contract.job import CompareAnswer, CompareJob

if TYPE_CHECKING:
    from edgefleet_agent.qualify.parity.claim import NoiseModel

_ZIP_MAGIC = b"PK\x03\x04"
_LABELLED_TASKS = {None, Task.CLASSIFICATION}

_MAX_ASSUMED = 64


@dataclass(frozen=True)
class Pair:
    """Outputs of the reference and of the candidate, the true answers, and what was assumed to get them."""

    reference: dict[str, Array]
    candidate: dict[str, Array]
    labels: Array | None
    assumed: tuple[str, ...] = ()
    noise: NoiseModel | None = None
    """What rounding alone does to the reference, where that is known."""


def compare(job: CompareJob) -> CompareAnswer:
    """Compare and judge.

    Raises:
        UserInputError: files are missing, of two kinds, or do not fit.
    """
    from edgefleet_agent.qualify.parity.compare import infer_task

    reference, candidate = Path(job.reference), Path(job.candidate)
    kinds = {_is_npz(reference), _is_npz(candidate)}
    if len(kinds) != 1:
        msg = f"{reference.name} and {candidate.name} are of two kinds; compare two models or two .npz of outputs"
        raise UserInputError(msg)
    of_outputs = kinds == {True}
    if of_outputs:
        pair = _load_outputs(job)
        precision, assumed = _claim_of_outputs(job, pair)
    else:
        precision, assumed = job.precision or claimed_precision(candidate), ()
        pair = _run_models(job, precision)
    task = job.task or infer_task(pair.reference)
    parity = _judge(job, pair, precision, task)
    if of_outputs and job.precision is None:
        precision, assumed, parity = _second_chance(job, pair, (precision, assumed, parity), task)
    return CompareAnswer(
        verdict=parity.verdict,
        failed_check=parity.failed_check,
        reason=parity.reason,
        precision=precision,
        task=task,
        parity=parity,
        assumed=tuple(clip_reason(text) for text in (assumed + pair.assumed)[:_MAX_ASSUMED]),
        bisection=_bisect(job, precision, of_outputs=of_outputs) if job.bisect else None,
    )


def _judge(job: CompareJob, pair: Pair, precision: ClaimedPrecision, task: Task | None) -> ParityResult:
    from edgefleet_agent.qualify.parity.compare import compare_outputs

    return compare_outputs(
        pair.reference,
        pair.candidate,
        precision=precision,
        task=task,
        same_artifact=job.same_artifact,
        labels=pair.labels,
        metric=job.metric or (MetricAccept() if pair.labels is not None and task in _LABELLED_TASKS else None),
        metric_declared=job.metric is not None,
        limits=job.limits,
        noise=pair.noise,
    )


_Judged = tuple[ClaimedPrecision, tuple[str, ...], ParityResult]


def _second_chance(job: CompareJob, pair: Pair, judged: _Judged, task: Task | None) -> _Judged:
    """Judge outputs as an int4's where nobody said what they claim, and only that explains how they lean.

    Without the lean of the whole they must pass as an int8's, so that nothing else is excused.
    """
    from edgefleet_agent.qualify.parity.shown import may_be_int4, shown_precision, straightened

    precision, _, parity = judged
    _, shown_db = shown_precision(pair.reference, pair.candidate)
    if not may_be_int4(shown_db, parity.failed_check, pair.reference, pair.candidate):
        return judged
    if parity.failed_check is not ParityCheck.OUTLIER:
        straight = replace(pair, candidate=straightened(pair.reference, pair.candidate))
        if _judge(job, straight, precision, task).verdict is ParityVerdict.FAIL:
            return judged
    again = _judge(job, pair, "int4", task)
    if again.verdict is ParityVerdict.FAIL:
        return judged
    words = f"held to int4: noise of {shown_db:.0f} dB leans so; say what the candidate claims with --precision"
    return "int4", (words,), again


def _claim_of_outputs(job: CompareJob, pair: Pair) -> tuple[ClaimedPrecision, tuple[str, ...]]:
    """Return what outputs are held to, and how that was told where nobody said it."""
    from edgefleet_agent.qualify.parity.shown import shown_precision

    if job.precision is not None:
        return job.precision, ()
    precision, shown_db = shown_precision(pair.reference, pair.candidate)
    why = "nothing tells it" if shown_db is None else f"17 samples of 20 are within {min(shown_db, 200.0):.0f} dB"
    return precision, (f"held to {precision}: {why}; say what the candidate claims with --precision",)


def _bisect(job: CompareJob, precision: str, *, of_outputs: bool) -> Bisection:
    """Look for the operator at fault, whatever the verdict: a fault may hide inside the claim's tolerance."""
    from edgefleet_agent.qualify.bisect.search import bisect

    if of_outputs or job.samples is None:
        reason = "two files of outputs have no operators; give the two ONNX models and --samples"
        return Bisection(status=BisectStatus.IMPOSSIBLE, reason=reason)
    reference, candidate = Path(job.reference), Path(job.candidate)
    foreign = [path.name for path in (reference, candidate) if is_tflite(path)]
    if foreign:
        reason = f"{foreign[0]} is a TFLite file; bisecting lays the operators of two ONNX files beside each other"
        return Bisection(status=BisectStatus.IMPOSSIBLE, reason=reason)
    samples = _samples(job)
    out = Path(job.out) if job.out else None
    session = open_model(reference, bare_variant(reference))
    samples = samples_for(session, samples, job)
    session.close()
    return bisect(reference, candidate, samples, job.preprocess, precision=precision, state=job.state, out=out)


def _samples(job: CompareJob) -> Samples:
    return load_samples(Path(job.samples or ""), labels_key=job.labels_key, state=job.state.values())


def _is_npz(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise UserInputError(msg) from error


def _load_outputs(job: CompareJob) -> Pair:
    """Return both files' outputs; labels may stand in either, or in the samples both were run on."""
    left, right = load_arrays(Path(job.reference)), load_arrays(Path(job.candidate))
    sides = [left, right] if job.samples is None else [left, right, load_arrays(Path(job.samples))]
    labels = [found for side in sides if (found := side.pop(job.labels_key, None)) is not None]
    if not left or not right:
        msg = f"a file holds no outputs beside {job.labels_key!r}"
        raise SamplesError(msg)
    _check_labels(job.labels_key, labels, left)
    return Pair(left, right, labels[0] if labels else None)


def _check_labels(key: str, labels: list[Array], outputs: Mapping[str, Array]) -> None:
    """Check that labels, where there are any, number as many as the samples. Raises SamplesError."""
    n = max((len(value) for value in outputs.values() if value.ndim), default=0)
    for found in labels:
        if found.ndim == 0 or len(found) != n:
            msg = f"labels {key!r} have shape {found.shape}; {n} samples need {n} labels"
            raise SamplesError(msg)


def _run_models(job: CompareJob, precision: ClaimedPrecision) -> Pair:
    if job.samples is None:
        msg = "comparing two models needs real samples to run them on"
        raise UserInputError(msg, next_step="give --samples FILE, an .npz with one array per model input")
    given = _samples(job)
    reference, candidate = Path(job.reference), Path(job.candidate)
    source, other = (
        open_model(reference, bare_variant(reference)),
        open_model(candidate, bare_variant(candidate, precision)),
    )
    samples = samples_for(source, given, job)
    if is_tflite(reference):
        source = in_samples_order(source, samples, job.preprocess)
    left = outputs_of(source, samples, job.preprocess, job.state)
    if is_tflite(reference) == is_tflite(candidate):
        theirs = without(samples, job.constants.keys() - {spec.name for spec in other.inputs})
        other = in_samples_order(other, theirs, job.preprocess) if is_tflite(candidate) else other
        right = outputs_of(other, theirs, job.preprocess, job.state)
        from edgefleet_agent.qualify.parity.rounding import rounding_noise

        moved = (source, samples, job.preprocess, left, job.state)
        return Pair(left, right, samples.labels, noise=rounding_noise(*moved) if precision == "fp32" else None)
    return _run_converted(job, source, other, samples, left)


def _run_converted(job: CompareJob, source: Session, other: Session, samples: Samples, left: dict[str, Array]) -> Pair:
    # Formats differ, so one was made from the other or both from a third: names and axes may have changed.
    other, converted = with_float_edges(
        other, inputs=_all_float(source.inputs), outputs=all(value.dtype.kind == "f" for value in left.values())
    )
    # A file with fewer inputs than the source has its constants in it.
    bound = job.constants.keys() if len(other.inputs) < len(source.inputs) else frozenset[str]()
    inputs = match_tensors([spec for spec in source.inputs if spec.name not in bound], other.inputs, "input")
    # What is fed back must be known by name before the first inference.
    outputs = match_tensors(source.outputs, other.outputs, "output") if job.state else Match({}, ())
    named = mapped(other, inputs.maps, outputs.maps)
    right, assumed = _as_reference(left, outputs_of(named, without(samples, bound), job.preprocess, job.state))
    return Pair(left, right, samples.labels, converted + inputs.assumed + outputs.assumed + assumed)


def _all_float(specs: Sequence[TensorSpec]) -> bool:
    return all(spec.dtype.startswith("float") for spec in specs)


def _as_reference(left: dict[str, Array], right: dict[str, Array]) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Return the candidate's outputs under the reference's names and axes, told from the shapes that came.

    Outputs that do not fit are left as they are: parity then says by which check.
    """
    try:
        match = match_tensors(_specs(left), _specs(right), "output")
    except InputMismatchError:
        return right, ()
    return {
        name: to_source(right[match.maps[name].name], match.maps[name]) if name in match.maps else right[name]
        for name in left
    }, match.assumed


def _specs(outputs: Mapping[str, Array]) -> list[TensorSpec]:
    return [TensorSpec.model_validate({"name": n, "dtype": v.dtype.name, "shape": v.shape}) for n, v in outputs.items()]
