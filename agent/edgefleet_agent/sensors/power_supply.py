"""Batteries of phones and laptops: `/sys/class/power_supply`.

The kernel's rule (Documentation/ABI/testing/sysfs-class-power) is microamperes and microvolts, negative while
discharging. Makers differ: some count milliamperes, some turn the sign. So the state, not the sign, tells the
direction, and the unit is taken from the figures only where one reading of them is possible at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
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
from edgefleet_agent.sensors.rails import LOOKED_AT, Call, Found, Rail
from edgefleet_contract.profile import RailKind

_ANY = re.compile(r"[^/.][^/]*()")
MAX_SUPPLIES = 32
DRAW_W = (0.02, 80.0)
"""What a device with a battery draws: a phone asleep draws tens of milliwatts, a laptop at full load tens of watts."""
_RESTING = frozenset({"not charging", "unknown", "full", "idle"})
"""What a battery says that neither gives nor takes."""
_MICROVOLTS = (1_500_000, 100_000_000)
_MILLIVOLTS = (1_500, 100_000)
"""1.5 V to 100 V in either unit: the two ranges do not overlap."""


def supply_names(sysfs_root: Path) -> frozenset[str]:
    """Return the names of all power supplies."""
    entries = list_numbered(sysfs_root / "class/power_supply", _ANY, limit_n=MAX_SUPPLIES).entries
    return frozenset(printable(path.name) for _, path in entries)


def find_batteries(sysfs_root: Path) -> Found:
    """Return the batteries; those of peripherals (scope `Device`) are shown and marked.

    With a charger online a battery does not show what the device draws, whatever its state says.
    """
    rails: list[Rail] = []
    notes: list[str] = []
    listing = list_numbered(sysfs_root / "class/power_supply", _ANY, limit_n=MAX_SUPPLIES)
    feeding_n = sum(_feeds(folder) for _, folder in listing.entries)
    for _, folder in listing.entries:
        kind = read_word(folder / "type")
        if kind.lower() != "battery":
            continue
        if try_int(folder / "present") == 0:
            notes.append(f"{printable(folder.name)} is an empty battery bay")
            continue
        rails.append(_rail(folder, may_rest=feeding_n > 0 and not _feeds(folder)))
    charger = _charger_online(listing.entries)
    if charger is not None:
        problem = f"the charger {charger} is online: the battery does not show all that is drawn"
        rails = [rail if rail.scope == "peripheral" else replace(rail, problem=problem) for rail in rails]
    if listing.cut:
        notes.append(f"more than {MAX_SUPPLIES} power supplies: the rest was not {LOOKED_AT}")
    return Found(tuple(rails), tuple(notes))


def _feeds(folder: Path) -> bool:
    """Tell whether this is a battery of the device that discharges now."""
    words = {name: read_word(folder / name).lower() for name in ("type", "scope", "status")}
    return words["type"] == "battery" and words["scope"] != "device" and words["status"] == "discharging"


def _charger_online(entries: Sequence[tuple[int, Path]]) -> str | None:
    for _, folder in entries:
        kind, scope = read_word(folder / "type").lower(), read_word(folder / "scope").lower()
        if kind and kind not in {"battery", "ups"} and scope != "device" and (try_int(folder / "online") or 0) > 0:
            return printable(folder.name)
    return None


def _rail(folder: Path, *, may_rest: bool) -> Rail:
    peripheral = read_word(folder / "scope").lower() == "device"
    draw = _Draw(folder, may_rest=may_rest and not peripheral)
    problem = draw.problem()
    average = draw.source_name in {"power_avg", "current_avg"}
    return Rail(
        name=printable(folder.name),
        family="battery",
        scope="peripheral" if peripheral else "device",
        kind=RailKind.AVERAGE if average else RailKind.INSTANT,
        source=Call(draw.watts),
        sensor=f"power_supply {printable(folder.name)} {draw.source_name or ''}".strip(),
        feeds="a peripheral's own battery" if peripheral else "the whole device, while on battery",
        problem=problem,
        inferred=draw.inferred if problem is None else None,
    )


class _Draw:
    """Reads what a battery gives, in watts; positive whatever sign the maker uses.

    `may_rest`: laptops with two batteries empty one after the other; the one that waits says neither that it charges
    nor that it discharges, and gives nothing.
    """

    def __init__(self, folder: Path, *, may_rest: bool = False) -> None:
        self._folder = folder
        self._may_rest = may_rest
        self._name = printable(folder.name)
        names = ("power_now", "power_avg", "current_now", "current_avg")
        self.source_name = next((name for name in names if exists(folder / name)), None)
        self.inferred: str | None = None
        self._counts_per_ampere: int | None = None

    def problem(self) -> str | None:
        """Return why it cannot be read as the device's draw now, or None."""
        try:
            self.watts()
        except SensorFileError as error:
            return str(error)
        return None

    def watts(self) -> float:
        """Return the draw. Raises SensorFileError while charging, on mains, or when the unit cannot be told."""
        state = read_word(self._folder / "status").lower()
        if self._may_rest and state in _RESTING and self.source_name and read_int(self._folder / self.source_name) == 0:
            return 0.0
        if state != "discharging":
            msg = f"{self._name} is {state or 'in no known state'}: only a discharging battery shows what is drawn"
            raise SensorFileError(msg)
        if self.source_name is None:
            msg = f"{self._name} tells neither power nor current"
            raise SensorFileError(msg)
        number = abs(read_int(self._folder / self.source_name))
        if self.source_name.startswith("power"):
            return number / 1_000_000
        return self._from_current(number)

    def _from_current(self, number: int) -> float:
        volts = _volts(self._folder)
        if self._counts_per_ampere is None:
            self._counts_per_ampere = self._unit(number, volts)
        return number / self._counts_per_ampere * volts

    def _unit(self, number: int, volts: float) -> int:
        """Return the unit the first reading proves. Raises SensorFileError when both, or neither, are possible."""
        units = {"uA": 1_000_000, "mA": 1_000}
        watts = {unit: number / per_ampere * volts for unit, per_ampere in units.items()}
        possible = [unit for unit, draw_w in watts.items() if DRAW_W[0] <= draw_w <= DRAW_W[1]]
        if len(possible) != 1:
            shown = " or ".join(f"{draw_w:.3g} W" for draw_w in watts.values())
            msg = f"{self.source_name} holds {number}: its unit cannot be told ({shown})"
            raise SensorFileError(msg)
        if possible == ["mA"]:
            self.inferred = f"{self.source_name} of {self._name} is taken as mA: the kernel's uA is not possible"
        return units[possible[0]]


def _volts(folder: Path) -> float:
    number = read_int(folder / "voltage_now")
    for (low, high), per_volt in ((_MICROVOLTS, 1_000_000), (_MILLIVOLTS, 1_000)):
        if low <= number <= high:
            return number / per_volt
    msg = f"voltage_now holds {number}, which is no battery's voltage in uV or mV"
    raise SensorFileError(msg)
