"""Recorded outputs of fourteen models: no honest artifact may fail and no broken one may pass, task given or not."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from bench.parity_corpus import corpus
from edgefleet_agent.qualify.parity.claim import CLAIMS
from edgefleet_agent.qualify.parity.compare import compare_outputs
from edgefleet_agent.qualify.parity.tensor import pair_of
from edgefleet_contract.accept import MetricAccept, MetricKind, ParityAccept
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import ParityCheck, ParityVerdict, Task

CASES = list(corpus())


def test_the_corpus_is_as_large_as_it_is_said_to_be() -> None:
    honest_n = sum(case.honest for case in CASES)
    assert honest_n >= 85
    assert len(CASES) - honest_n >= 95
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
@pytest.mark.parametrize("told", [True, False], ids=["task told", "task not told"])
def test_a_pair_is_judged_for_what_it_is(case: Any, told: bool) -> None:
    result = compare_outputs(
        case.reference,
        case.candidate,
        precision=case.precision,
        task=Task(case.task) if told else None,
        same_artifact=case.same_artifact,
    )
    assert (result.verdict is not ParityVerdict.FAIL) is case.honest, result.reason


def compare(reference: Any, candidate: Any, precision: str = "int8", **options: Any) -> Any:
    options.setdefault("task", None)
    return compare_outputs({"out": reference}, {"out": candidate}, precision=precision, **options)


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 1, shape)


def test_a_gain_of_five_percent_is_found_inside_noise_of_ten_percent() -> None:
    reference = 3 * noise(200, 10)
    candidate = reference * (1 + 0.05) + 0.3 * noise(200, 10, seed=1)
    assert compare(reference, candidate).failed_check is ParityCheck.GAIN
    assert compare(reference, reference + 0.3 * noise(200, 10, seed=1)).verdict is ParityVerdict.PASS


def test_one_class_scaled_by_15_percent_is_found_inside_noise_of_16_percent() -> None:
    reference = 3 * noise(400, 10)
    candidate = reference + 0.48 * noise(400, 10, seed=1)
    assert compare(reference, candidate).verdict is ParityVerdict.PASS
    candidate[:, 4] *= 1.15
    assert compare(reference, candidate).failed_check is ParityCheck.GAIN


def test_gain_that_only_large_values_show_is_the_saturation_of_honest_kernels() -> None:
    reference = 3 * noise(300, 10)
    shrunk = np.sign(reference) * np.minimum(np.abs(reference), 4 + 0.5 * (np.abs(reference) - 4))
    assert compare(reference, shrunk + 0.5 * noise(300, 10, seed=2)).failed_check is not ParityCheck.GAIN


def test_half_precision_under_an_fp32_claim_is_told_by_its_last_bits() -> None:
    reference = noise(60, 10).astype(np.float32)
    for rounded in (
        reference.astype(np.float16).astype(np.float32),
        (reference.view(np.uint32) & 0xFFFF0000).view(np.float32),
    ):
        assert compare(reference, rounded, "fp32").failed_check is ParityCheck.RESOLUTION
    assert compare(reference, reference * np.float32(1 + 1e-7), "fp32").verdict is ParityVerdict.PASS
    counts = np.round(100 * reference)
    assert compare(counts, counts.copy(), "fp32").verdict is ParityVerdict.PASS


def test_distributions_that_no_longer_sum_to_one_fail() -> None:
    odds = np.exp(noise(50, 10) * 3)
    reference = odds / odds.sum(axis=1, keepdims=True)
    broken = reference.copy()
    broken[7] *= 0.7
    result = compare(reference, broken)
    assert result.failed_check is ParityCheck.GAIN
    assert "sum to 1" in result.reason


def test_an_agreement_that_cannot_be_computed_misses_its_limit() -> None:
    limits = ParityAccept(min_agreement=0.9)
    reference = noise(50, 3)
    for task in (Task.REGRESSION, Task.DETECTION):
        result = compare(reference, reference.copy(), "fp32", task=task, limits=limits)
        assert result.failed_check is ParityCheck.LIMIT
        assert "no decisions" in result.reason
    assert compare(reference, reference.copy(), "fp32", task=Task.CLASSIFICATION, limits=limits).agreement == 1.0


def test_the_manifest_tightens_and_loosens_the_tolerance_but_excuses_no_structure() -> None:
    reference = 3 * noise(200, 10)
    fair, rough = (reference + level * 3 * noise(200, 10, seed=1) for level in (0.1, 0.4))
    assert compare(reference, fair).verdict is ParityVerdict.PASS
    assert compare(reference, fair, limits=ParityAccept(tolerance_db=30)).failed_check is ParityCheck.SQNR
    assert compare(reference, rough).failed_check is ParityCheck.SQNR
    loose = ParityAccept(tolerance_db=5, min_agreement=0.5)
    assert compare(reference, rough, limits=loose).verdict is ParityVerdict.PASS
    dead = rough.copy()
    dead[:, 3] = 0.0
    assert compare(reference, dead, limits=loose).failed_check is ParityCheck.CONSTANT


def test_a_detectors_decisions_are_its_confident_places_and_classes() -> None:
    rng = np.random.default_rng(0)
    reference = np.concatenate([rng.uniform(0, 640, (12, 50, 4)), rng.beta(0.4, 2, (12, 50, 6))], axis=2)
    exact = compare(reference, reference.copy(), "fp16", task=Task.DETECTION)
    assert exact.agreement == 1.0
    lost = reference.copy()
    lost[..., 4:] = np.minimum(lost[..., 4:], 0.45)
    result = compare(reference, lost, "fp16", task=Task.DETECTION)
    assert result.verdict is ParityVerdict.FAIL
    assert result.agreement == 0.0


def test_a_sequence_of_one_score_a_frame_is_judged_by_its_decisions() -> None:
    reference = np.repeat(np.random.default_rng(1).uniform(0, 1, (40, 1)), 5, axis=0)
    assert compare(reference, reference.copy(), "fp32", task=Task.SEQUENCE).agreement == 1.0
    late = np.roll(reference, 3, axis=0)
    assert compare(reference, late, task=Task.SEQUENCE).failed_check is ParityCheck.SHIFT


def test_frames_of_one_recording_are_not_taken_for_independent_samples() -> None:
    slow = np.cumsum(noise(80, 16), axis=0)
    drifting = 0.05 * np.cumsum(noise(80, 16, seed=1), axis=0)
    assert compare(slow, slow + drifting, task=Task.SEQUENCE).failed_check is not ParityCheck.OFFSET
    shuffled = np.random.default_rng(2).permutation(80)
    assert pair_of("out", slow, slow, CLAIMS["int8"], None).independence < 0.2
    assert pair_of("out", slow[shuffled], slow, CLAIMS["int8"], None).independence > 0.5


def test_one_sequence_or_one_channel_alone_that_is_late_is_found() -> None:
    reference = np.cumsum(noise(10, 80, 6), axis=1)
    one, channel = reference.copy(), reference.copy()
    one[4, 1:] = reference[4, :-1]
    channel[:, 1:, 2] = reference[:, :-1, 2]
    for candidate in (one, channel):
        result = compare(reference, candidate, task=Task.SEQUENCE)
        assert result.failed_check is ParityCheck.SHIFT
        assert "shifted by 1" in result.reason


def f_measure(outputs: Any, labels: Any) -> float:
    """Return a metric of the user's own, for the tests below."""
    return float((outputs["out"].argmax(axis=1) == labels).mean())


def no_number(outputs: Any, labels: Any) -> float:
    return float("nan")


def raises(outputs: Any, labels: Any) -> float:
    msg = "no such column"
    raise KeyError(msg)


def own(name: str, max_drop: float = 0.02) -> MetricAccept:
    return MetricAccept(kind=MetricKind.FUNCTION, function=f"{__name__}:{name}", max_drop=max_drop)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules[f_measure.__module__])


@pytest.mark.usefixtures("importable")
def test_the_users_own_metric_is_called_on_both_sides_and_its_drop_is_judged() -> None:
    labels = np.arange(60) % 4
    reference = np.eye(4)[labels] + 0.01 * noise(60, 4)
    result = compare(reference, reference.copy(), labels=labels, metric=own("f_measure"))
    assert (result.metric.kind, result.metric.reference, result.metric.n) == (MetricKind.FUNCTION, 1.0, 60)
    worse = reference.copy()
    worse[::10] = worse[::10, ::-1]
    fallen = compare(reference, worse, labels=labels, metric=own("f_measure"))
    assert fallen.verdict is ParityVerdict.FAIL
    assert fallen.metric.measured == pytest.approx(0.9)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_number", "returned nan"),
        ("raises", "raised KeyError"),
        ("missing", "cannot be imported"),
        ("CASES", "not a function"),
    ],
)
def test_a_declared_metric_that_cannot_be_computed_misses_with_its_reason(name: str, says: str) -> None:
    reference = noise(60, 4)
    result = compare(reference, reference.copy(), labels=np.arange(60) % 4, metric=own(name))
    assert result.failed_check is ParityCheck.METRIC
    assert result.metric is None
    assert says in result.reason


def test_a_module_the_device_lacks_misses_the_metric() -> None:
    metric = MetricAccept(kind=MetricKind.FUNCTION, function="my_metrics_that_are_elsewhere:f1")
    result = compare(noise(60, 4), noise(60, 4), labels=np.arange(60) % 4, metric=metric)
    assert result.failed_check is ParityCheck.METRIC
    assert "cannot be imported on this machine" in result.reason


def test_a_metric_nobody_declared_is_weak_where_it_cannot_be_computed() -> None:
    metric = MetricAccept(kind=MetricKind.FUNCTION, function="my_metrics_that_are_elsewhere:f1")
    result = compare(noise(60, 4), noise(60, 4), metric=metric, metric_declared=False)
    assert result.verdict is ParityVerdict.WEAK
    assert "cannot be imported" in result.reason


def test_mean_absolute_error_may_rise_by_a_share_and_no_more() -> None:
    truth = noise(200, 2)
    reference = truth + 0.1 * noise(200, 2, seed=1)
    metric = MetricAccept(kind=MetricKind.MAE, max_drop=0.05)
    exact = compare(reference, reference.copy(), labels=truth, metric=metric, task=Task.REGRESSION)
    assert exact.verdict is ParityVerdict.PASS
    assert exact.metric.reference == pytest.approx(0.08, abs=0.01)
    worse = reference + 0.1 * noise(200, 2, seed=2)
    assert compare(reference, worse, labels=truth, metric=metric).failed_check is ParityCheck.METRIC
    with pytest.raises(UserInputError, match="needs an output of that size"):
        compare(reference, reference, labels=np.zeros(7), metric=metric)


def test_top_5_counts_labels_among_the_five_best() -> None:
    reference = np.tile(np.arange(10.0), (40, 1)) + 0.01 * noise(40, 10)
    labels = np.repeat([9, 5, 4, 0], 10)
    result = compare(reference, reference.copy(), labels=labels, metric=MetricAccept(kind=MetricKind.TOP5))
    assert result.metric.reference == 0.5
