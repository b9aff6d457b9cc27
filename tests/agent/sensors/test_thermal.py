"""Temperatures, brakes, clocks and signs of throttling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgefleet_agent.sensors.probe import list_sensors, probe
from edgefleet_hil.boards import add_cooling, add_zone, write_files

Tree = Callable[[str], Path]


def test_a_jetsons_fan_cools_and_its_alerts_brake(tree: Tree) -> None:
    thermal = probe(tree("orin-nano")).read_thermal()
    assert {device.name: device.brakes for device in thermal.cooling} == {
        "pwm-fan": False,
        "cpu-throttle-alert": True,
        "gpu-throttle-alert": True,
        "hot-surface-alert": False,
    }
    assert thermal.hottest_c == 48.5
    assert thermal.temperatures[0].passive_trip_c == 99.0
    assert thermal.frequencies[0].mhz == 729.6


def test_over_current_alarms_tell_events_since_boot(tree: Tree) -> None:
    flags = {flag.name: flag for flag in probe(tree("agx-orin")).read_thermal().throttle}
    assert (flags["over-current alarm 3"].events_n, flags["over-current alarm 3"].since_boot) == (7, True)
    assert (flags["over-current alarm 1"].events_n, flags["over-current alarm 1"].since_boot) == (0, False)
    assert flags["over-current alarm 3"].active is None


@pytest.mark.parametrize(
    ("name", "brakes"),
    [
        ("thermal-cpufreq-0", True),
        ("cpufreq-cpu4", True),
        ("thermal-devfreq-0", True),
        ("devfreq-17000000.gpu", True),
        ("Processor", True),
        ("cv0-throttle-alert", True),
        ("pwm-fan", False),
        ("Fan", False),
        ("LCD", False),
        ("TCC Offset", False),
        ("intel_powerclamp", True),
        ("thermal-idle-0", True),
        ("cpu-balanced", True),
        ("gpu_heavy", True),
        ("CPU-cap", False),
        ("panel0-backlight", False),
    ],
)
def test_only_what_slows_the_device_down_is_a_brake(tmp_path: Path, name: str, brakes: bool) -> None:
    add_cooling(tmp_path, 0, name, 3, 5)
    thermal = probe(tmp_path).read_thermal()
    assert thermal.cooling[0].brakes is brakes
    assert [flag.active for flag in thermal.throttle] == ([True] if brakes else [])


@pytest.mark.parametrize("celsius", [-274.0, 300.0])
def test_a_zone_that_is_switched_off_has_no_temperature(tmp_path: Path, celsius: float) -> None:
    add_zone(tmp_path, 0, "cpu", celsius)
    zone = probe(tmp_path).read_thermal().temperatures[0]
    assert zone.celsius is None
    assert "no running chip" in str(zone.reason)


def test_an_x86_processors_counts_are_one_for_each_core_and_package(tmp_path: Path) -> None:
    for cpu in (0, 1):
        folder = f"devices/system/cpu/cpu{cpu}"
        write_files(tmp_path, {f"{folder}/topology/physical_package_id": 0})
        counts = {"core_throttle_count": cpu, "package_throttle_count": 9}
        write_files(tmp_path, {f"{folder}/thermal_throttle/{name}": count for name, count in counts.items()})
    flags = {flag.name: flag.events_n for flag in probe(tmp_path).read_thermal().throttle}
    assert flags == {"cpu0 core": 0, "cpu package 0": 9, "cpu1 core": 1}


def test_gpu_clocks_are_read_from_devfreq(tmp_path: Path) -> None:
    write_files(
        tmp_path, {"class/devfreq/17000000.gpu/cur_freq": 306000000, "class/devfreq/17000000.gpu/max_freq": 625000000}
    )
    clock = probe(tmp_path).read_thermal().frequencies[0]
    assert (clock.name, clock.mhz, clock.max_mhz) == ("devfreq 17000000.gpu", 306.0, 625.0)


def test_a_profile_lists_every_sensor_and_no_figure(tree: Tree) -> None:
    sensors = probe(tree("agx-orin"))
    listed = list_sensors(sensors, sensors.read_thermal())
    assert [sensor.name for sensor in listed if sensor.in_total] == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]
    assert {sensor.kind for sensor in listed} == {"power", "temperature", "frequency"}
    assert next(sensor for sensor in listed if sensor.name == "VIN_SYS_5V0").includes == ("VDDQ_VDD2_1V8AO",)


def test_a_zone_that_always_reads_100_degrees_is_shown_and_never_the_hottest(tree: Tree) -> None:
    thermal = probe(tree("nano-jetpack4")).read_thermal()
    assert {zone.name: zone.celsius for zone in thermal.temperatures}["PMIC-Die"] == 100.0
    assert thermal.hottest_c == 44.0
