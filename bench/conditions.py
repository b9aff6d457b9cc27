"""What every benchmark says about the machine it ran on."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path


def conditions() -> str:
    """Return processor, load, kernel and Python in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return f"{cpu}, {os.cpu_count()} CPUs, load {load}, Linux {platform.release()}, Python {platform.python_version()}"


def spread(values: Sequence[float], unit: str) -> str:
    """Return n, median, smallest and largest of some figures."""
    return (
        f"n {len(values)}, median {statistics.median(values):.4g} {unit}, min {min(values):.4g}, max {max(values):.4g}"
    )


def go_first() -> None:
    """Take precedence over other work on this machine, where that is allowed; processes started later do so too.

    Linux shares the CPU between sessions first (sched(7), autogroup): against work of another session that helps only
    in a session of its own, as `setsid --wait python -m bench …` makes one.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -19)
    with contextlib.suppress(OSError):
        if os.getsid(0) == os.getpid():
            Path("/proc/self/autogroup").write_text("-19", encoding="ascii")
