"""Energy from readings, against loads whose energy is known."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.qualify.energy.estimate import (
    EnergyError,
    Estimate,
    Window,
    averaged_energy,
    counter_energy,
    power_energy,
    rise_s,
    t975,
    unwrap,
)
from edgefleet_agent.sensors.reader import Row
from edgefleet_agent.sensors.sampler import SamplerClock, Trace, sample

RUN_S = 60.0
NS = 1_000_000_000


@dataclass(frozen=True)
class Load:
    """Power over time, and its exact energy over the first minute."""

    watts: Callable[[float], float]
    joules: float


def bursts(rate_hz: float, duty: float, low: float = 3.0, high: float = 10.0) -> Callable[[float], float]:
    return lambda at_s: high if (at_s * rate_hz) % 1.0 < duty else low


LOADS = {
    "steady": Load(lambda _: 5.0, 300.0),
    "bursts of 30 ms at 10/s": Load(bursts(10, 0.3), 306.0),
    "ramp": Load(lambda at_s: 3.0 + at_s / 10.0, 360.0),
    "aliased at 50 Hz": Load(bursts(50, 0.3), 306.0),
    "aliased at 25 Hz": Load(bursts(25, 0.3), 306.0),
    "aliased at 75 Hz": Load(bursts(75, 0.3), 306.0),
    "aliased at 200 Hz": Load(bursts(200, 0.3), 306.0),
}
WHOLE = Window(0, int(RUN_S * NS))


class Time:
    def __init__(self) -> None:
        self.at_ns = 0

    def sleep_s(self, seconds: float) -> None:
        self.at_ns += int(seconds * NS)

    @property
    def clock(self) -> SamplerClock:
        return SamplerClock(lambda: self.at_ns, self.sleep_s)


class Sensor:
    """Shows a load's power at the moment it is read."""

    def __init__(self, load: Callable[[float], float], time: Time) -> None:
        self._load, self._time = load, time

    def read(self) -> Row:
        return (self._load(self._time.at_ns / NS),)


def measured(load: Load, hz: float, seed: int) -> Estimate:
    """Return the energy the sampler and the integral make of a load; its phase is drawn, too, where it has one."""
    time, trace, drawn = Time(), Trace(), random.Random(seed)
    sensor = Sensor(load.watts, time)
    sample(sensor, trace, time.clock, period_s=1 / hz, draw=drawn.random, stopped=lambda: time.at_ns >= WHOLE.end_ns)
    return power_energy(trace.at_ns, [float(row[0]) for row in trace.rows], WHOLE)


@pytest.mark.parametrize("name", LOADS)
def test_energy_of_a_minute_is_within_one_percent_at_50_hz_in_19_of_20_runs(name: str) -> None:
    load = LOADS[name]
    errors = sorted(abs(measured(load, 50, seed).value / load.joules - 1) for seed in range(40))
    assert errors[37] < 0.01


def test_a_load_that_repeats_at_no_fraction_of_the_rate_is_as_far_off_as_independent_moments_allow() -> None:
    """The load deviates by 3.2 W from its mean of 5.1 W: 3,000 independent readings have a standard error of 1.15 %."""
    load = Load(bursts(73.7, 0.3), 306.0)
    errors = sorted(abs(measured(load, 50, seed).value / load.joules - 1) for seed in range(40))
    assert errors[37] < 0.03


@pytest.mark.parametrize("hz", [10, 20])
@pytest.mark.parametrize("name", ["bursts of 30 ms at 10/s", "aliased at 50 Hz"])
def test_the_interval_covers_the_truth_of_loads_a_slow_sensor_undersamples(name: str, hz: float) -> None:
    load = LOADS[name]
    found = [measured(load, hz, seed) for seed in range(100)]
    covered_n = sum(low <= load.joules <= high for low, high in (estimate.ci95 for estimate in found))
    assert covered_n >= 90
    half = [(high - low) / 2 / load.joules for low, high in (estimate.ci95 for estimate in found)]
    assert 0.02 < sum(half) / len(half) < 0.08


def test_a_regular_10_hz_sampling_would_be_half_off() -> None:
    """What jitter is for."""
    load = LOADS["bursts of 30 ms at 10/s"]
    regular = [load.watts(step / 10 + 0.001) for step in range(600)]
    assert sum(regular) / 10 / load.joules > 1.5


def test_fewer_than_eight_readings_give_no_energy() -> None:
    with pytest.raises(EnergyError, match="7 readings"):
        power_energy([step * NS for step in range(7)], [1.0] * 7, Window(0, 10 * NS))


def test_blocks_longer_than_a_quarter_of_the_window_give_no_interval_and_so_no_energy() -> None:
    with pytest.raises(EnergyError, match="blocks"):
        power_energy([step * NS for step in range(20)], [1.0] * 20, Window(0, 20 * NS), block_s=8.0)


def test_readings_outside_the_window_are_not_used() -> None:
    watts = [99.0] * 5 + [2.0] * 20 + [99.0] * 5
    estimate = power_energy([step * NS for step in range(30)], watts, Window(5 * NS, 24 * NS))
    assert estimate.value == pytest.approx(38.0)
    assert estimate.variance == 0.0


def test_unevenly_spaced_readings_of_a_steady_power_are_exact() -> None:
    drawn = random.Random(3)
    at_ns = sorted(drawn.randrange(10 * NS) for _ in range(50))
    assert power_energy(at_ns, [4.0] * 50, Window(0, 10 * NS)).value == pytest.approx(40.0)


def test_repeats_of_a_slow_sensor_do_not_make_the_interval_narrow() -> None:
    drawn = random.Random(4)
    fresh = [drawn.gauss(5.0, 1.0) for _ in range(600)]
    once = power_energy([step * NS // 10 for step in range(600)], fresh, WHOLE)
    repeated = [power for power in fresh for _ in range(20)]
    again = power_energy([step * NS // 200 for step in range(12_000)], repeated, WHOLE, block_s=0.2)
    assert math.sqrt(again.variance) == pytest.approx(math.sqrt(once.variance), rel=0.35)


RANGE_N = 262_143_328_850


@given(
    steps=st.lists(st.integers(0, RANGE_N - 1), min_size=1, max_size=40),
    start=st.integers(0, RANGE_N - 1),
)
def test_a_counter_is_unwrapped_exactly_however_often_it_begins_again(steps: list[int], start: int) -> None:
    true = list(itertools.accumulate(steps, initial=start))
    grown = unwrap([count % RANGE_N for count in true], RANGE_N)
    assert [count - grown[0] for count in grown] == [count - start for count in true]


def test_three_wraps_of_a_counter_read_often_enough_are_exact() -> None:
    """65,536 J at 1 kW: over three wraps in 200 s, read every 20 s."""
    range_n = 65_536_000_000
    at_ns = [step * 20 * NS for step in range(11)]
    true = [step * 20_000_000_000 for step in range(11)]
    grown = unwrap([(count + 60_000_000_000) % range_n for count in true], range_n)
    joules = [count / 1_000_000 for count in grown]
    assert joules[-1] - joules[0] == 200_000.0
    assert (60_000_000_000 + true[-1]) // range_n == 3
    estimate = counter_energy(at_ns, joules, Window(0, 200 * NS), refresh_s=0.001)
    assert estimate.value == 200_000.0
    assert estimate.ci95 == pytest.approx((199_999.0, 200_001.0))


@pytest.mark.parametrize("counts", [[5, 3], [0, 9, 8]])
def test_a_counter_that_goes_back_without_a_range_gives_nothing(counts: list[int]) -> None:
    with pytest.raises(EnergyError, match="went back"):
        unwrap(counts, None)


@pytest.mark.parametrize("count", [-1, 101])
def test_a_count_outside_the_range_gives_nothing(count: int) -> None:
    with pytest.raises(EnergyError, match="outside its range"):
        unwrap([50, count], 100)


def test_a_counter_that_was_reset_gives_nothing() -> None:
    range_n = 65_536_000_000
    joules = [count / 1e6 for count in unwrap([60_000_000_000, 5_000_000], range_n)]
    with pytest.raises(EnergyError, match="reset"):
        counter_energy([0, NS], joules, Window(0, NS), refresh_s=0.001, max_watts=1_000.0)


def test_a_counter_must_be_read_around_the_window() -> None:
    with pytest.raises(EnergyError, match="before and after"):
        counter_energy([1, NS], [0.0, 1.0], Window(0, NS), refresh_s=0.0)


@pytest.mark.parametrize("refresh_s", [0.001, 0.02, 0.1])
def test_a_counters_staleness_at_both_ends_is_in_its_interval(refresh_s: float) -> None:
    for seed in range(20):
        drawn = random.Random(seed)
        begin_ns, end_ns = drawn.randrange(NS), 6 * NS + drawn.randrange(NS)
        stale = [math.floor(at_ns / NS / refresh_s) * refresh_s * 8.0 for at_ns in (begin_ns, end_ns)]
        estimate = counter_energy([begin_ns, end_ns], stale, Window(begin_ns, end_ns), refresh_s=refresh_s)
        low, high = estimate.ci95
        assert low <= 8.0 * (end_ns - begin_ns) / NS <= high


@pytest.mark.parametrize("name", ["steady", "bursts of 30 ms at 10/s", "ramp"])
@pytest.mark.parametrize("window_s", [0.1, 1.0])
def test_an_averaging_sensor_read_after_the_load_gives_its_energy_within_one_percent(
    name: str, window_s: float
) -> None:
    """Idle 2 W, one minute of load from 10 s on, idle again; the sensor shows the mean of its last window."""
    load = LOADS[name]

    def power(at_s: float) -> float:
        return load.watts(at_s - 10.0) if 10.0 <= at_s < 70.0 else 2.0

    step_s = 0.005
    grid = [power((step + 0.5) * step_s) for step in range(int(80 / step_s))]
    sums = [0.0, *itertools.accumulate(grid)]
    span = int(window_s / step_s)
    at_ns = [int(step * step_s * NS) for step in range(span, len(grid), 4)]
    watts = [(sums[step] - sums[step - span]) / span for step in range(span, len(grid), 4)]
    tail_s = 2 * window_s
    found = averaged_energy(
        at_ns, watts, Window(10 * NS, 70 * NS), window_s=window_s, tail_s=tail_s, idle=Estimate(2.0)
    )
    assert found.value == pytest.approx(load.joules, rel=0.01)
    assert found.ci95[0] <= load.joules * 1.002
    assert found.ci95[1] >= load.joules * 0.998


@pytest.mark.parametrize(("freedom", "expected"), [(3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (math.inf, 1.960)])
def test_student_quantiles_are_those_of_the_tables(freedom: float, expected: float) -> None:
    assert t975(freedom) == pytest.approx(expected, rel=0.012)


def test_estimates_add_and_scale() -> None:
    total = Estimate(3.0, 4.0, 0.5, 10).plus(Estimate(1.0, 0.0, 0.25)).times(-2.0)
    assert total == Estimate(-8.0, 16.0, 1.5, 10)


@pytest.mark.parametrize(("first", "expected_s"), [(0, 0.0), (3, 3.0), (99, 9.0)])
def test_how_late_a_sensor_shows_a_load_is_seen_in_its_readings(first: int, expected_s: float) -> None:
    at_ns = [step * NS for step in range(10)]
    watts = [2.0 if step < first else 8.0 for step in range(10)]
    assert rise_s(at_ns, watts, Window(0, 9 * NS), idle_w=2.0, load_w=8.0) == expected_s
    assert rise_s(at_ns, watts, Window(0, 9 * NS), idle_w=2.0, load_w=2.0) == 0.0
