"""A power meter that is not there: the double of `edgefleet_agent.sensors.external.ExternalMeter`.

::

    meter = SimulatedMeter(lambda at_s: 2.0 if at_s < 1.0 else 6.0)   # watts over simulated time
    meter.start()
    meter.pass_s(1.5)
    meter.stop().energy_j                                            # 5.0

`edgefleet-agent qualify DIR --meter edgefleet_hil.meter:worker_meter` shows a trial with a meter on any machine: the
meter believes that its process draws 3 W, and 5 W more while it computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edgefleet_agent.sensors.external import Accumulated, Statistics
from edgefleet_agent.sensors.files import SensorFileError

STEP_S = 0.001
"""Power is taken as constant over a millisecond."""


class SimulatedMeter:
    """Measures a power that a function of time gives, on a clock that only `pass_s` moves.

    Args:
        power_w: watts at a moment, in seconds since the meter was made.
        volts: the supply's voltage.
    """

    name = "simulated meter"
    refresh_s = STEP_S
    simulated = True

    def __init__(self, power_w: Callable[[float], float] = lambda _: 0.0, volts: float = 5.0) -> None:
        self._power_w = power_w
        self._volts = volts
        self._steps_n = 0
        self._energy_j = 0.0
        self._started: tuple[int, float] | None = None

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        for _ in range(round(seconds / STEP_S)):
            self._energy_j += self._power_w(self._steps_n * STEP_S) * STEP_S
            self._steps_n += 1

    def start(self) -> None:
        """Begin to add up charge and energy."""
        self._started = (self._steps_n, self._energy_j)

    def stop(self) -> Accumulated:
        """End what `start` began and return it. Raises SensorFileError when it was not started."""
        if self._started is None:
            msg = "the meter was not started"
            raise SensorFileError(msg)
        (steps_n, energy_j), self._started = self._started, None
        added_j = self._energy_j - energy_j
        return Accumulated(added_j, (self._steps_n - steps_n) * STEP_S, added_j / self._volts)

    def capture(self, path: Path, *, duration_s: float, frequency_hz: float | None = None) -> None:
        """Write `at_s,power_w` lines for some time, which passes meanwhile."""
        rows = ["at_s,power_w"]
        each_s = 1.0 / (frequency_hz or 1.0 / STEP_S)
        for _ in range(round(duration_s / each_s)):
            at_s = self._steps_n * STEP_S
            rows.append(f"{at_s:.6f},{self._power_w(at_s)}")
            self.pass_s(each_s)
        path.write_text("\n".join(rows) + "\n", encoding="ascii")

    def get_statistics(self) -> Statistics:
        """Return the power now and the energy so far."""
        power_w = self._power_w(self._steps_n * STEP_S)
        return Statistics(power_w, self._energy_j, power_w / self._volts, self._volts)


class WorkerMeter(SimulatedMeter):
    """Simulates 3 W, and 5 W for each second of CPU time this process takes, in real time. It measures nothing else."""

    name = "simulated meter (3 W, and 5 W while this process computes)"

    def __init__(self) -> None:
        super().__init__()
        self._began_s, self._computed_s = time.monotonic(), time.process_time()

    def get_statistics(self) -> Statistics:
        """Return the mean power and the energy since the meter was made."""
        passed_s = max(1e-9, time.monotonic() - self._began_s)
        energy_j = 3.0 * passed_s + 5.0 * (time.process_time() - self._computed_s)
        return Statistics(energy_j / passed_s, energy_j)


def worker_meter() -> WorkerMeter:
    """Return a meter for `--meter edgefleet_hil.meter:worker_meter`."""
    return WorkerMeter()
