"""Temperatures, cooling devices, clocks and every sign of throttling this machine shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgefleet_agent.sensors.files import (
    SensorFileError,
    exists,
    list_numbered,
    printable,
    read_int,
    read_word,
    try_int,
)
from edgefleet_agent.sensors.hwmon import Chips
from edgefleet_agent.sensors.pi import Vcgencmd, read_throttled
from edgefleet_contract.profile import CoolingReading, FrequencyReading, TemperatureReading, ThrottleFlag

MAX_ZONES = 64
MAX_COOLING = 256
MAX_CLOCKS = 64
MAX_CPUS = 48
SANE_C = (-55.0, 200.0)
"""Silicon's working range with room: a zone that reads 0xffff or -274 is switched off."""

_ZONE = re.compile(r"thermal_zone([0-9]{1,5})")
_TRIP = re.compile(r"trip_point_([0-9]{1,3})_type")
_COOLING = re.compile(r"cooling_device([0-9]{1,5})")
_POLICY = re.compile(r"policy([0-9]{1,4})")
_CPU = re.compile(r"cpu([0-9]{1,4})")
_DEVFREQ = re.compile(r"[^/.][^/]*()")
_ALARM = re.compile(r"oc([0-9]{1,2})_event_cnt")
_BRAKE = re.compile(
    r".*throttle-alert|.*cpufreq.*|.*devfreq.*|.*gpufreq.*|processor"
    r"|(?:cpu|gpu|emergency)[-_](?:balanced|heavy)"  # Jetsons up to JetPack 4
    r"|intel_powerclamp|(?:thermal-)?idle-[0-9a-z]+",  # forced idling; powerclamp's -1 means that it does not
    re.IGNORECASE,
)
"""Cooling devices that slow the device down. Fans, backlights, chargers and `hot-surface-alert` do not."""
_CONSTANT = re.compile(r"PMIC-Die", re.IGNORECASE)
"""Zones that show one figure for ever: Jetsons with JetPack 4 say 100 °C for the PMIC."""
_PI_BITS = ((0, "under-voltage"), (1, "frequency capped"), (2, "throttled"), (3, "soft temperature limit"))
_PI_STICKY = 16
_MILLI = 1_000


@dataclass(frozen=True)
class Thermal:
    """One look at everything thermal."""

    temperatures: tuple[TemperatureReading, ...] = ()
    cooling: tuple[CoolingReading, ...] = ()
    frequencies: tuple[FrequencyReading, ...] = ()
    throttle: tuple[ThrottleFlag, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def hottest_c(self) -> float | None:
        """Return the highest temperature; None where there is none."""
        return max(
            (
                zone.celsius
                for zone in self.temperatures
                if zone.celsius is not None and not _CONSTANT.fullmatch(zone.name)
            ),
            default=None,
        )


def read_thermal(sysfs_root: Path, chips: Chips, vcgencmd: Vcgencmd) -> Thermal:
    """Look once. What cannot be read is left out or carries its reason; nothing is raised."""
    zones = list_numbered(sysfs_root / "class/thermal", _ZONE, limit_n=MAX_ZONES)
    notes = (f"more than {MAX_ZONES} thermal zones: the rest was not looked at",) if zones.cut else ()
    cooling = _cooling(sysfs_root)
    return Thermal(
        temperatures=tuple(_zone(folder) for _, folder in zones.entries),
        cooling=cooling,
        frequencies=_frequencies(sysfs_root),
        throttle=(
            *_alarms(chips),
            *_alerts(cooling),
            *_cpu_counts(sysfs_root),
            *_pi_flags(sysfs_root, vcgencmd),
        )[:128],
        notes=notes,
    )


def _zone(folder: Path) -> TemperatureReading:
    name = read_word(folder / "type") or folder.name
    try:
        celsius = read_int(folder / "temp") / _MILLI
    except SensorFileError as error:
        return TemperatureReading(name=name, reason=str(error))
    if not SANE_C[0] <= celsius <= SANE_C[1]:
        return TemperatureReading(name=name, reason=f"reads {celsius:.4g} °C, which no running chip has")
    return TemperatureReading(name=name, celsius=celsius, passive_trip_c=_passive_trip_c(folder))


def _passive_trip_c(folder: Path) -> float | None:
    trips = [
        try_int(folder / f"trip_point_{number}_temp")
        for number, path in list_numbered(folder, _TRIP, limit_n=32).entries
        if read_word(path) == "passive"
    ]
    sane = [trip / _MILLI for trip in trips if trip is not None and 0 < trip / _MILLI <= SANE_C[1]]
    return min(sane, default=None)


def _cooling(sysfs_root: Path) -> tuple[CoolingReading, ...]:
    found = []
    for _, folder in list_numbered(sysfs_root / "class/thermal", _COOLING, limit_n=MAX_COOLING).entries:
        name = read_word(folder / "type") or folder.name
        state, most = try_int(folder / "cur_state"), try_int(folder / "max_state")
        brakes = _BRAKE.fullmatch(name) is not None
        found.append(CoolingReading(name=name, state=state, max_state=most, brakes=brakes))
    return tuple(found)


def _frequencies(sysfs_root: Path) -> tuple[FrequencyReading, ...]:
    found = [
        FrequencyReading(
            name=f"cpufreq {folder.name}",
            mhz=_scaled(folder / "scaling_cur_freq", _MILLI),
            max_mhz=_scaled(folder / "scaling_max_freq", _MILLI),
        )
        for _, folder in list_numbered(sysfs_root / "devices/system/cpu/cpufreq", _POLICY, limit_n=MAX_CLOCKS).entries
        if exists(folder / "scaling_cur_freq")
    ]
    found += [
        FrequencyReading(
            name=f"devfreq {printable(folder.name)}",
            mhz=_scaled(folder / "cur_freq", 1_000_000),
            max_mhz=_scaled(folder / "max_freq", 1_000_000),
        )
        for _, folder in list_numbered(sysfs_root / "class/devfreq", _DEVFREQ, limit_n=MAX_CLOCKS).entries
        if exists(folder / "cur_freq")
    ]
    return tuple(found[:MAX_CLOCKS])


def _scaled(path: Path, per_unit: int) -> float | None:
    number = try_int(path)
    return None if number is None or number < 0 else number / per_unit


def _alarms(chips: Chips) -> list[ThrottleFlag]:
    """Return the over-current alarms of Jetson modules: the counter tells events since boot."""
    return [
        ThrottleFlag(
            name=f"over-current alarm {number}", source=f"soctherm_oc {path.name}", events_n=events_n,
            since_boot=events_n > 0,
        )
        for chip in chips.chips
        if chip.name == "soctherm_oc"
        for number, path in list_numbered(chip.folder, _ALARM, limit_n=16).entries
        if (events_n := _count(path)) is not None
    ]  # fmt: skip


def _alerts(cooling: tuple[CoolingReading, ...]) -> list[ThrottleFlag]:
    return [
        ThrottleFlag(name=device.name, source="cooling device", active=device.state > 0)
        for device in cooling
        if device.brakes and device.state is not None
    ]


def _cpu_counts(sysfs_root: Path) -> list[ThrottleFlag]:
    """Return how often x86 processors were throttled; cores of a package share its count."""
    flags: dict[str, ThrottleFlag] = {}
    for number, folder in list_numbered(sysfs_root / "devices/system/cpu", _CPU, limit_n=MAX_CPUS).entries:
        package = try_int(folder / "topology/physical_package_id")
        for word, name in (("core", f"cpu{number} core"), ("package", f"cpu package {package}")):
            events_n = _count(folder / f"thermal_throttle/{word}_throttle_count")
            if events_n is not None:
                flags.setdefault(
                    name,
                    ThrottleFlag(name=name, source="thermal_throttle", events_n=events_n, since_boot=events_n > 0),
                )
    return list(flags.values())


def _count(path: Path) -> int | None:
    number = try_int(path)
    return number if number is not None and 0 <= number < 2**53 else None


def _pi_flags(sysfs_root: Path, vcgencmd: Vcgencmd) -> list[ThrottleFlag]:
    bits = read_throttled(sysfs_root, vcgencmd)
    if bits is None:
        return []
    return [
        ThrottleFlag(
            name=name,
            source="get_throttled",
            active=bool(bits >> bit & 1),
            since_boot=bool(bits >> (bit + _PI_STICKY) & 1),
        )
        for bit, name in _PI_BITS
    ]


ReadThermal = Callable[[], Thermal]
"""Looks once at everything thermal."""
