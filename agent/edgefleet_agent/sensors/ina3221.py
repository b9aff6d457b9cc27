"""INA3221: the three-channel power monitor of NVIDIA Jetson modules.

JetPack 5 and later: a hwmon chip with `in*_label`, `in*_input` (mV), `curr*_input` (mA), and no `power*`
(Documentation/hwmon/ina3221.rst). JetPack 4: an iio device with `rail_name_*` and `in_power*_input` (mW).
Both are found by their class folder and below `/sys/bus/i2c/drivers`; a chip seen twice counts once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from edgefleet_agent.sensors.boards import FEEDS, INCLUDES, canonical
from edgefleet_agent.sensors.files import exists, list_numbered, read_word, real, try_int
from edgefleet_agent.sensors.hwmon import Chips, readable_problem
from edgefleet_agent.sensors.rails import FileProduct, Found, Rail
from edgefleet_contract.profile import RailKind

_ADDRESS = re.compile(r"[0-9]+-00(4[0-9a-f])")
_DEVICE = re.compile(r"([0-9]{1,4})-00[0-9a-f]{2}")
_HWMON = re.compile(r"hwmon([0-9]{1,6})")
_IIO = re.compile(r"iio[:_]device([0-9]{0,6})")
MAX_DEVICES = 512
MAX_CHIPS = 32
MAX_PER_DEVICE = 2
"""A chip is one hwmon or iio device; boards have up to four chips."""
_CHANNELS = range(1, 4)
_IIO_CHANNELS = range(3)
_UNUSED = re.compile(r"NC|N/C|UNUSED|NOT.?CONNECTED|SUM OF SHUNT VOLTAGES", re.IGNORECASE)
_MILLI = 1_000
_MICRO = 1_000_000


def find_ina3221(sysfs_root: Path, chips: Chips) -> Found:
    """Return the rails of every INA3221, in the order of chip address and channel."""
    rails: list[Rail] = []
    notes: list[str] = []
    for address, folder in _hwmon_folders(sysfs_root, chips):
        rails.extend(_hwmon_rails(folder, address, notes))
    for address, folder in _iio_folders(sysfs_root):
        rails.extend(_iio_rails(folder, address, notes))
    return Found(tuple(rails), tuple(notes))


def _hwmon_folders(sysfs_root: Path, chips: Chips) -> list[tuple[str, Path]]:
    """Return (bus address, folder) of each hwmon INA3221. hwmon numbers are unique, so they tell chips apart."""
    found = [
        (address, folder)
        for address, device in _i2c_devices(sysfs_root, "ina3221")
        for _, folder in list_numbered(device / "hwmon", _HWMON, limit_n=MAX_PER_DEVICE).entries
    ]
    seen = {folder.name for _, folder in found}
    found += [
        (_address_of(chip.folder), chip.folder)
        for chip in chips.chips
        if chip.name == "ina3221" and chip.folder.name not in seen
    ]
    return sorted(found, key=lambda item: (item[0], item[1].name))[:MAX_CHIPS]


def _i2c_devices(sysfs_root: Path, driver: str) -> list[tuple[str, Path]]:
    """Return (bus address, folder) of the I2C devices of a driver, by the driver's folder and by the bus's."""
    bus = sysfs_root / "bus/i2c"
    of_driver = list_numbered(bus / "drivers" / driver, _DEVICE, limit_n=MAX_CHIPS).entries
    of_bus = list_numbered(bus / "devices", _DEVICE, limit_n=MAX_DEVICES).entries
    named = [(number, device) for number, device in of_bus if read_word(device / "name") == driver]
    return list({device.name: (device.name, device) for _, device in [*named, *of_driver]}.values())


def _address_of(folder: Path) -> str:
    """Return the bus address (`1-0040`) in a chip's real path, or its folder's name."""
    for part in (*Path(real(folder)).parts[::-1], *Path(real(folder / "device")).parts[::-1]):
        if _ADDRESS.fullmatch(part):
            return part
    return folder.name


def _hwmon_rails(folder: Path, address: str, notes: list[str]) -> Iterator[Rail]:
    window_s = _averaging_window_s(folder)
    for channel in _CHANNELS:
        label = read_word(folder / f"in{channel}_label") or _tree_label(folder, channel)
        files = (folder / f"in{channel}_input", folder / f"curr{channel}_input")
        if not label and not any(exists(path) for path in files):
            continue
        if _UNUSED.fullmatch(label):
            continue
        off = try_int(folder / f"in{channel}_enable") == 0
        if off and not label:
            continue  # how mainline kernels show a channel that nothing is soldered to
        name = label or f"{address} channel {channel}"
        problem = readable_problem(files)
        if off:
            problem = f"the channel is switched off (in{channel}_enable is 0)"
        if not label:
            notes.append(f"{address} channel {channel} has no label: what it feeds is not known")
        yield _rail(name, FileProduct(files, _MICRO), f"ina3221 {address} channel {channel}", problem, window_s)


def _tree_label(folder: Path, channel: int) -> str:
    """Return the name the device tree gives a channel, counted from 0 there; "" where there is none."""
    return read_word(folder / f"device/of_node/input@{channel - 1}/label")


def _averaging_window_s(folder: Path) -> float | None:
    """Return the time the chip averages over; None when each reading is one conversion, or it does not tell.

    `update_interval` is the whole conversion time in ms, `samples` the conversions in it.
    """
    samples, interval_ms = try_int(folder / "samples"), try_int(folder / "update_interval")
    if samples is None or interval_ms is None or samples < 2 or not 0 < interval_ms <= 60_000:
        return None
    return interval_ms / _MILLI


def _iio_folders(sysfs_root: Path) -> list[tuple[str, Path]]:
    """Return (bus address, folder) of each iio INA3221."""
    found = [
        (address, folder)
        for address, device in _i2c_devices(sysfs_root, "ina3221x")
        for _, folder in list_numbered(device, _IIO, limit_n=MAX_PER_DEVICE).entries
    ]
    seen = {folder.name for _, folder in found} | {real(folder) for _, folder in found}
    for _, folder in list_numbered(sysfs_root / "bus/iio/devices", _IIO, limit_n=MAX_DEVICES).entries:
        known = folder.name in seen or real(folder) in seen
        if not known and read_word(folder / "name") in {"ina3221x", "ina3221"}:
            found.append((_address_of(folder), folder))
    return sorted(found, key=lambda item: (item[0], item[1].name))[:MAX_CHIPS]


def _iio_rails(folder: Path, address: str, notes: list[str]) -> Iterator[Rail]:
    for channel in _IIO_CHANNELS:
        label = read_word(folder / f"rail_name_{channel}")
        source = _iio_source(folder, channel)
        if not (label or exists(source.paths[0])) or _UNUSED.fullmatch(label):
            continue
        if not label:
            notes.append(f"{address} channel {channel} has no name: what it feeds is not known")
        name = label or f"{address} channel {channel}"
        sensor = f"ina3221x {address} channel {channel}"
        yield _rail(name, source, sensor, readable_problem(source.paths), None)


def _iio_source(folder: Path, channel: int) -> FileProduct:
    """Return a channel's power (mW), or its voltage times its current (mV, mA) where there is no power."""
    power = folder / f"in_power{channel}_input"
    parts = (folder / f"in_voltage{channel}_input", folder / f"in_current{channel}_input")
    if not exists(power) and all(exists(part) for part in parts):
        return FileProduct(parts, _MICRO)
    return FileProduct((power,), _MILLI)


def _rail(name: str, source: FileProduct, sensor: str, problem: str | None, window_s: float | None) -> Rail:
    known = canonical(name)
    return Rail(
        name=name,
        family="ina3221",
        scope=FEEDS.get(known, ("not told", None))[0],
        kind=RailKind.AVERAGE if window_s else RailKind.INSTANT,
        source=source,
        sensor=sensor,
        feeds=FEEDS.get(known, ("", None))[1],
        includes=INCLUDES.get(known, ()),
        window_s=window_s,
        problem=problem,
    )
