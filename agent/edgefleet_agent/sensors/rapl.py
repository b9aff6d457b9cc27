"""RAPL: energy counters of x86 processors, by the kernel's powercap folders.

`/sys/class/powercap` lists zones and sub-zones flat, each zone folder holds its sub-zones again, and
`intel-rapl-mmio` tells the same package a second time: a zone counts once, by its name. `energy_uj` runs from 0 to
`max_energy_range_uj` and begins again; a range of 0 says nothing. Since CVE-2020-8694 the counters are readable by
root only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgefleet_agent.sensors.files import list_numbered, read_word, real, try_int
from edgefleet_agent.sensors.hwmon import readable_problem
from edgefleet_agent.sensors.rails import LOOKED_AT, FileProduct, Found, Rail
from edgefleet_contract.profile import RailKind

_ZONE = re.compile(r"(?:intel-rapl|amd-rapl)(?:-mmio)?:([0-9]{1,4})(?::[0-9]{1,4})*")
_CONTROL = re.compile(r"(?:intel-rapl|amd-rapl)(?:-mmio)?()")
_MAX_DEPTH = 3
MAX_ZONES = 256
_MICRO = 1_000_000
_REFRESH_S = 1e-3
"""The counters are renewed about every millisecond (Intel SDM volume 3B, 15.10)."""


def find_rapl(sysfs_root: Path) -> Found:
    """Return the energy counters of the processors, packages first."""
    zones = _Zones()
    cut = _collect(sysfs_root / "class/powercap", zones, 0)
    for below in ("intel-rapl", "intel-rapl-mmio"):
        cut |= _collect(sysfs_root / "devices/virtual/powercap" / below, zones, 0)
    notes = [f"more powercap zones than are {LOOKED_AT}"] if cut else []
    kept, dropped = _without_mmio(zones.by_identity)
    if dropped:
        notes.append(f"{', '.join(dropped)}: the memory-mapped view of a package that is already there")
    rails = [_rail(identity, folder, kept) for identity, folder in kept.items()]
    return Found(_with_includes(rails), tuple(notes), cut)


@dataclass
class _Zones:
    """Zones by identity, each folder once, by whatever link it is reached."""

    by_identity: dict[str, Path] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    @property
    def full(self) -> bool:
        """Tell whether no more are taken."""
        return len(self.seen) >= MAX_ZONES

    def is_new(self, zone: Path) -> bool:
        """Add a zone; return whether its folder was not there yet, so that it is looked into once."""
        if (folder := real(zone)) in self.seen:
            return False
        self.seen.add(folder)
        self.by_identity.setdefault(zone.name, zone)
        return True


def _collect(folder: Path, zones: _Zones, depth: int) -> bool:
    """Add the zones of a folder and of those in it; return whether some were cut."""
    listing = list_numbered(folder, _ZONE, limit_n=256)
    cut = listing.cut
    for _, zone in listing.entries:
        if zones.full:
            return True
        if not zones.is_new(zone):
            continue
        if depth < _MAX_DEPTH:
            cut |= _collect(zone, zones, depth + 1)
    if depth == 0:
        for _, control in list_numbered(folder, _CONTROL, limit_n=8).entries:
            cut |= _collect(control, zones, 1)
    return cut


def _without_mmio(zones: dict[str, Path]) -> tuple[dict[str, Path], list[str]]:
    """Return the zones by identity, less those that repeat a package; on some machines only the repeat is there."""
    names = {read_word(path / "name") for identity, path in zones.items() if "-mmio" not in identity}
    repeats = {identity for identity, path in zones.items()
               if "-mmio" in identity and identity.count(":") == 1 and read_word(path / "name") in names}  # fmt: skip
    dropped = [identity for identity in zones if any(_is_within(identity, repeat) for repeat in repeats)]
    ordered = sorted((identity for identity in zones if identity not in dropped), key=_order)
    return {identity: zones[identity] for identity in ordered}, sorted(dropped, key=_order)


def _is_within(identity: str, other: str) -> bool:
    return identity == other or identity.startswith(other + ":")


def _order(identity: str) -> tuple[int, str, tuple[int, ...]]:
    control, *numbers = identity.split(":")
    return (len(numbers), control, tuple(map(int, numbers)))


def _rail(identity: str, folder: Path, zones: dict[str, Path]) -> Rail:
    word = read_word(folder / "name") or identity
    parent = identity.rpartition(":")[0]
    top = identity
    while top.count(":") > 1:
        top = top.rpartition(":")[0]
    package = read_word(zones[parent] / "name") if parent in zones else ""
    range_uj = try_int(folder / "max_energy_range_uj")
    scope, feeds = _scope(word)
    return Rail(
        name=f"{package or parent}/{word}" if parent in zones else word,
        family="rapl",
        scope=scope,
        kind=RailKind.COUNTER,
        source=FileProduct((folder / "energy_uj",), _MICRO),
        sensor=f"powercap {identity}",
        feeds=feeds,
        range_n=range_uj if range_uj is not None and range_uj > 0 else None,
        refresh_s=_REFRESH_S,
        group=top,
        problem=_problem(folder / "energy_uj", range_uj),
    )


def _problem(path: Path, range_uj: int | None) -> str | None:
    unreadable = readable_problem((path,))
    if unreadable is not None:
        return unreadable
    count = try_int(path)
    if count is None or count < 0 or (range_uj and count > range_uj):
        return f"energy_uj holds {count}, outside its range of {range_uj}"
    return None


def _scope(word: str) -> tuple[str, str]:
    if word.startswith("package"):
        return "package", "one processor package: cores, caches, integrated graphics"
    if word.startswith("psys"):
        return "platform", "the whole platform behind its supply"
    known = {
        "core": ("cores", "the cores of the package"),
        "uncore": ("uncore", "integrated graphics, where there is one"),
        "dram": ("memory", "the memory of the package's socket"),
    }
    return known.get(word, ("not told", "not told"))


def _with_includes(rails: list[Rail]) -> tuple[Rail, ...]:
    """Fill in what each rail contains: psys the packages, a package its sub-zones without dram. Names become unique."""
    named = _unique(rails)
    return tuple(replace(rail, includes=tuple(_inside(rail, named))) for rail in named)


def _unique(rails: list[Rail]) -> list[Rail]:
    seen: set[str] = set()
    named = []
    for rail in rails:
        name = rail.name if rail.name not in seen else f"{rail.name} ({rail.sensor})"
        seen.add(name)
        named.append(replace(rail, name=name))
    return named


def _inside(rail: Rail, rails: list[Rail]) -> Iterator[str]:
    for other in rails:
        if other is rail:
            continue
        own_part = other.group == rail.group and other.scope not in {"memory", "package", "platform"}
        if rail.scope == "package" and own_part:
            yield other.name
        if rail.scope == "platform" and other.scope in {"package", "cores", "uncore"}:
            yield other.name
