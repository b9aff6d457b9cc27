"""Moments within a sampling period."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from edgefleet_agent.sensors.sampler import balanced_phases


@pytest.mark.parametrize("parts_n", [1, 4, 16])
def test_every_run_of_parts_falls_once_into_each_part_of_the_period(parts_n: int) -> None:
    phases = balanced_phases(random.Random(1).random, parts_n)
    for _ in range(20):
        assert sorted(int(phase * parts_n) for phase in islice(phases, parts_n)) == list(range(parts_n))


def test_the_order_of_the_parts_is_drawn_anew_each_time() -> None:
    phases = balanced_phases(random.Random(1).random, 16)
    orders = {tuple(int(phase * 16) for phase in islice(phases, 16)) for _ in range(10)}
    assert len(orders) == 10
