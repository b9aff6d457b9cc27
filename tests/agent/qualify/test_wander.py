"""Levels that go to and fro: which average, on traces whose truth is known and on one recorded."""

from __future__ import annotations

import numpy as np
import pytest

from bench.steady import WANDERS, moving
from edgefleet_agent.qualify.latency.loop import Samples
from edgefleet_agent.qualify.latency.measuring import seen_enough, wants_time
from edgefleet_agent.qualify.latency.steady import TraceKind, classify
from edgefleet_agent.qualify.latency.wander import Level, level_of, wander_of

RECORDED_MS = [
    3.91,
    3.92,
    3.92,
    3.89,
    3.89,
    4.01,
    3.91,
    3.91,
    3.91,
    3.89,
    3.91,
    3.92,
    3.89,
    3.91,
    3.91,
    3.90,
    3.95,
    3.91,
    3.91,
    3.96,
    3.90,
    3.91,
    3.89,
    3.89,
    3.89,
    3.93,
    3.91,
    3.93,
    3.91,
    3.89,
    3.89,
    3.90,
    3.90,
    3.89,
    3.94,
    3.90,
    3.89,
    3.89,
    4.00,
    3.96,
    3.99,
    3.95,
    3.90,
    3.92,
    4.14,
    3.99,
    4.14,
    3.88,
    3.89,
    3.88,
    4.45,
    4.45,
    4.45,
    4.55,
    4.45,
    4.22,
    4.23,
    4.26,
    4.31,
    4.18,
    4.20,
    4.18,
    4.21,
    4.24,
    4.18,
    4.17,
    4.17,
    4.16,
    4.18,
    4.15,
    4.22,
    4.19,
    4.62,
    4.69,
    4.65,
    4.06,
    3.89,
    3.91,
    3.88,
    3.88,
    3.94,
    3.89,
    3.91,
    3.88,
    3.90,
    3.88,
    3.98,
    3.90,
    3.90,
    3.89,
    3.87,
    3.93,
    3.99,
    4.08,
    3.91,
    3.89,
    3.91,
    3.88,
    3.88,
    3.91,
    3.90,
    3.88,
    3.87,
    3.88,
    3.87,
    4.11,
    4.07,
    4.42,
    4.30,
    4.04,
    4.02,
    3.91,
    4.02,
    3.93,
    4.08,
    4.07,
    4.07,
    4.00,
    3.93,
    3.96,
    3.99,
    4.01,
    3.92,
    3.90,
    3.91,
    4.21,
    4.09,
    3.97,
    3.95,
    3.92,
    3.94,
    3.99,
    3.96,
    4.03,
    4.35,
    4.30,
    4.08,
    3.99,
    3.96,
    3.90,
    3.92,
    3.92,
    3.91,
    3.92,
    3.92,
    3.92,
    3.90,
    3.92,
]
"""Medians of each fifty of 7,400 inferences in 30 s, on a quiet virtual machine with neighbours."""


def recorded() -> np.ndarray:
    levels_ns = np.repeat(np.array(RECORDED_MS) * 1e6, 50)
    return np.asarray(levels_ns * np.random.default_rng(1).lognormal(0.0, 0.0143, len(levels_ns)), np.int64)


def levels(name: str, seeds: range = range(1000, 1020)) -> list[Level]:
    return [level_of(moving(WANDERS[name], seed)) for seed in seeds]


@pytest.mark.parametrize("name", ["memory 1 % of the run", "memory 2.5 %", "cycle, 12 turns", "cycle, 6 turns"])
def test_a_quick_wander_lasts(name: str) -> None:
    assert sum(level.lasts for level in levels(name)) >= 16


@pytest.mark.parametrize("name", ["cycle, 3 turns", "cycle, 1 turn", "random walk", "trend of 10 %", "step of 10 %"])
def test_what_comes_back_seldom_or_never_does_not_average(name: str) -> None:
    assert sum(level.averages for level in levels(name)) <= 2


def test_a_step_near_the_end_is_no_wander() -> None:
    rng = np.random.default_rng(5)
    samples = 4e6 * rng.lognormal(0.0, 0.01, 2500) * np.where(np.arange(2500) > 2200, 1.15, 1.0)
    level = level_of(samples.astype(np.int64))
    assert level.trace.kind is TraceKind.UNSTEADY
    assert not level.averages


def test_a_wander_over_more_than_a_quarter_does_not_average() -> None:
    rng = np.random.default_rng(6)
    times = np.arange(2500)
    samples = 4e6 * rng.lognormal(0.0, 0.01, 2500) * np.where(times // 100 % 2 == 0, 1.4, 1.0)
    level = level_of(samples.astype(np.int64))
    assert not level.lasts
    assert not level.wants_time


def test_a_recorded_machine_with_neighbours_averages_once_it_was_watched_for_30_s() -> None:
    assert classify(recorded(), equivalent_share=0.05).kind is TraceKind.UNSTEADY
    level = level_of(recorded())
    assert level.averages
    assert level.wander is not None
    assert 0.1 < level.wander.spread_share < 0.2
    assert abs(level.wander.drift_share) < 0.02


def test_in_part_of_that_time_it_does_not_and_the_run_wants_more() -> None:
    part = Samples(recorded()[2800:5300], np.zeros(2500, np.int64), np.zeros(2500, np.bool_))
    assert not level_of(part.wall_ns).lasts
    assert wants_time(part, 0.5)
    whole = Samples(recorded(), np.zeros(7400, np.int64), np.zeros(7400, np.bool_))
    assert not wants_time(whole, 0.5)
    # p95 of 30 s is made of three or four slow stretches: for its interval they are too few.
    assert wants_time(whole, 0.95)


def test_a_run_of_a_wandering_level_may_end_once_its_percentile_is_known() -> None:
    rng = np.random.default_rng(7)
    wave = 1.0 + 0.06 * (np.arange(20_000) // 150 % 2)
    walls = (4e6 * wave * rng.lognormal(0.0, 0.03, 20_000)).astype(np.int64)
    samples = Samples(walls, np.zeros(20_000, np.int64), np.zeros(20_000, np.bool_))
    assert level_of(walls).averages
    assert seen_enough(samples, 0.5)
    assert not seen_enough(Samples(np.sort(walls), samples.late_ns, samples.preempted), 0.5)


def test_few_samples_and_a_clock_that_does_not_move_tell_nothing() -> None:
    assert wander_of(np.full(100, 1000)) is None
    assert wander_of(np.zeros(1000, np.int64)) is None
