"""Memory of an idle agent: proportional set size, every 10 s for 5 minutes, beside a bare Python interpreter.

The method is the one Greengrass nucleus lite is measured by, so that figures can be set side by side.
`BENCH_SECONDS` shortens the run.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.conditions import conditions, spread
from edgefleet_hil.rig import Rig

PERIOD_S = 10.0
DURATION_S = float(os.environ.get("BENCH_SECONDS", "300"))
AIM_MIB = 45.0


def pss_mib(pid: int | None) -> float:
    """Return a process's proportional set size in MiB."""
    assert pid is not None, "the agent is not running"
    return float(psutil.Process(pid).memory_full_info().pss) / 1024**2


def main() -> None:
    """Measure and print."""
    agent: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Rig(Path(folder)) as rig:
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1e6)"])
        try:
            deadline_s = time.monotonic() + DURATION_S
            while time.monotonic() < deadline_s:
                time.sleep(min(PERIOD_S, max(0.1, deadline_s - time.monotonic())))
                agent.append(pss_mib(rig.pid("agent")))
                bare.append(pss_mib(sleeper.pid))
        finally:
            sleeper.kill()
            sleeper.wait()
    print(f"idle agent, PSS: {spread(agent, 'MiB')} (aim: at most {AIM_MIB:g} MiB)")
    print(f"bare Python interpreter, PSS: {spread(bare, 'MiB')}")
    print(f"ratio agent / bare interpreter: {statistics.median(agent) / statistics.median(bare):.2f}")
    print(f"conditions: connected, no model active, every {PERIOD_S:g} s for {DURATION_S:g} s; {conditions()}")


if __name__ == "__main__":
    main()
