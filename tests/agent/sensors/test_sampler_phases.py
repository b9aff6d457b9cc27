"""Moments within a sampling period."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.sensors.sampler import CYCLE_N, SamplerClock, Trace, balanced_phases, sample


def parts(phases: list[float]) -> list[int]:
    """Return into which of as many equal parts of the period as there are moments each falls."""
    return sorted(int(phase * len(phases)) for phase in phases)


@pytest.mark.parametrize("step", [1, 2, 4, 20])
@given(seed=st.integers(0, 2**32))
def test_the_moments_of_every_so_many_periods_fall_once_into_each_part_of_the_period(step: int, seed: int) -> None:
    phases = balanced_phases(random.Random(seed).random)
    for first in range(step):
        assert parts(phases[first::step]) == list(range(CYCLE_N // step))


def test_the_order_of_the_parts_is_drawn_anew_each_time() -> None:
    draw = random.Random(1).random
    orders = {tuple(int(phase * CYCLE_N) for phase in balanced_phases(draw)) for _ in range(10)}
    assert len(orders) == 10


def test_every_part_of_the_period_is_as_likely_at_each_place_of_the_cycle() -> None:
    draw = random.Random(2).random
    cycles = [balanced_phases(draw) for _ in range(400)]
    for place in (0, 1, 7, CYCLE_N - 1):
        mean = sum(cycle[place] for cycle in cycles) / len(cycles)
        assert mean == pytest.approx(0.5, abs=4 * (1 / 12 / len(cycles)) ** 0.5)


def test_a_period_that_was_slept_through_takes_its_moment_with_it() -> None:
    """Else what was balanced over every second period would not be, once one was missed."""
    now = 0

    def sleep_s(seconds: float) -> None:
        nonlocal now
        now += int(seconds * 1e9)

    class Slow:
        n = 0

        def read(self) -> tuple[int]:
            nonlocal now
            self.n += 1
            now += 25_000_000 if self.n == 5 else 0
            return (0,)

    trace = Trace()
    sample(Slow(), trace, SamplerClock(lambda: now, sleep_s), period_s=0.01, draw=random.Random(3).random,
           stopped=lambda: now >= CYCLE_N * 10_000_000)  # fmt: skip
    expected = balanced_phases(random.Random(3).random)
    taken = {at_ns // 10_000_000: at_ns % 10_000_000 / 1e7 for at_ns in trace.at_ns[6:-1]}
    assert len(taken) >= CYCLE_N - 12
    assert all(phase == pytest.approx(expected[period], abs=1e-6) for period, phase in taken.items())
