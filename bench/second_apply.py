"""Time of a second `fleet apply` of the quick start, after the stack's start-up; nothing may be built or sent.

`BENCH_MANIFEST` names another manifest. The first apply, which builds and proves everything, is printed for comparison.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.conditions import conditions, spread
from edgefleet_contract.report import DeviceState
from edgefleet_hil.rig import Rig

MANIFEST = Path(os.environ.get("BENCH_MANIFEST", "manifests/examples/quickstart.yaml"))
REPEATS_N = 5
AIM_S = 2.0
FLEET = str(Path(sys.executable).with_name("fleet"))


def apply(home: Path) -> tuple[float, dict[str, Any]]:
    """Run `fleet apply` as a user does; return seconds of wall time and what it printed."""
    env = {**os.environ, "FLEET_HOME": str(home)}
    started_s = time.monotonic()
    done = subprocess.run(
        [FLEET, "apply", str(MANIFEST), "-o", "json"], env=env, check=True, capture_output=True, text=True
    )
    return time.monotonic() - started_s, json.loads(done.stdout)


def counts(rig: Rig) -> dict[str, object]:
    """Return how much was built, wished and reported so far."""
    (row,) = rig.query(
        "select (select count(*) from builds) as built, (select count(*) from revisions) as wished,"
        " (select count(*) from reports) as reported"
    )
    return row


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder, Rig(Path(folder)) as rig:
        first_s, said = apply(rig.home.root)
        assert all(row["state"] == DeviceState.ACTIVE.value for row in said["devices"]), said
        before = counts(rig)
        again: list[float] = []
        for _ in range(REPEATS_N):
            took_s, said = apply(rig.home.root)
            assert said["changed"] is False, said
            again.append(took_s)
        assert counts(rig) == before, "a second apply built, wished or proved something"
    print(f"first apply, everything built and proven: {first_s:.3g} s")
    print(f"second apply, no change: {spread(again, 's')} (aim: below {AIM_S:g} s)")
    print(f"ratio second / first: {sorted(again)[REPEATS_N // 2] / first_s:.4f}")
    print(f"conditions: whole command with start of Python, stack running, {MANIFEST.name}; {conditions()}")


if __name__ == "__main__":
    main()
