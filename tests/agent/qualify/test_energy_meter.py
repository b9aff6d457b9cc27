"""A meter around loads whose energy is known, in simulated time, with every kind of sensor."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgefleet_agent.qualify.energy.assess import unmeasured
from edgefleet_agent.qualify.energy.meter import EnergyMeter, EnergyPlan, measure_energy, plan_for, run_load
from edgefleet_agent.sensors.files import SensorFileError
from edgefleet_agent.sensors.probe import Sensors, probe
from edgefleet_agent.sensors.rails import Call, Rail, Total
from edgefleet_agent.sensors.reader import RailReader
from edgefleet_agent.sensors.sampler import SamplerClock, Trace, take_reading
from edgefleet_agent.sensors.thermal import Thermal
from edgefleet_contract.evidence import EnergyResult, EnergyStatus
from edgefleet_contract.profile import RailKind, ThrottleFlag
from edgefleet_hil.boards import build_board

NS = 1_000_000_000
IDLE_W, BUSY_W = 2.0, 10.0
INFERENCE_S = 0.02
BUSY_SHARE = 0.6
"""An inference draws full power for 60 % of its time, then waits for memory at half."""
NET_MJ = INFERENCE_S * (BUSY_SHARE * (BUSY_W - IDLE_W) + (1 - BUSY_SHARE) * (6.0 - IDLE_W)) * 1e3
PLAN = EnergyPlan(load_s=6.0, idle_s=2.0)


class Device:
    """A device in simulated time: what it draws, what it has drawn, and a sampler that reads while time passes."""

    def __init__(self, seed: int) -> None:
        self.at_ns = 0
        self.watts = IDLE_W
        self.joules = 0.0
        self.history: list[tuple[int, float]] = [(0, IDLE_W)]
        self.drawn = random.Random(seed)
        self.due: Callable[[int], None] = lambda _: None

    def pass_s(self, seconds: float) -> None:
        end_ns = self.at_ns + round(seconds * NS)
        self.due(end_ns)
        self.advance(end_ns)

    def advance(self, moment_ns: int) -> None:
        self.joules += self.watts * (moment_ns - self.at_ns) / NS
        self.at_ns = moment_ns

    def draws(self, watts: float, seconds: float) -> None:
        self.watts = watts
        self.history.append((self.at_ns, watts))
        self.pass_s(seconds)
        self.watts = IDLE_W
        self.history.append((self.at_ns, IDLE_W))

    def infer(self) -> None:
        self.draws(BUSY_W, INFERENCE_S * BUSY_SHARE)
        self.draws(6.0, INFERENCE_S * (1 - BUSY_SHARE))

    @property
    def clock(self) -> SamplerClock:
        return SamplerClock(lambda: self.at_ns, self.pass_s)

    def average_w(self, window_s: float) -> float:
        """Return the mean draw of the last window."""
        begin_ns, total, end_ns = self.at_ns - int(window_s * NS), 0.0, self.at_ns
        for since_ns, watts in reversed(self.history):
            total += watts * (end_ns - max(since_ns, begin_ns))
            end_ns = max(since_ns, begin_ns)
            if since_ns <= begin_ns:
                break
        return total / (window_s * NS)


class SimulatedSampler:
    """Reads at random moments as a device's time passes; the double of `Sampler`."""

    def __init__(self, device: Device, reader: RailReader, period_s: float, *, skips: bool = False) -> None:
        self.trace, self.marks = Trace(), Trace()
        self._device, self._reader = device, reader
        self._period_ns = int(period_s * NS)
        self._stratum = 0
        self._next_ns = 0
        self._skips = skips

    def start(self) -> None:
        self._origin_ns = self._device.at_ns
        self._plan_next()
        self._device.due = self._due

    def _plan_next(self) -> None:
        self._next_ns = self._origin_ns + int((self._stratum + self._device.drawn.random()) * self._period_ns)
        self._stratum += 1

    def _due(self, end_ns: int) -> None:
        while self._next_ns <= end_ns:
            self._device.advance(max(self._next_ns, self._device.at_ns))
            take_reading(self._reader, self.trace, self._device.clock.now_ns)
            if self._skips:
                self._stratum = max(self._stratum, (self._device.at_ns - self._origin_ns) // self._period_ns)
            self._plan_next()

    def mark(self) -> int:
        take_reading(self._reader, self.marks, self._device.clock.now_ns)
        return self._device.at_ns

    def stop(self) -> None:
        self._device.due = lambda _: None


def rail(read: Callable[[], float], kind: RailKind, **said: object) -> Rail:
    made = Rail("VDD_IN", "ina3221", "module", kind, Call(read), "a simulated sensor")
    return replace(made, **said)  # type: ignore[arg-type]


def meter_on(device: Device, *rails: Rail, inside: tuple[Rail, ...] = (), **said: object) -> EnergyMeter:
    total = replace(Total(rails, "module", "a rule"), **said)  # type: ignore[arg-type]
    meter = EnergyMeter(total, inside, PLAN, device.clock, device.drawn.random)
    meter.make_sampler = lambda reader, period_s, *_: SimulatedSampler(device, reader, period_s)
    return meter


def energy_of(device: Device, meter: EnergyMeter, infer: Callable[[], None] | None = None) -> EnergyResult:
    meter.start()
    n = run_load(infer or device.infer, PLAN.load_s, meter)
    return meter.stop(n)


KINDS: dict[str, Callable[[Device], Rail]] = {
    "instant": lambda device: rail(lambda: device.watts, RailKind.INSTANT),
    "counter": lambda device: rail(lambda: int(device.joules * 1e6), RailKind.COUNTER),
    "average of 1 s": lambda device: rail(lambda: device.average_w(1.0), RailKind.AVERAGE, window_s=1.0),
    "average of 0.1 s": lambda device: rail(lambda: device.average_w(0.1), RailKind.AVERAGE, window_s=0.1),
}


def made(kind: str, device: Device) -> Rail:
    built = KINDS[kind](device)
    if kind == "counter":
        source = built.source
        assert isinstance(source, Call)
        return replace(built, source=Call(source.read, 1_000_000), refresh_s=0.001)
    return built


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_sensor_gives_the_energy_of_an_inference(kind: str) -> None:
    device = Device(1)
    result = energy_of(device, meter_on(device, made(kind, device)))
    assert (result.status, result.reason) == (EnergyStatus.MEASURED, None)
    assert result.per_inference_mj == pytest.approx(NET_MJ, rel=0.02)
    assert result.ci95_per_inference_mj is not None
    assert result.ci95_per_inference_mj[0] <= NET_MJ <= result.ci95_per_inference_mj[1]
    assert result.idle_before_w == pytest.approx(IDLE_W)
    assert result.idle_after_w == pytest.approx(IDLE_W)
    assert result.gross_j == pytest.approx((result.net_j or 0) + IDLE_W * (result.duration_s or 0))
    assert result.n is not None
    assert result.n > 200
    assert result.rails == ("VDD_IN",)
    assert "never run on hardware by us" in str(result.proven_on)


def test_the_interval_covers_the_truth_over_many_runs() -> None:
    covered_n = 0
    for seed in range(40):
        device = Device(seed)
        low, high = energy_of(device, meter_on(device, made("instant", device))).ci95_per_inference_mj or (0.0, 0.0)
        covered_n += low <= NET_MJ <= high
    assert covered_n >= 36


def held(device: Device, refresh_s: float) -> Callable[[], float]:
    """A sensor that looks at the device only every `refresh_s` by itself, at regular moments."""
    last: dict[str, float] = {"tick": -1.0, "watts": IDLE_W}

    def read() -> float:
        tick = device.at_ns // int(refresh_s * NS)
        if tick != last["tick"]:
            moment_ns = tick * int(refresh_s * NS)
            past = [watts for since_ns, watts in device.history[-40:] if since_ns <= moment_ns]
            last.update(tick=tick, watts=past[-1] if past else IDLE_W)
        return last["watts"]

    return read


def test_a_slow_sensor_that_beats_with_the_load_is_covered_thanks_to_random_pauses() -> None:
    """It looks every 0.1 s, five inferences exactly: without pauses it would see one moment of them for ever."""
    covered_n, spread = 0, []
    for seed in range(20):
        device = Device(seed)
        slow = rail(held(device, 0.1), RailKind.INSTANT, refresh_s=0.1)
        result = energy_of(device, meter_on(device, slow))
        low, high = result.ci95_per_inference_mj or (0.0, 0.0)
        covered_n += low <= NET_MJ <= high
        spread.append((result.per_inference_mj or 0.0) / NET_MJ)
    assert covered_n >= 17
    assert max(spread) - min(spread) > 0.02


def test_a_slow_sensor_under_a_load_without_pauses_gives_nothing() -> None:
    device = Device(1)
    meter = meter_on(device, rail(lambda: device.watts, RailKind.INSTANT, refresh_s=0.1))
    meter.start()
    for _ in range(300):
        device.infer()
    result = meter.stop(300)
    assert result.status is EnergyStatus.UNMEASURED
    assert "beats with it would not be seen" in str(result.reason)


def test_partial_rails_are_modelled_and_say_what_they_leave_out() -> None:
    device = Device(1)
    meter = meter_on(device, made("instant", device), modelled=True, reason="a part only", leaves_out="USB")
    result = energy_of(device, meter)
    assert (result.status, result.reason, result.leaves_out) == (EnergyStatus.MODELLED, "a part only", "USB")
    assert result.per_inference_mj == pytest.approx(NET_MJ, rel=0.02)


def test_rails_of_a_sum_are_added_reading_by_reading() -> None:
    device = Device(1)

    def part(share: float) -> Rail:
        return rail(lambda: device.watts * share, RailKind.INSTANT, name=f"R{share}")

    rails = (part(0.75), part(0.25))
    result = energy_of(device, meter_on(device, *rails))
    assert result.per_inference_mj == pytest.approx(NET_MJ, rel=0.02)
    assert result.rails == ("R0.75", "R0.25")


def test_counters_and_averages_add_up_to_a_mixed_total() -> None:
    device = Device(1)
    result = energy_of(device, meter_on(device, made("counter", device), made("average of 1 s", device)))
    assert result.kind == "mixed"
    assert result.per_inference_mj == pytest.approx(2 * NET_MJ, rel=0.02)


def test_a_counter_that_wraps_under_the_load_is_exact() -> None:
    device = Device(1)
    range_n = 9_000_000
    counter = rail(lambda: int(device.joules * 1e6) % range_n, RailKind.COUNTER, range_n=range_n)
    counter = replace(counter, source=Call(lambda: int(device.joules * 1e6) % range_n, 1_000_000))
    result = energy_of(device, meter_on(device, counter))
    assert (result.gross_j or 0) > 4 * 9.0
    assert result.per_inference_mj == pytest.approx(NET_MJ, rel=1e-4)


def test_a_platform_counter_below_the_packages_it_contains_is_not_believed() -> None:
    device = Device(1)
    platform = replace(made("counter", device), source=Call(lambda: int(device.joules * 0.5e6), 1_000_000), name="psys")
    package = replace(made("counter", device), name="package-0")
    result = energy_of(device, meter_on(device, platform, inside=(package,)))
    assert result.status is EnergyStatus.UNMEASURED
    assert "less than" in str(result.reason)
    assert "package-0" in str(result.reason)


def test_a_load_that_draws_no_more_than_idle_has_no_net_energy() -> None:
    device = Device(1)
    result = energy_of(device, meter_on(device, made("counter", device)), lambda: device.draws(1.5, 0.02))
    assert result.status is EnergyStatus.UNMEASURED
    assert "cannot be told from the idle draw" in str(result.reason)


def test_a_faint_load_says_that_its_interval_holds_zero() -> None:
    device = Device(5)
    noisy = rail(lambda: device.watts + device.drawn.gauss(0, 2.0), RailKind.INSTANT)
    result = energy_of(device, meter_on(device, noisy), lambda: device.draws(IDLE_W + 0.05, 0.02))
    assert result.status is EnergyStatus.UNMEASURED or "holds 0" in str(result.reason)
    if result.ci95_per_inference_mj is not None:
        assert result.ci95_per_inference_mj[0] == 0.0


def test_an_idle_draw_that_drifts_widens_the_interval() -> None:
    quiet, drifting = Device(1), Device(1)
    plain = energy_of(quiet, meter_on(quiet, made("counter", quiet)))
    source = Call(lambda: int((drifting.joules + 0.02 * (drifting.at_ns / NS) ** 2) * 1e6), 1_000_000)
    result = energy_of(drifting, meter_on(drifting, rail(lambda: 0, RailKind.COUNTER, source=source, refresh_s=0.001)))
    width = [(r.ci95_net_j or (0, 0))[1] - (r.ci95_net_j or (0, 0))[0] for r in (plain, result)]
    assert width[1] > 3 * width[0]


def test_a_sensor_that_fails_now_and_then_is_used_and_one_that_fails_often_is_not() -> None:
    for share, status in ((0.02, EnergyStatus.MEASURED), (0.3, EnergyStatus.UNMEASURED)):
        device = Device(1)
        chance = random.Random(3)

        def read(device: Device = device, chance: random.Random = chance, share: float = share) -> float:
            if device.at_ns > NS // 10 and chance.random() < share:
                msg = "curr1_input: Resource temporarily unavailable"
                raise SensorFileError(msg)
            return device.watts

        result = energy_of(device, meter_on(device, rail(read, RailKind.INSTANT)))
        assert result.status is status
        assert result.status is EnergyStatus.MEASURED or "readings failed" in str(result.reason)


def test_a_sensor_that_is_gone_when_the_meter_starts_is_a_reason(tmp_path: Path) -> None:
    sensors = probe(build_board("orin-nano", tmp_path))
    for path in (tmp_path / "class/hwmon/hwmon1").resolve().iterdir():
        path.unlink()
    meter = EnergyMeter.of(sensors)
    assert meter is not None
    meter.start()
    result = meter.stop(100)
    assert result.status is EnergyStatus.UNMEASURED
    assert "in1_input" in str(result.reason)


def test_a_machine_without_sensors_runs_no_load() -> None:
    sensors = Sensors((), Total(reason="no power sensor on this device"), Thermal)
    assert measure_energy(lambda: pytest.fail("a load ran"), sensors) == unmeasured("no power sensor on this device")


def test_what_the_model_raises_closes_the_sensors_and_is_raised(tmp_path: Path) -> None:
    def broken() -> None:
        msg = "the model failed"
        raise RuntimeError(msg)

    sensors = probe(build_board("rapl-two-sockets", tmp_path))
    with pytest.raises(RuntimeError, match="the model failed"):
        measure_energy(broken, sensors, EnergyPlan(load_s=0.0, idle_s=0.0))


def test_a_pass_takes_about_as_long_as_a_latency_run() -> None:
    assert plan_for(10.0) == EnergyPlan(6.0, 2.0)
    assert plan_for(1000.0).load_s == 60.0


def filtered(device: Device, lag_s: float) -> Callable[[], float]:
    """A gauge that shows the mean of the last seconds as if it were the moment's."""
    return lambda: device.average_w(lag_s)


@pytest.mark.parametrize(("lag_s", "status"), [(0.2, EnergyStatus.MEASURED), (5.0, EnergyStatus.UNMEASURED)])
def test_a_gauge_that_filters_secretly_widens_the_interval_or_is_refused(lag_s: float, status: EnergyStatus) -> None:
    device = Device(1)
    result = energy_of(device, meter_on(device, rail(filtered(device, lag_s), RailKind.INSTANT)))
    assert result.status is status
    if result.ci95_per_inference_mj is not None:
        assert result.ci95_per_inference_mj[0] <= NET_MJ <= result.ci95_per_inference_mj[1]
    else:
        assert "too slow for this run" in str(result.reason)


def test_an_average_over_an_unknown_time_gives_nothing() -> None:
    device = Device(1)
    result = energy_of(device, meter_on(device, rail(lambda: device.watts, RailKind.AVERAGE)))
    assert "a time it does not tell" in str(result.reason)


def test_a_load_that_leaves_the_sampler_no_turn_gives_nothing() -> None:
    """As a runtime does that keeps Python's lock while it infers: readings come only between inferences."""
    device = Device(1)
    meter = meter_on(device, made("instant", device))

    def stubborn() -> None:
        due, device.due = device.due, lambda _: None
        device.infer()
        device.due = due

    def skipping(reader: RailReader, period_s: float, *_: object) -> SimulatedSampler:
        return SimulatedSampler(device, reader, period_s, skips=True)

    meter.make_sampler = skipping
    result = energy_of(device, meter, stubborn)
    assert result.status is EnergyStatus.UNMEASURED
    assert "no turn" in str(result.reason)


@pytest.mark.parametrize(("inference_s", "pauses"), [(2e-6, False), (0.02, True)])
def test_only_inferences_a_sensor_could_beat_with_are_paused(inference_s: float, pauses: bool) -> None:
    device = Device(1)
    meter = meter_on(device, made("instant", device))
    slept: list[float] = []

    def sleep_s(seconds: float) -> None:
        slept.append(seconds)
        device.pass_s(seconds)

    meter.clock = SamplerClock(meter.clock.now_ns, sleep_s)
    n = run_load(lambda: device.draws(BUSY_W, inference_s), 100 * inference_s, meter)
    assert bool(slept) is pauses
    assert meter.dithered
    assert n >= 90


def test_a_load_that_never_paused_is_not_said_to_have_paused() -> None:
    device = Device(1)
    alone, counted = meter_on(device, made("instant", device)), meter_on(device, made("counter", device))
    assert run_load(lambda: device.draws(BUSY_W, 2.0), 1.0, alone) == 1
    assert run_load(lambda: device.draws(BUSY_W, 0.02), 1.0, counted) > 1
    assert not alone.dithered
    assert not counted.dithered


def test_a_slow_model_pauses_after_each_inference() -> None:
    device = Device(1)
    meter = meter_on(device, made("instant", device))
    began_ns = meter.clock.now_ns()
    n = run_load(lambda: device.draws(BUSY_W, 0.5), 6.0, meter)
    paused_s = (meter.clock.now_ns() - began_ns) / NS - 0.5 * n
    assert meter.dithered
    assert paused_s > 1.0


def test_energy_measured_while_the_device_was_slowed_down_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [Thermal(throttle=(ThrottleFlag(name="oc3", source="soctherm_oc", events_n=n),)) for n in (4, 5)]
    counter = Rail("r", "test", "device", RailKind.COUNTER, Call(time.process_time_ns, 1_000_000_000), "cpu time")
    sensors = Sensors((counter,), Total((counter,), "device", "a rule"), lambda: looks.pop(0))
    result = measure_energy(lambda: sum(range(1000)), sensors, EnergyPlan(load_s=0.1, idle_s=0.02))
    assert result.status is EnergyStatus.MEASURED
    assert "slowed down meanwhile" in str(result.reason)


def test_a_sensor_that_averages_over_a_minute_is_refused_before_any_load() -> None:
    device = Device(1)
    slow = rail(lambda: device.watts, RailKind.AVERAGE, window_s=51.0)
    sensors = Sensors((slow,), Total((slow,), "module", "a rule"), Thermal)
    result = measure_energy(lambda: pytest.fail("a load ran"), sensors, PLAN)
    assert "averages over 51 s" in str(result.reason)
