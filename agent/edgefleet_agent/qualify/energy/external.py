"""Energy of an inference by the meter the operator named, or by the device's own sensors where none was named."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from edgefleet_agent.qualify.energy.assess import unmeasured
from edgefleet_agent.qualify.energy.meter import EnergyPlan, measure_energy
from edgefleet_agent.sensors.external import METER_VARIABLE, meter_total, opened_meter
from edgefleet_agent.sensors.files import SensorFileError
from edgefleet_agent.sensors.probe import Sensors
from edgefleet_contract.evidence import EnergyResult


def measure_energy_here(
    call: Callable[[], object], sensors: Sensors, plan: EnergyPlan, environ: Mapping[str, str] = os.environ
) -> EnergyResult:
    """Return the energy of one inference.

    A meter that was named and does not work leaves energy `unmeasured`: the device's own sensors see something else,
    and whoever named a meter would take their figures for its.

    Args:
        call: one inference.
        sensors: the device's own.
        plan: how long.
        environ: holds the meter's factory as `EDGEFLEET_METER`.
    """
    reference = environ.get(METER_VARIABLE)
    if not reference:
        return measure_energy(call, sensors, plan)
    try:
        with opened_meter(reference) as meter:
            return measure_energy(call, replace(sensors, total=meter_total(meter)), plan)
    except SensorFileError as error:
        return unmeasured(f"the meter {reference}: {error}")
