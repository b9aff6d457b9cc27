"""Energy and throttling within a whole trial, on a sensor made of this process's own CPU time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edgefleet_agent.qualify.trial import run_trial
from edgefleet_agent.sensors.probe import Sensors
from edgefleet_agent.sensors.rails import Call, Rail, Total
from edgefleet_agent.sensors.thermal import Thermal
from edgefleet_contract.accept import Accept, EnergyAccept
from edgefleet_contract.evidence import EnergyStatus, Gate, LatencyVerdict, Phase, Verdict
from edgefleet_contract.job import LatencyBudget, QualifyJob
from edgefleet_contract.profile import RailKind, TemperatureReading, ThrottleFlag

BUDGET = LatencyBudget(min_n=40, max_n=60, min_duration_s=0.0, max_duration_s=1.0, warmup_max_s=0.02)
WATT = Rail(
    "cpu time", "test", "device", RailKind.COUNTER, Call(time.process_time_ns, 1_000_000_000), "one watt while it works"
)


def sensors_that_see(*looks: Thermal) -> Sensors:
    left = list(looks)
    return Sensors((WATT,), Total((WATT,), "device", "a rule"), lambda: left.pop(0) if len(left) > 1 else left[0])


def test_a_trial_on_a_device_with_a_sensor_measures_energy(
    golden_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cool = Thermal(temperatures=(TemperatureReading(name="cpu", celsius=40.0),))
    monkeypatch.setattr("edgefleet_agent.qualify.trial.probe", lambda: sensors_that_see(cool))
    accept = Accept(energy=EnergyAccept(per_inference_mj=1e-6))
    trial = run_trial(QualifyJob(artifact_dir=str(golden_artifact), latency=BUDGET, accept=accept))
    assert trial.energy is not None
    assert trial.energy.status is EnergyStatus.MEASURED
    assert trial.energy.per_inference_mj is not None
    assert trial.energy.ci95_per_inference_mj is not None
    assert trial.energy.ci95_per_inference_mj[0] > 0
    assert trial.energy.n is not None
    assert trial.energy.n > 100
    assert trial.thermal is not None
    assert (trial.thermal.throttled, trial.thermal.start_c) == (False, 40.0)
    assert (trial.verdict, trial.gate) == (Verdict.FAILED, Gate.ENERGY)


def test_an_inference_that_fails_while_energy_is_measured_leaves_what_was_measured_before(
    golden_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        msg = "the device was lost"
        raise RuntimeError(msg)

    monkeypatch.setattr("edgefleet_agent.qualify.trial.measure_energy_here", lost)
    trial = run_trial(QualifyJob(artifact_dir=str(golden_artifact), latency=BUDGET))
    assert (trial.verdict, trial.gate) == (Verdict.FAILED, Gate.ENERGY)
    assert trial.reason == "an inference failed while energy was measured: the device was lost"
    assert trial.latency is not None
    assert trial.memory is not None


def test_a_trial_during_which_the_device_was_slowed_down_is_throttled(
    golden_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = [Thermal(throttle=(ThrottleFlag(name="oc3", source="soctherm_oc", events_n=n),)) for n in (4, 4, 5)]
    monkeypatch.setattr("edgefleet_agent.qualify.trial.probe", lambda: sensors_that_see(*looks))
    trial = run_trial(QualifyJob(artifact_dir=str(golden_artifact), latency=BUDGET))
    assert trial.latency is not None
    assert trial.latency.verdict is LatencyVerdict.THROTTLED
    assert "from 4 to 5 events" in str(trial.latency.reason)
    assert trial.thermal is not None
    assert trial.thermal.throttled


def test_a_trial_on_a_hot_device_waits_until_it_is_cool_and_tells_the_phases_of_its_run(
    golden_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot, cool = (Thermal(temperatures=(TemperatureReading(name="cpu", celsius=c),)) for c in (88.0, 60.0))
    slept: list[float] = []
    monkeypatch.setattr("edgefleet_agent.qualify.trial.time.sleep", slept.append)
    monkeypatch.setattr("edgefleet_agent.qualify.trial.probe", lambda: sensors_that_see(hot, hot, hot, cool))
    monkeypatch.setattr("edgefleet_agent.qualify.latency.measuring.LOOK_NS", 1_000_000)
    thermal = run_trial(QualifyJob(artifact_dir=str(golden_artifact), latency=BUDGET)).thermal
    assert thermal is not None
    assert (slept, thermal.waited_s, thermal.start_c) == ([1.0, 1.0, 1.0], 3.0, 60.0)
    assert [span.phase for span in thermal.phases] == [Phase.STEADY]
