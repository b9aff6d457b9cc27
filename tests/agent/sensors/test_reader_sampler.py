"""Reading rails fast, and at random moments."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from edgefleet_agent.sensors.files import SensorFileError
from edgefleet_agent.sensors.probe import probe
from edgefleet_agent.sensors.rails import Call, FileProduct, Rail
from edgefleet_agent.sensors.reader import RailReader, Row
from edgefleet_agent.sensors.sampler import (
    COUNTER_S,
    FASTEST_S,
    Sampler,
    SamplerClock,
    Trace,
    choose_period_s,
    read_cost_s,
    sample,
    take_reading,
)
from edgefleet_contract.profile import RailKind
from edgefleet_hil.boards import write_files

Tree = Callable[[str], Path]


def rail(source: FileProduct | Call, kind: RailKind = RailKind.INSTANT, window_s: float | None = None) -> Rail:
    return Rail("r", "test", "device", kind, source, "a test", window_s=window_s)


def files(root: Path, **numbers: object) -> FileProduct:
    write_files(root, numbers)
    return FileProduct(tuple(root / name for name in numbers), 1_000_000)


class FakeTime:
    """A clock that only sleeping moves, and reading when it costs something."""

    def __init__(self) -> None:
        self.at_ns = 0

    def now_ns(self) -> int:
        return self.at_ns

    def sleep_s(self, seconds: float) -> None:
        self.at_ns += int(seconds * 1e9)

    @property
    def clock(self) -> SamplerClock:
        return SamplerClock(self.now_ns, self.sleep_s)


class Costly:
    """A reading that takes some time."""

    def __init__(self, time: FakeTime, cost_ns: int = 0, fails: Callable[[int], bool] = lambda _: False) -> None:
        self._time, self._cost_ns, self._fails, self.n = time, cost_ns, fails, 0

    def read(self) -> Row:
        self.n += 1
        self._time.at_ns += self._cost_ns
        if self._fails(self.n):
            raise SensorFileError("EAGAIN")
        return (self._time.at_ns,)


def test_kept_files_give_new_values_without_being_opened_again(tmp_path: Path) -> None:
    with RailReader([rail(files(tmp_path, mv=5000, ma=100))]) as reader:
        assert reader.values(reader.read()) == (0.5,)
        (tmp_path / "ma").write_text("-200\n")
        assert reader.values(reader.read()) == (-1.0,)


def test_a_value_that_turns_bad_is_an_error_with_the_files_name(tmp_path: Path) -> None:
    with RailReader([rail(files(tmp_path, mv=5000, ma=100))]) as reader:
        (tmp_path / "ma").write_text("5_0\n")
        with pytest.raises(SensorFileError, match=r"ma holds '5_0'"):
            reader.read()


def test_a_rail_of_kilowatts_is_misread(tmp_path: Path) -> None:
    with (
        RailReader([rail(files(tmp_path, mv=2_000_000, ma=10_000))]) as reader,
        pytest.raises(SensorFileError, match="no device"),
    ):
        reader.values(reader.read())


def test_a_reader_that_cannot_open_one_file_closes_the_others(tmp_path: Path) -> None:
    source = files(tmp_path, mv=1, ma=1)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(SensorFileError):
        RailReader([rail(source), rail(FileProduct((tmp_path / "gone",), 1))])
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_files_and_calls_keep_their_places(tmp_path: Path) -> None:
    rails = [rail(Call(lambda: 1.0)), rail(files(tmp_path, uw=2_000_000)), rail(Call(lambda: 3_000, 1_000))]
    with RailReader(rails) as reader:
        assert reader.values(reader.read()) == (1.0, 2.0, 3.0)


def test_one_step_of_a_chip_is_learned_from_what_it_gave(tmp_path: Path) -> None:
    with RailReader([rail(files(tmp_path, mv=5000, ma=104))]) as reader:
        rows = [(5000, 104), (5000, 112), (5000, 104), (5000, 136)]
        # 1 mV at 136 mA, since the voltage never moved, and 8 mA at 5 V.
        assert reader.resolutions(rows) == pytest.approx((0.136e-3 + 8 * 5e-3,))


def test_each_period_is_read_once_at_a_random_moment() -> None:
    time, trace = FakeTime(), Trace()
    reader, draw = Costly(time), random.Random(1).random
    sample(reader, trace, time.clock, period_s=0.01, draw=draw, stopped=lambda: time.at_ns >= 1_000_000_000)
    periods = [at_ns // 10_000_000 for at_ns in trace.at_ns]
    assert periods == list(range(100)) or periods == list(range(len(periods)))
    within = [at_ns % 10_000_000 for at_ns in trace.at_ns]
    assert min(within) < 500_000
    assert max(within) > 9_500_000


def test_periods_that_were_slept_through_are_left_out() -> None:
    time, trace = FakeTime(), Trace()
    reader = Costly(time, cost_ns=35_000_000)
    sample(reader, trace, time.clock, period_s=0.01, draw=lambda: 0.0, stopped=lambda: time.at_ns >= 1_000_000_000)
    assert 20 <= len(trace.rows) <= 30


def test_a_failed_reading_is_counted_and_sampling_goes_on() -> None:
    time, trace = FakeTime(), Trace()
    reader = Costly(time, fails=lambda n: n % 10 == 0)
    sample(reader, trace, time.clock, period_s=0.01, draw=lambda: 0.5, stopped=lambda: time.at_ns >= 1_000_000_000)
    assert trace.failed_n == 10
    assert trace.last_failure == "EAGAIN"
    assert len(trace.rows) >= 90


def test_a_reading_stands_at_its_middle() -> None:
    time, trace = FakeTime(), Trace()
    take_reading(Costly(time, cost_ns=1000), trace, time.now_ns)
    assert trace.at_ns == [500]


@pytest.mark.parametrize(
    ("kind", "call", "window_s", "cost_s", "period_s"),
    [
        (RailKind.INSTANT, False, None, 6e-6, FASTEST_S),
        (RailKind.INSTANT, False, None, 2e-3, 0.01),
        (RailKind.INSTANT, True, None, 8e-3, 0.16),
        (RailKind.AVERAGE, True, 1.0, 1e-4, 0.02),
        (RailKind.COUNTER, False, None, 6e-6, COUNTER_S),
    ],
)
def test_how_often_to_read_follows_from_the_sensor(
    tmp_path: Path, kind: RailKind, call: bool, window_s: float | None, cost_s: float, period_s: float
) -> None:
    source = Call(lambda: 1.0) if call else files(tmp_path, uw=1)
    assert choose_period_s((rail(source, kind, window_s),), cost_s) == pytest.approx(period_s)


def test_the_cost_of_a_reading_is_measured() -> None:
    time = FakeTime()
    assert read_cost_s(Costly(time, cost_ns=2_000_000), time.clock) == 0.002


def test_a_sampler_reads_beside_and_marks_at_once(tree: Tree) -> None:
    total = probe(tree("orin-nano")).total
    with RailReader(total.rails) as reader:
        sampler = Sampler(reader, period_s=0.001, draw=random.Random(2).random, clock=SamplerClock())
        sampler.start()
        first_ns = sampler.mark()
        while len(sampler.trace.rows) < 20:
            pass
        assert sampler.mark() > first_ns
        sampler.stop()
        assert {reader.values(row) for row in sampler.trace.rows} == {(4.95,)}
        assert sampler.trace.at_ns == sorted(sampler.trace.at_ns)
