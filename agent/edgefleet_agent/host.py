"""What this machine is: facts read from the system, with the standard library only."""

from __future__ import annotations

import os
import platform
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from edgefleet_agent.sensors.files import SensorFileError, read_bytes, read_word

_MAX_CPU_FEATURES = 512
_MAX_CPUINFO_CHARS = 256 * 1024
"""A processor takes some 1,500, a server has hundreds, and boards name themselves after the last."""


@cache
def agent_version() -> str:
    """Return the version of the distribution this process runs: what was installed when it first asked."""
    return installed_version()


def installed_version() -> str:
    """Return the version of the distribution that is installed now, which a process started now runs."""
    try:
        return metadata.version("edgefleet")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def arch() -> str:
    """Return the machine's architecture as `uname -m` prints it."""
    return platform.machine() or "unknown"


def os_name() -> str:
    """Return `linux`, `android`, `darwin` …: what selectors compare `os` with."""
    if hasattr(sys, "getandroidapilevel"):
        return "android"
    return platform.system().lower() or "unknown"


def distribution() -> str:
    """Return the operating system's full name, such as `Debian GNU/Linux 12 (bookworm)`."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", os_name())[:128]
    except OSError:
        return os_name()


def cpu_count() -> int:
    """Return the CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model(proc: Path = Path("/proc"), sysfs_root: Path = Path("/sys")) -> str:
    """Return the CPU's name as the kernel tells it; boards without one give their board's name."""
    fields = _cpuinfo(proc)
    for key in ("model name", "Hardware", "Model", "cpu model"):
        if fields.get(key):
            return fields[key][:256]
    return (board_model(sysfs_root) or platform.processor() or arch())[:256]


def cpu_features(proc: Path = Path("/proc")) -> tuple[str, ...]:
    """Return the instruction-set features the kernel lists, sorted."""
    fields = _cpuinfo(proc)
    listed = fields.get("flags") or fields.get("Features") or ""
    return tuple(sorted(set(listed.split())))[:_MAX_CPU_FEATURES]


def board_model(sysfs_root: Path = Path("/sys")) -> str | None:
    """Return the board's name from the device tree, such as `NVIDIA Jetson Orin Nano`; None on PCs."""
    return read_word(sysfs_root / "firmware/devicetree/base/model") or None


def board_makers(sysfs_root: Path = Path("/sys")) -> tuple[str, ...]:
    """Return what the device tree says the board is compatible with, such as `nvidia,tegra234`; none on PCs."""
    try:
        words = read_bytes(sysfs_root / "firmware/devicetree/base/compatible")
    except SensorFileError:
        return ()
    return tuple(word.decode("ascii", "replace") for word in words.split(b"\x00") if word)


def power_modes(root: Path = Path("/")) -> dict[str, str]:
    """Return the settings that cap clocks or choose them, by name, as far as the system tells them.

    `nvpmodel`: the number of a Jetson's mode, from the file in which NVIDIA's tool keeps it (`pmode:0002`).
    `platform_profile`: ACPI's, of laptops. `governor`: how the kernel chooses the first CPU's clock.

    Args:
        root: where the file system begins.
    """
    nvpmodel = re.search(r"pmode:([0-9]{1,4})", read_word(root / "var/lib/nvpmodel/status"))
    told = {
        "nvpmodel": str(int(nvpmodel[1])) if nvpmodel else "",
        "platform_profile": read_word(root / "sys/firmware/acpi/platform_profile"),
        "governor": read_word(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    }
    return {name: value for name, value in told.items() if value}


def power_mode() -> str:
    """Return this machine's power modes in one line: `nvpmodel 2, governor schedutil`; "" where none is told."""
    return ", ".join(f"{name} {value}" for name, value in power_modes().items())


def _cpuinfo(proc: Path) -> dict[str, str]:
    """Return the first value of each key of /proc/cpuinfo."""
    try:
        with (proc / "cpuinfo").open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_CPUINFO_CHARS)
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields
