"""A meter the operator names: somebody else's code, whatever it does."""

from __future__ import annotations

import argparse
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgefleet_agent.config import ConfigError, add_meter_option, meter_environment
from edgefleet_agent.jobs import run_job
from edgefleet_agent.qualify.energy.external import measure_energy_here
from edgefleet_agent.qualify.energy.meter import EnergyPlan
from edgefleet_agent.sensors.external import METER_VARIABLE, ExternalMeter, opened_meter
from edgefleet_agent.sensors.files import SensorFileError
from edgefleet_agent.sensors.probe import Sensors
from edgefleet_agent.sensors.rails import Total
from edgefleet_agent.sensors.thermal import Thermal
from edgefleet_contract.child import ChildLimits
from edgefleet_contract.evidence import EnergyResult, EnergyStatus
from edgefleet_contract.job import LatencyBudget, QualifyAnswer, QualifyJob
from edgefleet_hil.meter import SimulatedMeter, WorkerMeter

PLAN = EnergyPlan(load_s=0.2, idle_s=0.05)
NONE = Sensors((), Total(reason="no power sensor on this device"), Thermal)
Offer = Callable[[object], str]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Make a factory importable and return its reference."""

    def offered(factory: object) -> str:
        module = types.ModuleType("bench_meters")
        module.__dict__["made"] = factory
        monkeypatch.setitem(sys.modules, "bench_meters", module)
        return "bench_meters:made"

    return offered


def energy_by(reference: str | None) -> EnergyResult:
    return measure_energy_here(lambda: sum(range(2000)), NONE, PLAN, {METER_VARIABLE: reference} if reference else {})


def test_the_meter_that_is_shipped_gives_a_trial_its_energy() -> None:
    found = energy_by("edgefleet_hil.meter:worker_meter")
    assert found.status is EnergyStatus.MODELLED
    assert found.reason == "the meter is simulated: its figures are made, not measured"
    assert found.sensor == "external meter simulated meter (3 W, and 5 W while this process computes)"
    assert found.load_w is not None
    assert found.idle_before_w is not None
    assert found.idle_before_w == pytest.approx(3.0, rel=0.5)  # real time passes between the meter's look and ours
    assert found.idle_before_w < found.load_w
    assert found.kind == "counter"


def test_a_worker_loads_the_meter_its_agent_was_given(
    golden_artifact: Path, small_budget: LatencyBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in meter_environment("edgefleet_hil.meter:worker_meter", {}).items():
        monkeypatch.setenv(name, value)
    answer = run_job(QualifyJob(artifact_dir=str(golden_artifact), latency=small_budget), ChildLimits(timeout_s=60.0))
    assert isinstance(answer, QualifyAnswer)
    energy = answer.trial.energy
    assert energy is not None
    assert energy.status is EnergyStatus.MODELLED, energy.reason
    assert energy.rails == ("simulated meter (3 W, and 5 W while this process computes)",)


def test_without_a_meter_the_devices_own_sensors_are_asked() -> None:
    assert energy_by(None).reason == "no power sensor on this device"


class Bench(WorkerMeter):
    """Stands for a meter that is there: it does not say that it is simulated."""

    name = "a bench supply"
    simulated = False


def test_a_meter_that_measures_gives_measured_energy(offer: Offer) -> None:
    found = energy_by(offer(Bench))
    assert (found.status, found.reason, found.sensor) == (EnergyStatus.MEASURED, None, "external meter a bench supply")


class Stopped(WorkerMeter):
    """Remembers that it was started and stopped."""

    said: list[str] = []

    def start(self) -> None:
        self.said.append("start")
        super().start()

    def stop(self):  # type: ignore[no-untyped-def]
        self.said.append("stop")
        return super().stop()


def test_a_meter_is_started_and_stopped_again(offer: Offer) -> None:
    Stopped.said.clear()
    assert energy_by(offer(Stopped)).status is EnergyStatus.MODELLED
    assert Stopped.said == ["start", "stop"]


class Hung(SimulatedMeter):
    """Answers no more, as a meter whose cable was pulled, until it is let go."""

    let_go = threading.Event()

    def get_statistics(self):  # type: ignore[no-untyped-def]
        self.let_go.wait(30)
        return super().get_statistics()


@pytest.fixture
def hung() -> Iterator[type[Hung]]:
    yield Hung
    Hung.let_go.set()


class Odd(SimulatedMeter):
    """Reads no number."""

    def get_statistics(self):  # type: ignore[no-untyped-def]
        told = super().get_statistics()
        return type(told)(told.power_w, float("nan"))


def refuses() -> ExternalMeter:
    raise OSError("no such device: usb 1-2")


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (refuses, "opening it failed: OSError: no such device: usb 1-2"),
        (object, "opening it failed: what it returns has no name, refresh_s, start, stop, get_statistics"),
        (3, "TypeError"),
        (Odd, "the meter's energy_j is nan, no number"),
        (type("Nameless", (SimulatedMeter,), {"name": 7}), "its name must be a text"),
    ],
)
def test_a_meter_that_does_not_work_leaves_energy_unmeasured_with_the_reason(
    offer: Offer, factory: object, words: str
) -> None:
    found = energy_by(offer(factory))
    assert found.status is EnergyStatus.UNMEASURED
    assert words in str(found.reason)


@pytest.mark.parametrize(
    ("reference", "words"),
    [("no_such_module:made", "ModuleNotFoundError"), ("edgefleet_hil.meter:no_such", "AttributeError")],
)
def test_a_factory_that_is_not_there_leaves_energy_unmeasured_with_the_reason(reference: str, words: str) -> None:
    found = energy_by(reference)
    assert found.status is EnergyStatus.UNMEASURED
    assert str(found.reason).startswith(f"the meter {reference}: opening it failed: {words}")


def test_a_meter_that_hangs_is_given_up_after_its_time_and_not_asked_again(offer: Offer, hung: type[Hung]) -> None:
    with opened_meter(offer(hung), call_limit_s=0.02) as meter:
        for _ in range(3):
            with pytest.raises(SensorFileError, match=r"reading its statistics took longer than 0\.02 s"):
                meter.get_statistics()


def test_a_factory_that_hangs_is_given_up_after_its_time(offer: Offer) -> None:
    never = threading.Event()
    with (
        pytest.raises(SensorFileError, match=r"opening it took longer than 0\.02 s"),
        opened_meter(offer(lambda: never.wait(30)), open_limit_s=0.02),
    ):
        pass
    never.set()


def test_the_option_outweighs_the_environment_and_is_checked_before_any_trial() -> None:
    parser = argparse.ArgumentParser()
    add_meter_option(parser)
    option = parser.parse_args(["--meter", "a.b:made"]).meter
    assert meter_environment(option, {METER_VARIABLE: "c:d"}) == {METER_VARIABLE: "a.b:made"}
    assert meter_environment(None, {METER_VARIABLE: "c:d"}) == {METER_VARIABLE: "c:d"}
    assert meter_environment(None, {}) == {}
    for wrong in ("made", "a:b:c", "a.b:made()", "../a:b", "a;b:c", ":made", "x" * 300 + ":y"):
        with pytest.raises(ConfigError, match="write module:factory"):
            meter_environment(wrong, {})
