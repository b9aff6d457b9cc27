"""Parity: do a candidate's outputs mean what the reference's mean?

Two questions, never mixed. Is an artifact of a precision faithful to its fp32 source? Does this device compute an
artifact as its builder did (`same_artifact`)? No fixed dB gate answers either: healthy int8 falls to 0 dB in a sample
while a dead detector keeps 99 dB. So checks are asked in the order of `ParityCheck` and the first that fails names
the failure: form, finiteness, structure in the error judged against the error's own noise, its size against the
claim, decisions by task with a margin, the task's metric, the manifest's limits. Chance must not fail an artifact:
what few or random samples cannot prove is marked weak.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from edgefleet_agent.qualify.parity.claim import NoiseModel, asked_claim, claim_of, noise_model, tolerance_db
from edgefleet_agent.qualify.parity.decision import infer_task
from edgefleet_agent.qualify.parity.form import check_names
from edgefleet_agent.qualify.parity.metric import MetricFinding, MetricUnmeasuredError, judge_metric, top1_metric
from edgefleet_agent.qualify.parity.output import OutputVerdict, Question, judge_output
from edgefleet_agent.qualify.parity.tensor import Array, Finding
from edgefleet_contract.accept import MetricAccept, ParityAccept
from edgefleet_contract.base import clip_reason
from edgefleet_contract.evidence import OutputParity, ParityCheck, ParityResult, ParityVerdict, Task

__all__ = ["NoiseModel", "compare_outputs", "infer_task", "noise_model", "top1_metric"]

_NO_LIMITS = ParityAccept()
WEAK_SAMPLES_N = 8
"""With fewer samples no statistic of the error is worth its name."""
_MAX_OUTPUTS_N = 256
_NO_DECISIONS = (
    "the manifest asks for an agreement of {:g}, and these outputs hold no decisions to agree on (a regression, boxes "
    "without scores, or a task not given); give the task, or limit min_sqnr_db instead"
)
"""What cannot be shown to hold misses a limit, as everywhere: it is never skipped."""
_UNCHECKED = "the metric could not be computed, so its limit is missed: {}"
_LAST_OF_FORM = ParityCheck.FINITE
_ORDER = {check: place for place, check in enumerate(ParityCheck)}


def compare_outputs(
    reference: Mapping[str, Array],
    candidate: Mapping[str, Array],
    *,
    precision: str,
    task: Task | None,
    same_artifact: bool = False,
    labels: Array | None = None,
    metric: MetricAccept | None = None,
    metric_declared: bool = True,
    limits: ParityAccept = _NO_LIMITS,
    samples_level: Literal["real", "random"] = "real",
    noise: NoiseModel | None = None,
) -> ParityResult:
    """Compare outputs by name; the first axis of every array is the sample.

    Args:
        reference: outputs of the fp32 source, or with `same_artifact` of the same file on the builder.
        candidate: outputs to be judged.
        precision: what the candidate claims: fp32, fp16, bf16, int8, int8-dynamic, int16x8 or int4.
        task: what the outputs mean; None guesses classification where that is safe.
        same_artifact: both sides ran one file, so only arithmetic may differ.
        labels: one integer class a sample, for the metric.
        metric: how far the metric may fall; None with labels measures top-1 without a limit, where the task is
            classification or not given.
        metric_declared: somebody asked for `metric`, so that it misses where it cannot be computed; else weak.
        limits: the manifest's own limits.
        samples_level: whether inputs were real; random inputs prove nothing and make the result weak.
        noise: what honest outputs of this claim reach; narrows the tolerance.

    Raises:
        UserInputError: the precision is unknown, or labels are not one integer a sample.
    """
    claim = asked_claim(claim_of(precision, same_artifact=same_artifact), limits)
    noise = noise if limits.tolerance_db is None else None
    names = check_names(reference, candidate)
    if names is not None:
        return _result((), names, n_samples=_samples_n(reference))
    question = Question(claim, task or infer_task(reference), certain=task is not None)
    verdicts = [
        judge_output(name, reference[name], candidate[name], question, tolerance_db(claim, noise, name))
        for name in reference
    ]
    if not (metric_declared and metric is not None) and task not in (None, Task.CLASSIFICATION):
        labels, metric = None, None
    measured, unmeasured = _measure(reference, candidate, labels, metric, verdicts)
    findings = [*_named(verdicts), *_of_metric(measured), *_of_limits(verdicts, limits)]
    if unmeasured is not None and metric_declared:
        findings.append(Finding(ParityCheck.METRIC, _UNCHECKED.format(unmeasured)))
    first = min(findings, key=lambda found: _ORDER[found.check], default=None)
    weak = _weaknesses(verdicts, reference, samples_level)
    if unmeasured is not None and not metric_declared:
        weak.append(f"the metric could not be computed: {unmeasured}")
    return _result(verdicts, first, n_samples=_samples_n(reference), measured=measured, weak=weak)


def _measure(
    reference: Mapping[str, Array],
    candidate: Mapping[str, Array],
    labels: Array | None,
    metric: MetricAccept | None,
    verdicts: Sequence[OutputVerdict],
) -> tuple[MetricFinding | None, str | None]:
    """Return the metric, or why one that was asked for could not be computed. Malformed outputs have none."""
    if any(found.finding is not None and _ORDER[found.finding.check] <= _ORDER[_LAST_OF_FORM] for found in verdicts):
        return None, None
    if metric is None and labels is None:
        return None, None
    try:
        return judge_metric(reference, candidate, labels, metric or MetricAccept(max_drop=1.0)), None
    except MetricUnmeasuredError as error:
        return None, None if metric is None else str(error)


def _named(verdicts: Sequence[OutputVerdict]) -> Iterator[Finding]:
    for found in verdicts:
        if found.finding is not None:
            yield Finding(found.finding.check, f"output {found.parity.name!r}: {found.finding.reason}")


def _of_metric(measured: MetricFinding | None) -> Iterator[Finding]:
    if measured is not None and measured.finding is not None:
        yield measured.finding


def _of_limits(verdicts: Sequence[OutputVerdict], limits: ParityAccept) -> Iterator[Finding]:
    agreement, worst_db = _least(verdicts, "agreement"), _least(verdicts, "worst_sqnr_db")
    if limits.min_agreement is not None and agreement is None and verdicts:
        yield Finding(ParityCheck.LIMIT, _NO_DECISIONS.format(limits.min_agreement))
    if limits.min_agreement is not None and agreement is not None and agreement < limits.min_agreement:
        yield Finding(
            ParityCheck.LIMIT, f"agreement is {agreement:.4f}; the manifest asks for {limits.min_agreement:g}"
        )
    if limits.min_sqnr_db is not None and worst_db is not None and worst_db < limits.min_sqnr_db:
        yield Finding(
            ParityCheck.LIMIT, f"the worst sample has {worst_db:.1f} dB; the manifest asks for {limits.min_sqnr_db:g}"
        )


def _least(verdicts: Sequence[OutputVerdict], figure: str) -> float | None:
    return min((value for found in verdicts if (value := getattr(found.parity, figure)) is not None), default=None)


def _weaknesses(verdicts: Sequence[OutputVerdict], reference: Mapping[str, Array], samples_level: str) -> list[str]:
    weak = [reason for found in verdicts for reason in found.weak]
    samples_n = _samples_n(reference)
    if samples_level == "random":
        weak.append("the samples are random: they prove nothing about real inputs")
    if samples_n < WEAK_SAMPLES_N:
        noun = "sample" if samples_n == 1 else "samples"
        weak.append(f"only {samples_n} {noun}; {WEAK_SAMPLES_N} or more are needed for statistics")
    return weak


def _samples_n(outputs: Mapping[str, Array]) -> int:
    return max((len(array) if array.ndim else 1 for array in outputs.values()), default=0)


def _result(
    verdicts: Sequence[OutputVerdict],
    finding: Finding | None,
    *,
    n_samples: int,
    measured: MetricFinding | None = None,
    weak: Sequence[str] = (),
) -> ParityResult:
    verdict = ParityVerdict.FAIL if finding else (ParityVerdict.WEAK if weak else ParityVerdict.PASS)
    reason = finding.reason if finding else "; ".join(weak)
    outputs: tuple[OutputParity, ...] = tuple(found.parity for found in verdicts)
    return ParityResult(
        verdict=verdict,
        failed_check=finding.check if finding else None,
        reason=clip_reason(reason) if reason else None,
        n_samples=n_samples,
        agreement=_least(verdicts, "agreement"),
        worst_sqnr_db=_least(verdicts, "worst_sqnr_db"),
        metric=measured.result if measured else None,
        outputs=outputs[:_MAX_OUTPUTS_N],
    )
