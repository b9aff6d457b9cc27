"""The chips of `/sys/class/hwmon`: walked once, each seen once, however many paths lead to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from edgefleet_agent.sensors.boards import CARRIER_FAMILY, FEEDS, INCLUDES, canonical
from edgefleet_agent.sensors.files import SensorFileError, list_numbered, read_int, read_word, real, try_int
from edgefleet_agent.sensors.rails import MAX_RAILS, FileProduct, Found, Rail
from edgefleet_contract.profile import RailKind

_CHIP = re.compile(r"hwmon([0-9]{1,6})")
_POWER = re.compile(r"power([0-9]{1,3})_(?:input|average)")
_ENERGY = re.compile(r"energy([0-9]{1,3})_input")
_OWN_PROBE = frozenset({"ina3221", "soctherm_oc"})
"""Chips that have a module of their own."""
_SUPPLY_NAME = re.compile(r"[^A-Za-z0-9_]")
_MICRO = 1_000_000
_CARRIER_CHIPS = frozenset({"ina226", "ina230", "ina231", "ina237", "ina238", "ina260"})
"""One-channel power monitors of TI, which the device tree names after the rail they sit in."""
_INA238 = frozenset({"ina237", "ina238"})
_INA238_WINDOW_S = 0.05
"""16 conversions of temperature, voltage and current, 1.052 ms each: what the kernel's driver always sets up."""


@dataclass(frozen=True)
class Chip:
    """One hwmon chip: its folder and the name its driver gives."""

    folder: Path
    name: str


@dataclass(frozen=True)
class Chips:
    """All hwmon chips; `cut` when there were more than are looked at."""

    chips: tuple[Chip, ...]
    cut: bool = False


def find_chips(sysfs_root: Path) -> Chips:
    """Return the chips of the class folder, each once, by number."""
    listing = list_numbered(sysfs_root / "class/hwmon", _CHIP)
    seen: set[str] = set()
    chips = []
    for _, folder in listing.entries:
        identity = real(folder)
        if identity not in seen:
            seen.add(identity)
            # Kernels before 3.17 keep a chip's attributes below `device`.
            name = read_word(folder / "name") or read_word(folder / "device" / "name")
            chips.append(Chip(folder, name))
    return Chips(tuple(chips), listing.cut)


def find_other_rails(chips: Chips, supplies: frozenset[str]) -> Found:
    """Return power and energy of chips without a module of their own (amdgpu, acpi power meters, ina2xx …).

    What they feed is not known, so they are shown and never added to a total.

    Args:
        chips: the chips of this machine.
        supplies: names of power supplies: the kernel shows each of them again as a chip.
    """
    rails: list[Rail] = []
    notes: list[str] = []
    shown_again = {_SUPPLY_NAME.sub("_", name) for name in supplies}
    for chip in chips.chips:
        if chip.name in _OWN_PROBE:
            continue
        found = [*_power_rails(chip), *_energy_rails(chip)]
        if not found:  # older kernels keep an ACPI power meter's attributes below `device`
            below = Chip(chip.folder / "device", chip.name)
            found = [replace(rail, sensor=f"{chip.name} {chip.folder.name} {rail.sensor.split()[-1]}")
                     for rail in (*_power_rails(below), *_energy_rails(below))]  # fmt: skip
        if found and (chip.name in shown_again or "power_supply" in Path(real(chip.folder)).parts):
            notes.append(f"{chip.folder.name} shows the power supply {chip.name} again and is left out")
            continue
        rails.extend(found)
        if len(rails) > MAX_RAILS:
            break
    return Found(tuple(rails), tuple(notes))


def _power_rails(chip: Chip) -> list[Rail]:
    rails: dict[int, Rail] = {}
    # `average` sorts before `input`: where a chip offers both, the average misses nothing between readings.
    for number, path in list_numbered(chip.folder, _POWER, limit_n=MAX_RAILS).entries:
        if number not in rails:
            average = path.name.endswith("_average")
            kind = RailKind.AVERAGE if average else RailKind.INSTANT
            interval_ms = try_int(chip.folder / f"power{number}_average_interval") if average else None
            rails[number] = _rail(chip, number, "power", path, kind, interval_ms)
    if chip.name in _CARRIER_CHIPS and len(rails) == 1:
        return [_named_by_its_board(chip, rail) for rail in rails.values()]
    return list(rails.values())


def _named_by_its_board(chip: Chip, rail: Rail) -> Rail:
    """Return a monitor's rail under its board's name for it, with what the tables know of that rail."""
    label = read_word(chip.folder / "label") or read_word(chip.folder / "in1_label")
    if canonical(label) not in FEEDS:
        return rail
    scope, feeds = FEEDS[canonical(label)]
    rail = replace(rail, name=label, family=CARRIER_FAMILY, scope=scope, feeds=feeds)
    if chip.name in _INA238:
        rail = replace(rail, kind=RailKind.AVERAGE, window_s=_INA238_WINDOW_S)
    return replace(rail, includes=INCLUDES.get(canonical(label), ()))


def _energy_rails(chip: Chip) -> list[Rail]:
    entries = list_numbered(chip.folder, _ENERGY, limit_n=MAX_RAILS).entries
    return [_rail(chip, number, "energy", path, RailKind.COUNTER, None) for number, path in entries]


def _rail(chip: Chip, number: int, word: str, path: Path, kind: RailKind, interval_ms: int | None) -> Rail:
    label = read_word(chip.folder / f"{word}{number}_label") or read_word(chip.folder / "label")
    name = f"{chip.name or chip.folder.name} {label or f'{word}{number}'}"
    return Rail(
        name=name,
        family="hwmon",
        scope="not told",
        kind=kind,
        source=FileProduct((path,), _MICRO),
        sensor=f"{chip.name} {chip.folder.name} {path.name}",
        feeds="not told by the chip",
        window_s=interval_ms / 1000 if interval_ms else None,
        group=label or chip.name,
        problem=readable_problem((path,)),
    )


def readable_problem(paths: tuple[Path, ...]) -> str | None:
    """Return why one of these files cannot be read as a number, or None."""
    for path in paths:
        try:
            read_int(path)
        except SensorFileError as error:
            return str(error)
    return None
