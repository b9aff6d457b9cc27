"""What a power rail is, and how one is read. Values only; nothing is opened here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgefleet_contract.profile import RailKind

NEVER_RUN = "never run on hardware by us: written from documentation, tested on simulated files"
"""Stands beside every figure of a sensor that was not at hand."""
MAX_RAILS = 64
LOOKED_AT = "looked at"
"""Stands in every note that says that a bound cut the search short."""
MAX_WATTS = 10_000.0
"""A rail of an edge device that reads more than this is misread."""


@dataclass(frozen=True)
class FileProduct:
    """A quantity from files: the product of their numbers, in counts of which `per_unit` make a watt or a joule.

    mV x mA is microwatts, so 1,000,000 of them make a watt.
    """

    paths: tuple[Path, ...]
    per_unit: int


@dataclass(frozen=True)
class Call:
    """A quantity from a function: NVML, the Pi's PMIC, an external meter. It raises SensorFileError."""

    read: Callable[[], float]
    per_unit: int = 1


@dataclass(frozen=True)
class Rail:
    """One power rail.

    Attributes:
        name: unique on the device.
        family: kind of sensor, by which `boards` finds its rules: `ina3221`, `rapl`, `nvml`, `pmic`, `battery`,
            `hwmon`, `meter`.
        scope: what it feeds, in a word or two.
        kind: what one reading is.
        source: how it is read: watts, or joules for a counter.
        sensor: chip and channel, as the system names them.
        feeds: what hangs on it, in words.
        includes: names of rails whose draw it already contains.
        range_n: for a counter, how many counts (before scaling) it has before it begins at 0 again; None when not told.
        window_s: time an averaging sensor averages over.
        refresh_s: how often the sensor renews its value by itself; None when not known.
        group: what belongs together, such as the processor socket.
        problem: why it cannot be read.
        inferred: what had to be inferred to read it, such as its unit.
    """

    name: str
    family: str
    scope: str
    kind: RailKind
    source: FileProduct | Call
    sensor: str
    feeds: str | None = None
    includes: tuple[str, ...] = ()
    range_n: int | None = None
    window_s: float | None = None
    refresh_s: float | None = None
    group: str = ""
    problem: str | None = None
    inferred: str | None = None


@dataclass(frozen=True)
class Total:
    """Which rails add up to what the device draws, or why none do.

    Attributes:
        rails: the rails to add; empty when there is no total.
        scope: what they feed together.
        rule: why these and no others, with its source.
        leaves_out: what the device draws that they do not see.
        modelled: they see only a part of the device, or their unit had to be inferred.
        reason: why there is no total, or why it is modelled.
    """

    rails: tuple[Rail, ...] = ()
    scope: str = ""
    rule: str = ""
    leaves_out: str | None = None
    modelled: bool = False
    reason: str | None = None

    @property
    def kind(self) -> str:
        """Return the kind of its rails, `mixed` when they differ."""
        kinds = {rail.kind.value for rail in self.rails}
        return kinds.pop() if len(kinds) == 1 else "mixed"


@dataclass(frozen=True)
class Found:
    """Rails of one family, what is worth saying of what was left out, and whether more are there than are looked at."""

    rails: tuple[Rail, ...] = ()
    notes: tuple[str, ...] = field(default=())
    cut: bool = False
