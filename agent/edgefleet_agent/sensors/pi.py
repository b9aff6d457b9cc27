"""Raspberry Pi: `vcgencmd`, the firmware's own tool.

A Pi 5 measures voltage and current of its PMIC's output rails (`vcgencmd pmic_read_adc`); older boards have no power
sensor. `get_throttled` says what slows the board down. A recorded tree holds the answers as files
`vcgencmd/pmic_read_adc` and `vcgencmd/get_throttled` below its root; nothing is ever executed for such a tree.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from edgefleet_agent.sensors.files import MAX_MATCHES, SensorFileError, exists, list_numbered, read_bytes
from edgefleet_agent.sensors.rails import MAX_RAILS, Call, Found, Rail
from edgefleet_contract.profile import RailKind

Vcgencmd = Callable[[str], str]
"""Returns what `vcgencmd WORD` prints. Raises SensorFileError."""

NO_PMIC = "no PMIC rails"
_ANSWER_BYTES = 8192
_TIMEOUT_S = 2.0
_ADC = re.compile(r"^\s*([A-Z0-9_]{1,40})_([AV])\s+(current|volt)\([0-9]{1,3}\)=([0-9]{1,6}(?:\.[0-9]{1,12})?)[AV]\s*$")
_THROTTLED = re.compile(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})")
_PLATFORM = re.compile(r"(?:soc|scb|firmware)[@:0-9a-z]*()|[0-9a-z.@:]*firmware()")
_FLAG_FILES = ("devices/platform/soc/soc:firmware/get_throttled", "devices/platform/soc@0/soc@0:firmware/get_throttled")
_NO_DRAW = frozenset({"EXT5V", "BATT"})
"""Voltages without a current: the 5 V input and the clock's battery."""


def run_vcgencmd(word: str) -> str:
    """Run the firmware's tool. Raises SensorFileError when it is not there, fails, or takes longer than 2 s."""
    try:
        done = subprocess.run(["vcgencmd", word], capture_output=True, timeout=_TIMEOUT_S, check=True)  # noqa: S607
    except (OSError, subprocess.SubprocessError) as error:
        msg = f"vcgencmd {word} failed: {error}"
        raise SensorFileError(msg) from error
    return done.stdout[:_ANSWER_BYTES].decode("ascii", "replace")


def recorded_vcgencmd(*roots: Path) -> Vcgencmd:
    """Return a `vcgencmd` that answers from the files of a recorded tree, in the first root that has them."""

    def answer(word: str) -> str:
        paths = [root / "vcgencmd" / name for root in roots for name in (word, f"{word}.txt")]
        there = next((path for path in paths if exists(path)), paths[0])
        return read_bytes(there, _ANSWER_BYTES).decode("ascii", "replace")

    return answer


def parse_adc(text: str) -> dict[str, float]:
    """Return watts by rail, for every rail with both a voltage and a current.

    Raises:
        SensorFileError: the text holds no such rail, or a figure no board has.
    """
    amperes: dict[str, float] = {}
    volts: dict[str, float] = {}
    for line in text[:_ANSWER_BYTES].splitlines()[:256]:
        match = _ADC.match(line)
        if match is not None:
            (amperes if match[2] == "A" else volts)[match[1]] = float(match[4])
    rails = {name: amperes[name] * volts[name] for name in amperes if name in volts and name not in _NO_DRAW}
    if not rails:
        msg = "pmic_read_adc told no rail with both a voltage and a current"
        raise SensorFileError(msg)
    return rails


def find_pmic(vcgencmd: Vcgencmd) -> Found:
    """Return the PMIC's rails; a board whose firmware does not know the command has none."""
    try:
        watts = parse_adc(vcgencmd("pmic_read_adc"))
    except SensorFileError as error:
        return Found(notes=(f"{NO_PMIC}: {error}",))
    source = _PmicCall(vcgencmd)
    rails = [
        Rail(
            name=name,
            family="pmic",
            scope="pmic rail",
            kind=RailKind.INSTANT,
            source=Call(source.reader(name)),
            sensor=f"vcgencmd pmic_read_adc {name}",
            feeds=f"what hangs on the PMIC's {name} output",
        )
        for name in list(watts)[:MAX_RAILS]
    ]
    return Found(tuple(rails))


class _PmicCall:
    """One command gives all rails: it runs when its first rail is read again."""

    def __init__(self, vcgencmd: Vcgencmd) -> None:
        self._vcgencmd = vcgencmd
        self._watts: dict[str, float] = {}

    def reader(self, name: str) -> Callable[[], float]:
        def read() -> float:
            if name not in self._watts:
                self._watts = parse_adc(self._vcgencmd("pmic_read_adc"))
            try:
                return self._watts.pop(name)
            except KeyError:
                self._watts = {}
                msg = f"pmic_read_adc no longer tells {name}"
                raise SensorFileError(msg) from None

        return read


def read_throttled(sysfs_root: Path, vcgencmd: Vcgencmd) -> int | None:
    """Return the firmware's throttle bits, from sysfs where the kernel shows them, else from vcgencmd, else None."""
    for path in _flag_files(sysfs_root):
        try:
            return parse_throttled(read_bytes(path).decode("ascii", "replace"))
        except SensorFileError:
            continue
    try:
        return parse_throttled(vcgencmd("get_throttled"))
    except SensorFileError:
        return None


def _flag_files(sysfs_root: Path) -> list[Path]:
    """Return where kernels put `get_throttled`: below the firmware's platform device, whatever its address."""
    platform = sysfs_root / "devices/platform"
    folders = [path for _, path in list_numbered(platform, _PLATFORM, limit_n=16).entries]
    nested = [path for folder in folders for _, path in list_numbered(folder, _PLATFORM, limit_n=16).entries]
    found = [folder / "get_throttled" for folder in [*folders, *nested]][:MAX_MATCHES]
    return [*(sysfs_root / name for name in _FLAG_FILES), *found]


def parse_throttled(text: str) -> int:
    """Return the bits of `throttled=0x50000`, `0x50000` or `50000` (always hexadecimal). Raises SensorFileError."""
    match = _THROTTLED.fullmatch(text.strip(" \t\n\r\x00"))
    if match is None:
        msg = f"get_throttled holds {text[:24]!r}, not hexadecimal bits"
        raise SensorFileError(msg)
    return int(match[1], 16)
