"""Sensors found in a sysfs of plain files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgefleet_agent.sensors.find import MAX_SENSORS, energy_unmeasured_reason, find_sensors


def attribute(root: Path, path: str, text: str = "1\n") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"class/thermal/thermal_zone0/temp": "1", "class/thermal/thermal_zone0/type": "cpu"}, ("cpu", "temperature")),
        (
            {"devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1"},
            ("cpufreq policy0", "frequency"),
        ),
        (
            {"class/powercap/intel-rapl:0/energy_uj": "1", "class/powercap/intel-rapl:0/name": "package-0"},
            ("rapl package-0", "energy"),
        ),
        ({"class/hwmon/hwmon0/name": "acpi_power", "class/hwmon/hwmon0/power1_average": "1"}, ("acpi_power", "power")),
    ],
)
def test_each_kind_of_sensor_is_found(tmp_path: Path, attributes: dict[str, str], expected: tuple[str, str]) -> None:
    for path, text in attributes.items():
        attribute(tmp_path, path, text)
    assert [(sensor.name, sensor.kind) for sensor in find_sensors(tmp_path)] == [expected]


def test_a_jetsons_rails_are_named_without_the_unconnected_and_the_summed(tmp_path: Path) -> None:
    chip = "class/hwmon/hwmon3"
    attribute(tmp_path, f"{chip}/name", "ina3221\n")
    for number, label in enumerate(["VDD_IN", "NC", "VDD_SOC", "sum of shunt voltages"], start=1):
        attribute(tmp_path, f"{chip}/in{number}_label", label + "\n")
        attribute(tmp_path, f"{chip}/curr{number}_input")
    assert [sensor.name for sensor in find_sensors(tmp_path)] == ["ina3221 VDD_IN", "ina3221 VDD_SOC"]


def test_the_package_that_rapl_repeats_is_listed_once(tmp_path: Path) -> None:
    attribute(tmp_path, "class/powercap/intel-rapl:0/energy_uj")
    attribute(tmp_path, "class/powercap/intel-rapl-mmio:0/energy_uj")
    assert len(find_sensors(tmp_path)) == 1


def test_a_pipe_in_place_of_an_attribute_does_not_block(tmp_path: Path) -> None:
    attribute(tmp_path, "class/thermal/thermal_zone0/temp")
    os.mkfifo(tmp_path / "class/thermal/thermal_zone0/type")
    assert find_sensors(tmp_path)[0].name == "thermal_zone0"


def test_a_machine_without_sensors_has_none_and_says_so(tmp_path: Path) -> None:
    sensors = find_sensors(tmp_path)
    assert sensors == ()
    assert energy_unmeasured_reason(sensors) == "no power sensor on this device"


def test_a_sensor_this_version_does_not_use_is_not_denied(tmp_path: Path) -> None:
    attribute(tmp_path, "class/powercap/intel-rapl:0/energy_uj")
    reason = energy_unmeasured_reason(find_sensors(tmp_path))
    assert "does not measure energy yet" in reason
    assert "rapl intel-rapl:0" in reason


def test_the_number_of_sensors_is_bounded(tmp_path: Path) -> None:
    for number in range(MAX_SENSORS + 5):
        attribute(tmp_path, f"class/thermal/thermal_zone{number}/temp")
    assert len(find_sensors(tmp_path)) == MAX_SENSORS
