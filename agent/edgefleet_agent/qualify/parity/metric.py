"""The task's own metric on labelled samples, of source and artifact, and whether a drop is more than chance."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgefleet_agent.qualify.parity.tensor import Array, Finding
from edgefleet_contract.accept import MetricAccept, MetricKind
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import MetricResult, ParityCheck

log = logging.getLogger(__name__)

_BEST_N = {MetricKind.TOP1: 1, MetricKind.TOP5: 5}

UserMetric = Callable[[Mapping[str, Array], "Array | None"], float]
"""The user's own: outputs by name (first axis = sample) and labels or None → a finite number, higher is better."""


class MetricUnmeasuredError(Exception):
    """The metric could not be computed here; says why."""


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
    right = _right(outputs, labels, 1)
    return None if right is None else float(right.mean())


def judge_metric(
    reference: Mapping[str, Array], candidate: Mapping[str, Array], labels: Array | None, accept: MetricAccept
) -> MetricFinding:
    """Compare the metric of both sides.

    A drop of a share beyond `max_drop` fails unless it is a single sample: with few samples one is a large share.

    Raises:
        UserInputError: labels are not what the metric needs.
        MetricUnmeasuredError: no labels, no output that carries the metric, or the user's function cannot be called.
    """
    if accept.kind is MetricKind.FUNCTION:
        return _judge_function(reference, candidate, labels, accept)
    if labels is None:
        raise MetricUnmeasuredError("there are no labels")
    if accept.kind is MetricKind.MAE:
        return _judge_error(reference, candidate, labels, accept)
    return _judge_share(reference, candidate, labels, accept)


def _judge_share(
    reference: Mapping[str, Array], candidate: Mapping[str, Array], labels: Array, accept: MetricAccept
) -> MetricFinding:
    best_n = _BEST_N[accept.kind]
    left, right = _right(reference, labels, best_n), _right(candidate, labels, best_n)
    if left is None or right is None:
        raise MetricUnmeasuredError("no output is [samples, classes]")
    lost_n = int(left.sum()) - int(right.sum())
    result = MetricResult(kind=accept.kind, reference=float(left.mean()), measured=float(right.mean()), n=len(labels))
    too_far = lost_n > 1 and lost_n / len(labels) > accept.max_drop + 1e-12
    return MetricFinding(result, _fell(result, accept) if too_far else None)


def _fell(result: MetricResult, accept: MetricAccept) -> Finding:
    name = accept.function or {"top1": "top-1", "top5": "top-5"}.get(accept.kind.value, accept.kind.value)
    moved = "rose" if accept.kind is MetricKind.MAE else "fell"
    unit = " of it" if accept.kind is MetricKind.MAE else ""
    words = f"{name} {moved} from {result.reference:.4f} to {result.measured:.4f}"
    return Finding(ParityCheck.METRIC, f"{words}; at most {accept.max_drop:g}{unit} is accepted")


def _right(outputs: Mapping[str, Array], labels: Array, best_n: int) -> NDArray[np.bool_] | None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        msg = f"labels are {labels.dtype}{list(labels.shape)}; top-{best_n} needs one integer class a sample"
        raise UserInputError(msg)
    scores = next((found for name in outputs if (found := _class_scores(outputs[name])) is not None), None)
    if scores is None or not labels.size:
        return None
    if len(scores) != len(labels):
        msg = f"there are {len(labels)} labels for {len(scores)} samples; give one label a sample"
        raise UserInputError(msg)
    wanted: NDArray[np.bool_] = (_best(scores, best_n) == labels[:, None]).any(axis=1)
    return wanted


def _class_scores(output: Array) -> Array | None:
    classes_n = output.shape[1] if output.ndim >= 2 else 0
    if output.dtype.kind in "fiu" and classes_n >= 2 and output.size == len(output) * classes_n:
        return output.reshape(len(output), classes_n)
    return None


def _best(scores: Array, best_n: int) -> NDArray[np.intp]:
    """Return the best classes as [samples, best_n]; a NaN never wins."""
    if scores.dtype.kind == "f":
        scores = np.where(np.isnan(scores), -np.inf, scores)
    if best_n == 1:
        return np.asarray(scores.argmax(axis=1)[:, None])
    chosen: NDArray[np.intp] = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :best_n]
    return chosen


def _judge_error(
    reference: Mapping[str, Array], candidate: Mapping[str, Array], labels: Array, accept: MetricAccept
) -> MetricFinding:
    name = next((name for name, output in reference.items() if output.size == labels.size), None)
    if name is None:
        shapes = ", ".join(f"{key} {list(output.shape)}" for key, output in reference.items())
        msg = (
            f"labels are {list(labels.shape)}; mean absolute error needs an output of that size, and there are {shapes}"
        )
        raise UserInputError(msg)
    left, right = (
        float(np.abs(side[name].astype(np.float64).ravel() - labels.astype(np.float64).ravel()).mean())
        for side in (reference, candidate)
    )
    if not (np.isfinite(left) and np.isfinite(right)):
        raise MetricUnmeasuredError("the mean absolute error is not finite")
    result = MetricResult(kind=accept.kind, reference=left, measured=right, n=len(labels))
    return MetricFinding(result, _fell(result, accept) if right > left * (1.0 + accept.max_drop) + 1e-12 else None)


def _judge_function(
    reference: Mapping[str, Array], candidate: Mapping[str, Array], labels: Array | None, accept: MetricAccept
) -> MetricFinding:
    function = _load(accept.function or "")
    left, right = (_call(function, side, labels, accept.function or "") for side in (reference, candidate))
    samples_n = max((len(output) for output in reference.values() if output.ndim), default=0)
    result = MetricResult(kind=accept.kind, reference=left, measured=right, n=samples_n)
    return MetricFinding(result, _fell(result, accept) if left - right > accept.max_drop + 1e-12 else None)


def _load(name: str) -> UserMetric:
    """Return the user's function. It is code the user brought to this machine; nothing is fetched."""
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module may raise anything while it is imported
        log.warning("%s cannot be imported", name, exc_info=True)
        msg = f"{name} cannot be imported on this machine: {type(error).__name__}: {error}"
        raise MetricUnmeasuredError(msg) from error
    if not callable(function):
        msg = f"{name} is {type(function).__name__}, not a function"
        raise MetricUnmeasuredError(msg)
    loaded: UserMetric = function
    return loaded


def _call(function: UserMetric, outputs: Mapping[str, Array], labels: Array | None, name: str) -> float:
    try:
        value = float(function(dict(outputs), labels))
    except Exception as error:  # the user's function may raise anything
        log.warning("%s failed", name, exc_info=True)
        msg = f"{name} raised {type(error).__name__}: {error}"
        raise MetricUnmeasuredError(msg) from error
    if not np.isfinite(value):
        msg = f"{name} returned {value}; a finite number is needed"
        raise MetricUnmeasuredError(msg)
    return value
