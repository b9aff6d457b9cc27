"""Finds sensors: temperature, frequency, power and energy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgefleet_contract.profile import SensorProbe

MAX_SENSORS = 64
_MAX_NAME_BYTES = 64


def find_sensors(sysfs_root: Path = Path("/sys")) -> tuple[SensorProbe, ...]:
    """Return the sensors this machine offers, at most `MAX_SENSORS`.

    Args:
        sysfs_root: where sysfs is mounted; a folder of plain files for tests.
    """
    found = [
        *_thermal_zones(sysfs_root),
        *_frequencies(sysfs_root),
        *_energy_counters(sysfs_root),
        *_power_rails(sysfs_root),
    ]
    return tuple(found[:MAX_SENSORS])


def energy_unmeasured_reason(sensors: tuple[SensorProbe, ...]) -> str:
    """Return why energy is not measured here. This version measures none, and says whether it could be."""
    usable = [sensor.name for sensor in sensors if sensor.kind in {"power", "energy"}]
    if not usable:
        return "no power sensor on this device"
    return f"this version of the agent does not measure energy yet; found: {', '.join(usable[:8])}"


def _thermal_zones(sysfs_root: Path) -> Iterator[SensorProbe]:
    for zone in sorted((sysfs_root / "class/thermal").glob("thermal_zone*")):
        if (zone / "temp").is_file():
            yield SensorProbe(name=_read(zone / "type") or zone.name, kind="temperature")


def _frequencies(sysfs_root: Path) -> Iterator[SensorProbe]:
    for policy in sorted((sysfs_root / "devices/system/cpu/cpufreq").glob("policy*")):
        if (policy / "scaling_cur_freq").is_file():
            yield SensorProbe(name=f"cpufreq {policy.name}", kind="frequency")


def _energy_counters(sysfs_root: Path) -> Iterator[SensorProbe]:
    # intel-rapl-mmio repeats the package of intel-rapl, so only the latter is listed.
    for zone in sorted((sysfs_root / "class/powercap").glob("intel-rapl:*")):
        if (zone / "energy_uj").is_file():
            yield SensorProbe(name=f"rapl {_read(zone / 'name') or zone.name}", kind="energy")


def _power_rails(sysfs_root: Path) -> Iterator[SensorProbe]:
    for chip in sorted((sysfs_root / "class/hwmon").glob("hwmon*")):
        name = _read(chip / "name") or chip.name
        if name == "ina3221":
            yield from _ina3221_rails(chip)
        elif any(chip.glob("power*_input")) or any(chip.glob("power*_average")):
            yield SensorProbe(name=name, kind="power")


def _ina3221_rails(chip: Path) -> Iterator[SensorProbe]:
    """Yield a Jetson's power rails: channels with a voltage and a current of their own."""
    for label in sorted(chip.glob("in*_label")):
        rail = _read(label)
        number = label.name.removeprefix("in").removesuffix("_label")
        if rail and rail not in {"NC", "sum of shunt voltages"} and (chip / f"curr{number}_input").is_file():
            yield SensorProbe(name=f"ina3221 {rail}", kind="power")


def _read(path: Path) -> str:
    """Return a sysfs attribute, or "" when it is not a plain readable file (a FIFO would block for ever)."""
    if not path.is_file():
        return ""
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_NAME_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return ""
