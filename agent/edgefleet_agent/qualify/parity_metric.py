"""The task's own metric on labelled samples, of source and artifact, and whether a drop is more than chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgefleet_agent.qualify.parity_tensor import Array, Finding
from edgefleet_contract.accept import MetricAccept, MetricKind
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import MetricResult, ParityCheck


@dataclass(frozen=True)
class MetricFinding:
    """The metric of both sides, and a finding where the artifact's fell too far."""

    result: MetricResult
    finding: Finding | None


def top1_metric(outputs: Mapping[str, Array], labels: Array) -> float | None:
    """Return the share of samples whose top-1 class is the label; None where no output is [samples, classes].

    Raises:
        UserInputError: labels are not one integer a sample.
    """
    right = _right(outputs, labels)
    return None if right is None else float(right.mean())


def _right(outputs: Mapping[str, Array], labels: Array) -> NDArray[np.bool_] | None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        msg = f"labels are {labels.dtype}{list(labels.shape)}; top-1 needs one integer class a sample"
        raise UserInputError(msg)
    scores = next((found for name in outputs if (found := _class_scores(outputs[name])) is not None), None)
    if scores is None or not labels.size:
        return None
    if len(scores) != len(labels):
        msg = f"there are {len(labels)} labels for {len(scores)} samples; give one label a sample"
        raise UserInputError(msg)
    wanted: NDArray[np.bool_] = _choose(scores) == labels
    return wanted


def _class_scores(output: Array) -> Array | None:
    classes_n = output.shape[1] if output.ndim >= 2 else 0
    if output.dtype.kind in "fiu" and classes_n >= 2 and output.size == len(output) * classes_n:
        return output.reshape(len(output), classes_n)
    return None


def _choose(scores: Array) -> NDArray[np.intp]:
    """Return the top-1 class; a NaN never wins."""
    if scores.dtype.kind == "f":
        scores = np.where(np.isnan(scores), -np.inf, scores)
    chosen: NDArray[np.intp] = scores.argmax(axis=1)
    return chosen


def judge_metric(
    reference: Mapping[str, Array], candidate: Mapping[str, Array], labels: Array, accept: MetricAccept
) -> MetricFinding | None:
    """Compare top-1 of both sides; None where no output carries classes.

    A drop beyond `max_drop` fails unless it is a single sample: with few samples one sample is a large share.

    Raises:
        UserInputError: labels are not one integer a sample.
    """
    left, right = _right(reference, labels), _right(candidate, labels)
    if left is None or right is None:
        return None
    lost_n = int(left.sum()) - int(right.sum())
    result = MetricResult(
        kind=MetricKind.TOP1, reference=float(left.mean()), measured=float(right.mean()), n=len(labels)
    )
    if lost_n <= 1 or lost_n / len(labels) <= accept.max_drop + 1e-12:
        return MetricFinding(result, None)
    reason = f"top-1 fell from {result.reference:.4f} to {result.measured:.4f}; at most {accept.max_drop:g} is accepted"
    return MetricFinding(result, Finding(ParityCheck.METRIC, reason))
