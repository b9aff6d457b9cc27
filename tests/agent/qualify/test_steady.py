"""Changes of level in latency traces whose truth is known; all seeds are printed by `python -m bench steady`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import ruptures

from bench.steady import CLASSES
from edgefleet_agent.qualify.latency.steady import BLOCK_N, MOST_BLOCKS, TraceKind, change_points, classify, noise

SEEDS = range(1000, 1020)


@pytest.mark.parametrize("name", CLASSES)
def test_traces_of_each_class_get_its_label(name: str) -> None:
    make, label = CLASSES[name]
    kinds = [classify(make(np.random.default_rng(seed)).samples_ns).kind.value for seed in SEEDS]
    assert kinds.count(label) >= 0.85 * len(kinds), kinds


@pytest.mark.parametrize("name", ["warm-up", "throttle step"])
def test_a_change_is_located_within_one_block(name: str) -> None:
    make, _ = CLASSES[name]
    traces = [make(np.random.default_rng(seed)) for seed in SEEDS]
    steps = [(trace.change_n, classify(trace.samples_ns)) for trace in traces if trace.change_n is not None]
    assert len(steps) >= 5
    near = [abs((found.steady_from_n or 0) - change_n) <= BLOCK_N for change_n, found in steps]
    assert sum(near) >= len(near) - 1


@pytest.mark.parametrize("seed", range(20))
def test_change_points_are_those_of_ruptures(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = np.repeat(rng.normal(0, 0.1, 6), rng.integers(5, 40, 6))
    levels = levels + rng.normal(0, 0.02, len(levels))
    penalty = 3 * 0.02**2 * math.log(len(levels))
    oracle = ruptures.Pelt(model="l2", min_size=3, jump=1).fit(levels[:, None]).predict(pen=penalty)
    assert list(change_points(levels, 0.02)) == oracle[:-1]


def test_noise_is_told_apart_from_changes_of_level() -> None:
    rng = np.random.default_rng(3)
    levels = np.repeat([0.0, 0.5, 0.2], 200) + rng.normal(0, 0.02, 600)
    assert noise(levels) == pytest.approx(0.02, rel=0.15)
    assert noise(np.array([1.0])) == 0.0


def test_two_levels_within_two_percent_are_one_state_and_within_five_on_request() -> None:
    def stepped(share: float) -> TraceKind:
        samples = np.repeat([1e6, 1e6 * (1 + share)], 500) * np.random.default_rng(1).lognormal(0, 0.003, 1000)
        return classify(samples.astype(np.int64)).kind

    assert (stepped(0.01), stepped(0.04)) == (TraceKind.FLAT, TraceKind.SLOW_DOWN)
    wide = np.repeat([1_000_000, 1_040_000], 500)
    assert classify(wide, equivalent_share=0.05).kind is TraceKind.FLAT


def test_a_level_that_came_only_at_the_end_is_not_known_to_last() -> None:
    found = classify(np.repeat([2_000_000, 1_000_000], [900, 100]))
    assert (found.kind, found.steady_from_n) == (TraceKind.UNSTEADY, None)


def test_too_few_samples_and_a_clock_that_does_not_move_are_short() -> None:
    assert classify(np.full(3 * BLOCK_N - 1, 1000)).kind is TraceKind.SHORT
    assert classify(np.zeros(1000, np.int64)).kind is TraceKind.SHORT


def test_long_traces_are_cut_into_larger_blocks() -> None:
    samples = np.repeat([1_000_000, 1_500_000], 100_000)
    found = classify(samples)
    assert found.kind is TraceKind.SLOW_DOWN
    assert found.steady_from_n == pytest.approx(100_000, abs=len(samples) / MOST_BLOCKS)
    assert found.change_share == pytest.approx(-1 / 3, abs=0.01)
