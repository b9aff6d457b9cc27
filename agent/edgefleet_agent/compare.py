"""Parity of two model files on samples, or of two files of outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgefleet_agent.onnx_scan import claimed_precision
from edgefleet_agent.runtimes.base import Array
from edgefleet_agent.samples import SamplesError, load_arrays, load_samples
from edgefleet_agent.tasks import open_model, outputs_of
from edgefleet_contract.accept import MetricAccept
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import Task
from edgefleet_contract.job import ClaimedPrecision, CompareAnswer, CompareJob

OUTPUTS_PRECISION: ClaimedPrecision = "int8"
"""What two files of outputs are held to when nobody says what they claim: the loosest usual claim. Structure in the
error (dead classes, gains, shifts, NaN) fails under any claim."""

_ZIP_MAGIC = b"PK\x03\x04"
_LABELLED_TASKS = {None, Task.CLASSIFICATION}

Pair = tuple[dict[str, Array], dict[str, Array], Array | None]
"""Reference outputs, candidate outputs, labels."""


def compare(job: CompareJob) -> CompareAnswer:
    """Compare and judge.

    Raises:
        UserInputError: files are missing, of two kinds, or do not fit.
    """
    from edgefleet_agent.qualify.parity import compare_outputs, infer_task

    reference, candidate = Path(job.reference), Path(job.candidate)
    kinds = {_is_npz(reference), _is_npz(candidate)}
    if len(kinds) != 1:
        msg = f"{reference.name} and {candidate.name} are of two kinds; compare two models or two .npz of outputs"
        raise UserInputError(msg)
    of_outputs = kinds == {True}
    precision = job.precision or (OUTPUTS_PRECISION if of_outputs else claimed_precision(candidate))
    left, right, labels = _load_outputs(job) if of_outputs else _run_models(job, precision)
    task = job.task or infer_task(left)
    parity = compare_outputs(
        left,
        right,
        precision=precision,
        task=task,
        same_artifact=job.same_artifact,
        labels=labels,
        metric=MetricAccept() if labels is not None and task in _LABELLED_TASKS else None,
    )
    return CompareAnswer(
        verdict=parity.verdict,
        failed_check=parity.failed_check,
        reason=parity.reason,
        precision=precision,
        task=task,
        parity=parity,
    )


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
    return left, right, labels[0] if labels else None


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
    samples = load_samples(Path(job.samples), labels_key=job.labels_key)
    left = outputs_of(open_model(Path(job.reference), "ort/cpu/fp32"), samples, job.preprocess)
    right = outputs_of(open_model(Path(job.candidate), f"ort/cpu/{precision}"), samples, job.preprocess)
    return left, right, samples.labels
