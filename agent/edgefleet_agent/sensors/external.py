"""The port of an external power meter: a Joulescope, a bench supply, a meter on the rig.

The four verbs are those of labgrid's proposed `EnergyAnalyzerProtocol` (its pull request 1920), so that a labgrid
driver fits with a few lines. A meter on the device's input sees everything, so its rail is a total by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgefleet_agent.sensors.files import SensorFileError
from edgefleet_agent.sensors.rails import Call, Rail, Total
from edgefleet_contract.profile import RailKind


@dataclass(frozen=True)
class Accumulated:
    """What a meter added up between start and stop."""

    energy_j: float
    duration_s: float
    charge_c: float | None = None


@dataclass(frozen=True)
class Statistics:
    """A meter's latest figures. `energy_j` runs on from the meter's start; `power_w` is the mean of its last window."""

    power_w: float
    energy_j: float
    current_a: float | None = None
    voltage_v: float | None = None


class ExternalMeter(Protocol):
    """A meter outside the device. Every method raises SensorFileError when the meter does not answer."""

    @property
    def name(self) -> str:
        """Maker, model and serial number."""

    def start(self) -> None:
        """Begin to add up charge and energy."""

    def stop(self) -> Accumulated:
        """End what `start` began and return it."""

    def capture(self, path: Path, *, duration_s: float, frequency_hz: float | None = None) -> None:
        """Write samples to a file for some time."""

    def get_statistics(self) -> Statistics:
        """Return the latest figures."""


def meter_total(meter: ExternalMeter, *, refresh_s: float) -> Total:
    """Return a meter on the device's input as the device's total: a counter of joules.

    Args:
        meter: the meter.
        refresh_s: how often it renews its statistics, a Joulescope every 0.5 s unless it is told otherwise. Each end of
            a measurement may be this old.
    """

    def read() -> float:
        return meter.get_statistics().energy_j

    rail = Rail(
        name=meter.name,
        family="meter",
        scope="device",
        kind=RailKind.COUNTER,
        source=Call(read),
        sensor=f"external meter {meter.name}",
        feeds="everything behind the meter",
        refresh_s=refresh_s,
    )
    return Total((rail,), "device", "the meter sits in the device's input", None)


def statistics_from(told: Mapping[str, object]) -> Statistics:
    """Return a labgrid driver's `get_statistics()` dictionary as ours.

    Args:
        told: holds `power`, `current`, `voltage` (each with `avg`) and `energy_J`.

    Raises:
        SensorFileError: a figure is missing or no number.
    """
    energy_j = told.get("energy_J")
    power_w = _average(told, "power")
    if power_w is None or isinstance(energy_j, bool) or not isinstance(energy_j, int | float):
        msg = "the meter's statistics hold no power.avg or no energy_J"
        raise SensorFileError(msg)
    return Statistics(power_w, float(energy_j), _average(told, "current"), _average(told, "voltage"))


def _average(told: Mapping[str, object], name: str) -> float | None:
    part = told.get(name)
    value = part.get("avg") if isinstance(part, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
