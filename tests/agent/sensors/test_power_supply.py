"""Batteries of phones and laptops, by maker."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefleet_agent.sensors.probe import Sensors, probe
from edgefleet_agent.sensors.readings import read_rails
from edgefleet_contract.profile import RailKind, TotalReading
from edgefleet_hil.boards import write_files


def supply(root: Path, name: str, **said: object) -> None:
    write_files(root, {f"class/power_supply/{name}/{key}": value for key, value in said.items()})


def battery(root: Path, **said: object) -> Sensors:
    files = {"type": "Battery", "status": "Discharging", "present": 1, "voltage_now": 4_000_000} | said
    supply(root, "battery", **files)
    return probe(root)


def total_of(sensors: Sensors) -> TotalReading:
    return read_rails(sensors)[1]


@pytest.mark.parametrize(
    ("current_now", "voltage_now", "watts", "status"),
    [
        (-500_000, 4_000_000, 2.0, "available"),  # the kernel's rule: uA, negative while discharging
        (500_000, 4_000_000, 2.0, "available"),  # turned sign
        (-500, 4_000_000, 2.0, "modelled"),  # mA
        (500, 4_000, 2.0, "modelled"),  # mA, mV, turned sign
        (2_500_000, 3_800_000, 9.5, "available"),
    ],
)
def test_sign_and_unit_of_each_maker_give_the_draw(
    tmp_path: Path, current_now: int, voltage_now: int, watts: float, status: str
) -> None:
    total = total_of(battery(tmp_path, current_now=current_now, voltage_now=voltage_now))
    assert (total.status, total.watts) == (status, watts)


def test_an_inferred_unit_is_said(tmp_path: Path) -> None:
    assert "taken as mA" in str(total_of(battery(tmp_path, current_now=-500)).reason)


@pytest.mark.parametrize("current_now", [10_000, -15_000, 0, 3])
def test_a_current_whose_unit_cannot_be_told_gives_no_figure(tmp_path: Path, current_now: int) -> None:
    total = total_of(battery(tmp_path, current_now=current_now))
    assert total.status == "none"
    assert "unit cannot be told" in str(total.reason)


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown", ""])
def test_only_a_discharging_battery_shows_the_draw(tmp_path: Path, status: str) -> None:
    total = total_of(battery(tmp_path, current_now=-500_000, status=status))
    assert total.status == "none"
    assert "discharging" in str(total.reason)


def test_with_a_charger_online_the_battery_is_not_all_that_feeds(tmp_path: Path) -> None:
    supply(tmp_path, "usb", type="USB", online=1)
    total = total_of(battery(tmp_path, current_now=-500_000))
    assert total.status == "none"
    assert "usb is online" in str(total.reason)


def test_power_is_preferred_to_current(tmp_path: Path) -> None:
    total = total_of(battery(tmp_path, current_now=-1, power_now=7_500_000))
    assert (total.status, total.watts) == ("available", 7.5)


def test_an_average_is_told_from_an_instant(tmp_path: Path) -> None:
    assert battery(tmp_path, current_avg=-500_000).rails[0].kind is RailKind.AVERAGE


def test_two_batteries_of_a_laptop_add_up_and_an_empty_bay_does_not(tmp_path: Path) -> None:
    for name, microwatts in (("BAT0", 6_000_000), ("BAT1", 0)):
        supply(tmp_path, name, type="Battery", status="Discharging", present=1, power_now=microwatts)
    supply(tmp_path, "BAT2", type="Battery", present=0, status="Unknown")
    write_files(tmp_path, {"class/hwmon/hwmon1/name": "BAT0", "class/hwmon/hwmon1/power1_input": 6_000_000})
    sensors = probe(tmp_path)
    total = total_of(sensors)
    assert (total.rails, total.watts) == (("BAT0", "BAT1"), 6.0)
    assert len(sensors.rails) == 2
    assert any("BAT0 again" in note for note in sensors.notes)


@pytest.mark.parametrize(
    ("status", "resting_uw", "watts"),
    [("Not charging", 0, 8.0), ("Unknown", 0, 8.0), ("Charging", 0, None), ("Unknown", 2_000_000, None)],
)
def test_a_laptops_battery_that_waits_for_the_other_gives_nothing(
    tmp_path: Path, status: str, resting_uw: int, watts: float | None
) -> None:
    supply(tmp_path, "BAT0", type="Battery", status=status, present=1, power_now=resting_uw)
    supply(tmp_path, "BAT1", type="Battery", status="Discharging", present=1, power_now=8_000_000)
    sensors = probe(tmp_path)
    assert total_of(sensors).watts == watts
    if watts:
        supply(tmp_path, "BAT0", status="Discharging", power_now=7_000_000)
        supply(tmp_path, "BAT1", status="Not charging", power_now=0)
        assert "only a discharging battery" in str(total_of(sensors).reason)


def test_a_battery_alone_that_neither_gives_nor_takes_is_no_total(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", type="Battery", status="Full", present=1, power_now=0)
    assert total_of(probe(tmp_path)).status == "none"


def test_a_peripherals_battery_alone_is_no_total(tmp_path: Path) -> None:
    supply(tmp_path, "hidpp_battery_0", type="Battery", scope="Device", status="Discharging", power_now=100_000)
    total = total_of(probe(tmp_path))
    assert total.status == "none"
    assert "do not feed the device" in str(total.reason)


def test_a_supply_whose_name_hwmon_cannot_hold_is_recognised_by_its_changed_name(tmp_path: Path) -> None:
    supply(tmp_path, "sbs-5-000b", type="Battery", status="Discharging", power_now=3_000_000)
    write_files(tmp_path, {"class/hwmon/hwmon0/name": "sbs_5_000b", "class/hwmon/hwmon0/power1_input": 3_000_000})
    assert [rail.family for rail in probe(tmp_path).rails] == ["battery"]


def test_the_unit_is_kept_once_it_is_known(tmp_path: Path) -> None:
    sensors = battery(tmp_path, current_now=-500_000)
    supply(tmp_path, "battery", current_now=-12_000)
    assert total_of(sensors).watts == 0.048


def test_a_phones_gauge_is_its_battery_seen_again(tmp_path: Path) -> None:
    supply(tmp_path, "maxfg", type="Battery", status="Unknown", current_now=-510_000, voltage_now=4_000_000)
    total = total_of(battery(tmp_path, current_now=-500_000))
    assert (total.rails, total.watts) == (("battery",), 2.0)


def test_batteries_that_may_be_one_are_not_added(tmp_path: Path) -> None:
    for name in ("bq27541", "max17042"):
        supply(tmp_path, name, type="Battery", status="Discharging", power_now=1_000_000)
    total = total_of(probe(tmp_path))
    assert total.status == "none"
    assert "one battery seen twice" in str(total.reason)


def test_a_folder_that_only_sounds_like_a_supply_hides_no_chip(tmp_path: Path) -> None:
    root = tmp_path / "test_power_supply_again"
    write_files(root, {"class/hwmon/hwmon0/name": "ina226", "class/hwmon/hwmon0/power1_input": 3_000_000})
    assert [rail.name for rail in probe(root).rails] == ["ina226 power1"]
