"""Whether a latency run may be believed."""

from __future__ import annotations

from typing import Any

import pytest

from edgefleet_agent.qualify.latency.contention import Disturbance, judge_latency_run
from edgefleet_agent.qualify.latency.steady import Trace, TraceKind
from edgefleet_agent.qualify.latency.wander import Level
from edgefleet_contract.evidence import LatencyVerdict, Percentiles, Wander

FLAT = Level(Trace(TraceKind.FLAT, 0))
SLOWER = Level(Trace(TraceKind.SLOW_DOWN, 400, 1 / 1.2 - 1))
AVERAGES = Wander(spread_share=0.12, drift_share=0.01, upper_drift_share=0.0, levels_n=30.0)


def moving(**changed: float) -> Level:
    return Level(Trace(TraceKind.UNSTEADY), AVERAGES.model_copy(update=changed))


QUIET = Disturbance(preempted=0.0, steal=0.0, delayed=0.0, others=0.0)


def figures(p99_ms: float = 2.0) -> Percentiles:
    return Percentiles(n=1000, n_eff=1000.0, p50_ms=1.0, p95_ms=1.5, p99_ms=p99_ms)


def judged(**changed: Any) -> tuple[LatencyVerdict, str | None]:
    said: dict[str, Any] = {
        "too_few": None,
        "seen": QUIET,
        "raw": figures(),
        "undisturbed": figures(),
        "level": FLAT,
        "undisturbed_level": FLAT,
    }
    return judge_latency_run(**{**said, **changed})


def test_a_quiet_steady_run_is_valid_without_a_reason() -> None:
    assert judged() == (LatencyVerdict.VALID, None)


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (Disturbance(preempted=0.0, steal=0.02, delayed=0.0, others=0.0), "hypervisor"),
        (Disturbance(preempted=0.0, steal=0.0, delayed=0.02, others=0.0), "waited"),
        (Disturbance(preempted=0.0, steal=0.0, delayed=0.0, others=0.5), "other processes"),
        (Disturbance(preempted=0.02, steal=0.0, delayed=0.0, others=0.0), "preempted"),
    ],
)
def test_each_cause_of_contention_is_named(seen: Disturbance, word: str) -> None:
    verdict, reason = judged(seen=seen)
    assert verdict is LatencyVerdict.CONTENDED
    assert reason is not None
    assert word in reason


def test_too_few_inferences_are_inconclusive_whatever_else_was_seen() -> None:
    told = judged(too_few="9 are too few", seen=Disturbance(preempted=1.0, steal=1.0, delayed=1.0, others=1.0))
    assert told == (LatencyVerdict.INCONCLUSIVE, "9 are too few")


def test_a_lasting_change_without_a_cause_is_unsteady() -> None:
    verdict, reason = judged(level=SLOWER, undisturbed_level=SLOWER)
    assert (verdict, reason) == (LatencyVerdict.UNSTEADY, "the median rose by 20% after 400 samples")


def test_a_change_only_preempted_samples_show_is_contention() -> None:
    assert judged(level=SLOWER)[0] is LatencyVerdict.CONTENDED


def test_preemption_does_not_explain_a_change_that_undisturbed_samples_show() -> None:
    seen = Disturbance(preempted=0.05, steal=0.0, delayed=0.0, others=0.0)
    assert judged(seen=seen, level=SLOWER, undisturbed_level=SLOWER)[0] is LatencyVerdict.UNSTEADY


def test_steal_explains_a_change_also_of_undisturbed_samples() -> None:
    seen = Disturbance(preempted=0.0, steal=0.05, delayed=0.0, others=0.0)
    assert judged(seen=seen, level=SLOWER, undisturbed_level=SLOWER)[0] is LatencyVerdict.CONTENDED


def test_a_tail_made_of_preempted_samples_is_contention() -> None:
    assert judged(raw=figures(p99_ms=5.0), undisturbed=figures(p99_ms=2.0))[0] is LatencyVerdict.CONTENDED


def test_a_run_without_undisturbed_samples_is_judged_by_what_was_seen() -> None:
    seen = Disturbance(preempted=1.0, steal=0.0, delayed=0.0, others=0.0)
    assert judged(undisturbed=None, seen=seen)[0] is LatencyVerdict.CONTENDED


@pytest.mark.parametrize(
    ("kind", "change_share", "words"),
    [
        (TraceKind.WARM_UP, 0.25, "fell by 20%"),
        (TraceKind.UNSTEADY, 0.0, "no level lasted"),
    ],
)
def test_what_the_level_did_is_said_in_words(kind: TraceKind, change_share: float, words: str) -> None:
    level = Level(Trace(kind, 400, change_share))
    verdict, reason = judged(level=level, undisturbed_level=level)
    assert verdict is LatencyVerdict.UNSTEADY
    assert reason is not None
    assert words in reason


def test_queries_that_come_faster_than_they_are_answered_are_no_steady_state() -> None:
    assert judged(overload="busy 100% of the time") == (LatencyVerdict.UNSTEADY, "busy 100% of the time")


def test_a_level_that_goes_to_and_fro_and_averages_is_valid_and_told() -> None:
    told = judged(level=moving(), undisturbed_level=moving())
    assert told == (LatencyVerdict.VALID, "the level went to and fro by 12%")


def test_where_it_leaves_the_percentile_asked_for_without_an_interval_the_run_is_inconclusive_for_that() -> None:
    verdict, reason = judged(level=moving(), undisturbed_level=moving(), unsure="700 samples are too alike")
    assert verdict is LatencyVerdict.INCONCLUSIVE
    assert reason == "700 samples are too alike: the level went to and fro by 12%"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"spread_share": 0.3}, "it went to and fro by 30%"),
        ({"drift_share": -0.07}, "it drifted by 7%"),
        ({"upper_drift_share": 0.1}, "slow stretches became 10% slower"),
        ({"upper_drift_share": -0.1}, "slow stretches became 10% faster"),
        ({"levels_n": 9.0}, "it went to and fro by 12%, too slowly to average in this run"),
    ],
)
def test_a_level_that_does_not_average_is_unsteady_and_the_reason_says_why(
    changed: dict[str, float], words: str
) -> None:
    level = moving(**changed)
    assert judged(level=level, undisturbed_level=level) == (LatencyVerdict.UNSTEADY, f"no level lasted: {words}")


def test_a_step_for_good_does_not_average_however_often_it_goes_to_and_fro_besides() -> None:
    level = Level(Trace(TraceKind.SLOW_DOWN, 400, 1 / 1.2 - 1), AVERAGES)
    assert judged(level=level, undisturbed_level=level)[0] is LatencyVerdict.UNSTEADY


def test_a_machine_taken_away_explains_a_wander() -> None:
    seen = Disturbance(preempted=0.0, steal=0.05, delayed=0.0, others=0.0)
    assert judged(seen=seen, level=moving(), undisturbed_level=moving())[0] is LatencyVerdict.CONTENDED


def test_preemption_is_not_blamed_for_a_wander_that_undisturbed_samples_show() -> None:
    worse = moving(levels_n=9.0)
    assert judged(level=worse, undisturbed_level=moving())[0] is LatencyVerdict.VALID
