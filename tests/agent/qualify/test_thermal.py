"""Throttling by evidence, the start gate, and phases of a run."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from edgefleet_agent.qualify.energy.thermal import (
    START_C,
    ThermalWatch,
    compare,
    judged,
    start_limit_c,
    wait_until_cool,
)
from edgefleet_agent.qualify.energy.thermal_phases import ThermalPoint, label_phases
from edgefleet_agent.sensors.probe import probe
from edgefleet_agent.sensors.thermal import Thermal
from edgefleet_contract.evidence import LatencyResult, LatencyVerdict, Phase, ThermalResult
from edgefleet_contract.profile import FrequencyReading, TemperatureReading, ThrottleFlag
from edgefleet_hil.boards import add_cooling, build_board, write_files


def seen(**said: object) -> Thermal:
    return Thermal(throttle=(ThrottleFlag.model_validate({"name": "brake", "source": "test", **said}),))


@pytest.mark.parametrize(
    ("before", "after", "throttled"),
    [
        ({"events_n": 7}, {"events_n": 7}, False),
        ({"events_n": 7}, {"events_n": 8}, True),
        ({"events_n": 7}, {"events_n": 0}, True),  # counted anew: something happened to it
        ({"active": False}, {"active": False}, False),
        ({"active": False}, {"active": True}, True),
        ({"active": True}, {"active": False}, True),
        ({"active": True}, {"active": True}, True),
        ({"active": False, "since_boot": False}, {"active": False, "since_boot": True}, True),
        ({"active": False, "since_boot": True}, {"active": False, "since_boot": True}, False),
    ],
)
def test_throttling_is_a_change_of_a_count_a_brake_that_is_on_or_a_bit_that_came_on(
    before: dict[str, object], after: dict[str, object], throttled: bool
) -> None:
    found = compare(seen(**before), seen(**after))
    assert found.throttled is throttled
    assert (found.reason is not None) is throttled


def test_a_sticky_bit_that_was_set_before_leaves_a_doubt() -> None:
    stuck = {"active": False, "since_boot": True}
    assert "cannot be told" in str(compare(seen(**stuck), seen(**stuck)).unsure)


def after_change(root: Path, change: Callable[[Path], object]) -> ThermalResult:
    watch = ThermalWatch(probe(root).read_thermal)
    change(root)
    return watch.stop()


CHANGES: dict[str, tuple[str, Callable[[Path], object], bool]] = {
    "over-current alarm": ("orin-nano", lambda root: write_files(root, {"class/hwmon/hwmon3/oc3_event_cnt": 8}), True),
    "throttle alert": (
        "orin-nano",
        lambda root: write_files(root, {"class/thermal/cooling_device1/cur_state": 1}),
        True,
    ),
    "faster fan": ("orin-nano", lambda root: write_files(root, {"class/thermal/cooling_device0/cur_state": 3}), False),
    "a power mode's cap": (
        "orin-nano",
        lambda root: write_files(root, {"devices/system/cpu/cpufreq/policy0/scaling_max_freq": 729600}),
        False,
    ),
    "hot surface": ("orin-nano", lambda root: write_files(root, {"class/thermal/cooling_device3/cur_state": 0}), False),
    "pi under-voltage": ("pi5", lambda root: write_files(root, {"vcgencmd/get_throttled": "throttled=0x90000"}), True),
    "pi throttled now": ("pi5", lambda root: write_files(root, {"vcgencmd/get_throttled": "throttled=0x80004"}), True),
    "pi unchanged": ("pi5", lambda root: root, False),
    "phone governor": ("android", lambda root: write_files(root, {"class/thermal/cooling_device0/cur_state": 4}), True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_boards_evidence_is_told_from_what_is_none(tmp_path: Path, name: str) -> None:
    board, change, throttled = CHANGES[name]
    result = after_change(build_board(board, tmp_path), change)
    assert result.throttled is throttled
    assert result.start_c is not None


def test_temperatures_and_clocks_are_kept_with_the_result(tmp_path: Path) -> None:
    result = after_change(build_board("orin-nano", tmp_path), lambda root: root)
    assert (result.start_c, result.end_c, result.clock_start_mhz) == (48.5, 48.5, 729.6)


def hot(*celsius: float, trip_c: float | None = None) -> Callable[[], Thermal]:
    """Return a look that sees these temperatures one after the other, the last for ever."""
    left = list(celsius)

    def look() -> Thermal:
        now = left.pop(0) if len(left) > 1 else left[0]
        return Thermal(temperatures=(TemperatureReading(name="cpu", celsius=now, passive_trip_c=trip_c),))

    return look


def test_a_hot_device_is_waited_for_and_a_cool_one_is_not() -> None:
    slept: list[float] = []
    gate = wait_until_cool(hot(90, 80, 71, 69), slept.append)
    assert (gate.reached, gate.waited_s, gate.start_c, len(slept)) == (True, 3.0, 69, 3)
    assert wait_until_cool(hot(40), slept.append).waited_s == 0.0


def test_the_wait_is_bounded_and_its_end_is_said() -> None:
    slept: list[float] = []
    watch = ThermalWatch(hot(95), slept.append)
    assert sum(slept) == 30.0
    assert "30 s were not enough to cool" in str(watch.stop().reason)


def test_a_device_without_temperatures_starts_at_once() -> None:
    assert wait_until_cool(Thermal, lambda _: pytest.fail("waited")).reached


@pytest.mark.parametrize(("trip_c", "limit_c"), [(None, START_C), (99.0, 70.0), (80.0, 65.0), (40.0, 45.0)])
def test_the_start_temperature_lies_below_the_lowest_passive_trip(trip_c: float | None, limit_c: float) -> None:
    assert start_limit_c(hot(20, trip_c=trip_c)()) == limit_c


def latency(verdict: LatencyVerdict, reason: str | None) -> LatencyResult:
    figures = dict.fromkeys(("p50_ms", "p95_ms", "p99_ms", "min_ms", "max_ms", "mean_ms", "load_ms", "first_ms"), 1.0)
    return LatencyResult.model_validate(
        figures
        | {"n": 100, "n_eff": 100.0, "verdict": verdict, "reason": reason, "warmup_n": 1, "duration_s": 1.0}
        | {"threads": 1, "spinning": False, "preempted_n": 0, "harness_floor_ms": 0.0}
    )


def test_a_throttled_run_says_so_and_keeps_what_else_was_wrong() -> None:
    braked = ThermalResult(throttled=True, reason="brake was on after")
    assert judged(latency(LatencyVerdict.VALID, None), braked).reason == "brake was on after"
    found = judged(latency(LatencyVerdict.CONTENDED, "a neighbour"), braked)
    assert found.verdict is LatencyVerdict.THROTTLED
    assert found.reason == "brake was on after; also contended: a neighbour"
    kept = latency(LatencyVerdict.VALID, None)
    assert judged(kept, ThermalResult(throttled=False)) is kept


def run(
    celsius: Callable[[float], float], mhz: Callable[[float], float], *, seconds: int = 120, seed: int = 1
) -> list[Phase]:
    drawn = random.Random(seed)
    points = [
        ThermalPoint(float(at_s), celsius(at_s) + drawn.gauss(0, 0.3), mhz(at_s) * (1 + drawn.gauss(0, 0.005)))
        for at_s in range(seconds)
    ]
    spans = label_phases(points)
    assert spans[0].begin_s == 0.0
    assert spans[-1].end_s == points[-1].at_s
    return [span.phase for span in spans if span.end_s - span.begin_s >= 5]


def warming(at_s: float) -> float:
    return 80.0 - 40.0 * math.exp(-at_s / 15.0)


@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_warms_up_and_holds_is_cold_then_steady(seed: int) -> None:
    assert run(warming, lambda _: 1500.0, seed=seed) == [Phase.COLD, Phase.STEADY]


@pytest.mark.parametrize("seed", range(5))
def test_a_run_whose_clock_falls_when_hot_ends_throttled(seed: int) -> None:
    assert run(warming, lambda at_s: 1500.0 if at_s < 70 else 1100.0, seed=seed) == [
        Phase.COLD,
        Phase.STEADY,
        Phase.THROTTLED,
    ]


def test_a_run_at_one_temperature_is_steady() -> None:
    assert run(lambda _: 55.0, lambda _: 1500.0) == [Phase.STEADY]


def test_a_clock_that_is_low_on_a_cool_chip_saves_power() -> None:
    assert Phase.THROTTLED not in run(warming, lambda at_s: 800.0 if at_s < 10 else 1500.0)


def test_single_low_readings_of_a_clock_are_no_throttling() -> None:
    assert run(lambda _: 80.0, lambda at_s: 700.0 if at_s % 20 == 7 else 1500.0) == [Phase.STEADY]


def test_too_few_points_have_no_phase() -> None:
    assert label_phases([ThermalPoint(0.0, 40.0, 1500.0)] * 4) == ()


def test_a_brake_added_meanwhile_is_not_compared(tmp_path: Path) -> None:
    result = after_change(
        build_board("orin-nano", tmp_path), lambda root: add_cooling(root, 9, "cv0-throttle-alert", 1, 1)
    )
    assert result.throttled is False


@pytest.mark.parametrize("off_again", [True, False])
def test_a_brake_that_was_on_only_in_between_is_seen(tmp_path: Path, off_again: bool) -> None:
    root = build_board("orin-nano", tmp_path)
    watch = ThermalWatch(probe(root).read_thermal)
    for state in (1, 0) if off_again else (0, 0):
        write_files(root, {"class/thermal/cooling_device1/cur_state": state})
        watch.look()
    result = watch.stop()
    assert result.throttled is off_again
    assert ("in between: cpu-throttle-alert" in str(result.reason)) is off_again


class Board:
    """A board whose temperature and clock follow from the time, on a clock the test moves."""

    def __init__(self, celsius: Callable[[float], float], mhz: Callable[[float], float] | None = None) -> None:
        self.at_s = 0.0
        self._celsius, self._mhz = celsius, mhz

    def look(self) -> Thermal:
        zone = TemperatureReading(name="cpu", celsius=self._celsius(self.at_s))
        slow = FrequencyReading(name="cpufreq policy0", mhz=600.0)
        clocks = (slow, FrequencyReading(name="cpufreq policy4", mhz=self._mhz(self.at_s))) if self._mhz else ()
        return Thermal(temperatures=(zone,), frequencies=clocks)

    def watched(self, seconds: int) -> ThermalResult:
        watch = ThermalWatch(self.look, now_s=lambda: self.at_s)
        for _ in range(seconds):
            self.at_s += 1.0
            watch.look()
        return watch.stop()


def test_a_watched_run_tells_its_phases_its_peak_and_its_lowest_clock() -> None:
    found = Board(warming, lambda at_s: 1500.0 if at_s < 70 else 1100.0).watched(120)
    assert [span.phase for span in found.phases] == [Phase.COLD, Phase.STEADY, Phase.THROTTLED]
    assert found.phases[0].begin_s == 0.0
    assert found.phases[-1].begin_s == pytest.approx(70, abs=3)
    assert found.phases[-1].end_s == 120.0
    assert (found.clock_start_mhz, found.clock_lowest_mhz, found.clock_end_mhz) == (1500.0, 1100.0, 1100.0)
    assert found.peak_c == pytest.approx(80.0, abs=0.1)


def test_a_board_without_a_clock_has_phases_but_none_of_them_is_throttled() -> None:
    found = Board(warming).watched(120)
    assert [span.phase for span in found.phases] == [Phase.COLD, Phase.STEADY]
    assert found.clock_lowest_mhz is None


def test_a_machine_without_temperatures_has_no_phases() -> None:
    watch = ThermalWatch(Thermal)
    for _ in range(20):
        watch.look()
    found = watch.stop()
    assert (found.phases, found.peak_c) == ((), None)


def test_a_clock_to_and_fro_every_second_leaves_a_bounded_record() -> None:
    found = Board(lambda _: 80.0, lambda at_s: 1500.0 if at_s // 3 % 2 else 900.0).watched(2000)
    assert 0 < len(found.phases) <= 64


def test_where_no_level_lasted_and_the_clock_moved_that_is_said() -> None:
    cool = ThermalResult(throttled=False, clock_start_mhz=1500.0, clock_lowest_mhz=900.0, clock_end_mhz=1480.0)
    found = judged(latency(LatencyVerdict.UNSTEADY, "no level lasted"), cool)
    assert found.verdict is LatencyVerdict.UNSTEADY
    assert found.reason == "no level lasted; meanwhile the CPU's clock went between 900 and 1500 MHz"
    still = ThermalResult(throttled=False, clock_start_mhz=1500.0, clock_lowest_mhz=1480.0, clock_end_mhz=1500.0)
    for kept, thermal in ((LatencyVerdict.VALID, cool), (LatencyVerdict.UNSTEADY, still)):
        assert judged(latency(kept, "why"), thermal).reason == "why"
