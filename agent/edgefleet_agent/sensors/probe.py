"""One probe for every sensor: which rails there are, which add up, and everything thermal.

`sysfs_root` may be a recorded or built tree of another machine: a sysfs (`DIR/class/…`) or a whole root
(`DIR/sys/class/…`). Then nothing outside it is read: no NVML, no `vcgencmd`; the latter's answers may lie in the tree
(see `pi`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgefleet_agent.sensors.boards import canonical, decide_total
from edgefleet_agent.sensors.files import SensorFileError, is_folder, read_bytes, read_word
from edgefleet_agent.sensors.hwmon import find_chips, find_other_rails
from edgefleet_agent.sensors.ina3221 import find_ina3221
from edgefleet_agent.sensors.nvml import Nvml, find_nvml_within, load_pynvml
from edgefleet_agent.sensors.pi import NO_PMIC, Vcgencmd, find_pmic, recorded_vcgencmd, run_vcgencmd
from edgefleet_agent.sensors.power_supply import find_batteries, supply_names
from edgefleet_agent.sensors.rails import LOOKED_AT, MAX_RAILS, Rail, Total
from edgefleet_agent.sensors.rapl import find_rapl
from edgefleet_agent.sensors.thermal import Thermal, read_thermal
from edgefleet_contract.base import clip_reason
from edgefleet_contract.profile import RailKind, SensorProbe

MAX_SENSORS = 64
"""As many as a profile holds."""
LIVE_ROOT = Path("/sys")
_PARTS = ("class", "bus", "devices", "firmware", "vcgencmd")


@dataclass(frozen=True)
class Sensors:
    """The sensors of a machine.

    Attributes:
        rails: every power rail, readable or not; names are unique.
        total: which of them add up.
        read_thermal: looks at temperatures, cooling, clocks and throttle flags now.
        notes: what was found and left out.
    """

    rails: tuple[Rail, ...]
    total: Total
    read_thermal: Callable[[], Thermal]
    notes: tuple[str, ...] = ()


def find_sysfs(root: Path) -> Path:
    """Return where sysfs lies in what the caller gave: itself, or its `sys` folder."""
    if is_folder(root / "sys") and not any(is_folder(root / part) for part in _PARTS[:2]):
        return root / "sys"
    return root


def is_live(sysfs_root: Path) -> bool:
    """Tell whether a root is this machine's own sysfs."""
    try:
        return os.path.realpath(sysfs_root) == str(LIVE_ROOT)
    except (OSError, ValueError):
        return False


def probe(sysfs_root: Path = LIVE_ROOT, *, nvml: Nvml | None = None, vcgencmd: Vcgencmd | None = None) -> Sensors:
    """Find every sensor. Never raises, never blocks: what is not as it should be becomes a reason or a note.

    Args:
        sysfs_root: where sysfs is mounted, or the tree of another machine.
        nvml: a module with NVML's names; default: the installed one for this machine, none for other trees.
        vcgencmd: the Raspberry Pi's tool; default: the real one on a Pi, the recorded answers for other trees.
    """
    root = find_sysfs(sysfs_root)
    live = is_live(root)
    board = _board(root)
    nvml = nvml if nvml is not None or not live else load_pynvml()
    vcgencmd = vcgencmd or (_vcgencmd(board) if live else recorded_vcgencmd(root, sysfs_root))
    chips = find_chips(root)
    found = [
        find_ina3221(root, chips),
        find_rapl(root),
        find_pmic(vcgencmd) if board is None or "raspberry pi" in board.lower() else None,
        find_batteries(root),
        find_nvml_within(nvml),
        find_other_rails(chips, supply_names(root)),
    ]
    notes = [note for part in found if part for note in part.notes if board or not note.startswith(NO_PMIC)]
    rails = _unique(rail for part in found if part for rail in part.rails)
    if chips.cut:
        notes.append(f"more hwmon chips than are {LOOKED_AT}")
    if len(rails) > MAX_RAILS:
        notes.append(f"{len(rails)} power rails: {MAX_RAILS} are shown")
    kept = _with_present_includes(rails[:MAX_RAILS])
    total = _total(kept, board, notes)
    cut = any(part.cut for part in found if part) or len(_total(rails, board, notes).rails) > len(total.rails)
    if len(total.rails) > 1 and cut:
        total = Total(reason="there are more power rails than are looked at: a sum would leave some out")
    limits = [note for note in notes if LOOKED_AT in note]
    if not rails and limits:
        total = Total(reason=f"no power sensor among those that were looked at: {'; '.join(limits)}")
    return Sensors(kept, total, lambda: read_thermal(root, chips, vcgencmd), tuple(notes[:32]))


def _total(rails: Sequence[Rail], board: str | None, notes: list[str]) -> Total:
    total = decide_total(rails, board)
    unread = next((note for note in notes if note.startswith(NO_PMIC)), None)
    if not rails and unread and board and "raspberry pi 5" in board.lower():
        return Total(reason=f"{unread}; a Raspberry Pi 5 is read by `vcgencmd pmic_read_adc`")
    return total


def _board(root: Path) -> str | None:
    """Return the device tree's model and `compatible` words, such as `NVIDIA Jetson … nvidia,tegra234`; None on PCs."""
    base = root / "firmware/devicetree/base"
    try:
        words = read_bytes(base / "compatible").replace(b"\x00", b" ").decode("ascii", "replace").strip()
    except SensorFileError:
        words = ""
    return f"{read_word(base / 'model')} {words}".strip() or None


def _vcgencmd(board: str | None) -> Vcgencmd:
    if board is not None and "raspberry pi" in board.lower():
        return run_vcgencmd

    def none(word: str) -> str:
        msg = f"no vcgencmd {word} on this machine"
        raise SensorFileError(msg)

    return none


def _unique(rails: Iterable[Rail]) -> list[Rail]:
    """Return the rails with names that occur twice made different by their sensor, at most 128 characters."""
    rails = list(rails)
    times = Counter(rail.name for rail in rails)
    return [
        replace(rail, name=(rail.name if times[rail.name] == 1 else f"{rail.name} ({rail.sensor})")[:128])
        for rail in rails
    ]


def _with_present_includes(rails: list[Rail]) -> tuple[Rail, ...]:
    """Return the rails with only those rails named as contained that are there, spelt as they are there."""
    there = {canonical(rail.name): rail.name for rail in rails}
    return tuple(
        replace(rail, includes=tuple(there[name] for name in map(canonical, rail.includes) if name in there))
        for rail in rails
    )


def list_sensors(sensors: Sensors, thermal: Thermal) -> tuple[SensorProbe, ...]:
    """Return what a profile says of the sensors: no figures, so that a profile changes only with the device."""
    added = {rail.name for rail in sensors.total.rails}
    found = [
        *(_rail_probe(rail, in_total=rail.name in added) for rail in sensors.rails),
        *(SensorProbe(name=zone.name, kind="temperature") for zone in thermal.temperatures if zone.celsius is not None),
        *(SensorProbe(name=clock.name, kind="frequency") for clock in thermal.frequencies),
    ]
    return tuple(found[:MAX_SENSORS])


def _rail_probe(rail: Rail, *, in_total: bool) -> SensorProbe:
    return SensorProbe(
        name=rail.name,
        kind="energy" if rail.kind is RailKind.COUNTER else "power",
        reason=None if rail.problem is None else clip_reason(rail.problem),
        reading=rail.kind,
        scope=rail.scope,
        includes=rail.includes[:MAX_SENSORS],
        in_total=in_total,
    )


def energy_unmeasured_reason(total: Total) -> str | None:
    """Return why energy cannot be measured; None when it can."""
    return None if total.rails else clip_reason(total.reason or "no power sensor on this device")
