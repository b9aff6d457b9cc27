"""Energy of simulated one-minute loads: error and coverage of the 95 % interval, jittered against regular sampling.

Simulated time: what is shown is the method, not a machine. `BENCH_SEEDS` sets the number of runs each.
"""

from __future__ import annotations

import math
import os
import random
import statistics
from collections.abc import Callable

from bench.conditions import conditions
from edgefleet_agent.qualify.energy.estimate import Estimate, Window, power_energy
from edgefleet_agent.sensors.reader import Row
from edgefleet_agent.sensors.sampler import SamplerClock, Trace, sample

SEEDS_N = int(os.environ.get("BENCH_SEEDS", "100"))
RUN_S = 60.0
RATES_HZ = (10, 20, 50, 100, 200)
_NS_PER_S = 1_000_000_000
WHOLE = Window(0, int(RUN_S * _NS_PER_S))
Power = Callable[[float], float]


def bursts(rate_hz: float) -> Power:
    """Return 10 W for three tenths of each cycle and 3 W for the rest."""
    return lambda at_s: 10.0 if (at_s * rate_hz) % 1.0 < 0.3 else 3.0


LOADS: dict[str, tuple[Power, float]] = {
    "steady": (lambda _: 5.0, 300.0),
    "30 ms bursts, 10/s": (bursts(10), 306.0),
    "ramp": (lambda at_s: 3.0 + at_s / 10, 360.0),
    "aliased at 50 Hz": (bursts(50), 306.0),
    "aliased at 200 Hz": (bursts(200), 306.0),
    "bursts at 10.01 Hz": (bursts(10.01), 180.0 + 7.0 * 601 * 0.3 / 10.01),
    "bursts at 25 Hz": (bursts(25), 306.0),
    "bursts at 75 Hz": (bursts(75), 306.0),
    "bursts at 73.7 Hz": (bursts(73.7), 306.0),
}


class SimulatedSensor:
    """Shows a load's power at the moment it is read, on a clock that sleeping moves."""

    def __init__(self, power: Power) -> None:
        self.at_ns = 0
        self._power = power

    def read(self) -> Row:
        """Return the power now."""
        return (self._power(self.at_ns / _NS_PER_S),)

    def sleep_s(self, seconds: float) -> None:
        """Let time pass."""
        self.at_ns += int(seconds * _NS_PER_S)


def estimate(power: Power, hz: float, draw: Callable[[], float], *, balanced: bool = True) -> Estimate:
    """Return the energy of one run as the sampler and the integral see it."""
    sensor, trace = SimulatedSensor(power), Trace()
    clock = SamplerClock(lambda: sensor.at_ns, sensor.sleep_s)

    def ended() -> bool:
        return sensor.at_ns >= WHOLE.end_ns

    sample(sensor, trace, clock, period_s=1 / hz, draw=draw, stopped=ended, balanced=balanced)
    return power_energy(trace.at_ns, [float(row[0]) for row in trace.rows], WHOLE)


def main() -> None:
    """Simulate and print."""
    print(f"{'load':<20} {'rate':>6}  {'error, mean':>11} {'p95':>7}  {'interval':>10} {'covers':>6}  regular sampling")
    for name, (power, joules) in LOADS.items():
        for hz in RATES_HZ:
            print(f"{name:<20} {hz:>3} Hz  {row(power, joules, hz)}")
    print(f"conditions: {SEEDS_N} runs of {RUN_S:g} s each, 3 and 10 W, simulated time; {conditions()}")


def row(power: Power, joules: float, hz: float) -> str:
    """Return one line: error, width and coverage of the interval, and the worst error of regular sampling."""
    runs = [estimate(power, hz, random.Random(seed).random) for seed in range(SEEDS_N)]  # noqa: S311 - no secret
    errors = sorted(abs(run.value / joules - 1) for run in runs)
    half = statistics.mean((run.ci95[1] - run.ci95[0]) / 2 / joules for run in runs)
    covers = sum(run.ci95[0] <= joules * (1 + 1e-9) and run.ci95[1] >= joules * (1 - 1e-9) for run in runs)
    worst = max(abs(regular(power, hz, phase).value / joules - 1) for phase in (0.01, 0.29, 0.53, 0.83))
    return (
        f"{statistics.mean(errors):>11.2%} {errors[math.ceil(0.95 * SEEDS_N) - 1]:>7.2%}"
        f"  +-{half:>8.2%} {covers / SEEDS_N:>6.0%}  off by up to {worst:.1%}"
    )


def regular(power: Power, hz: float, phase: float) -> Estimate:
    """Return the energy of one run read at the same moment of each period."""
    return estimate(power, hz, lambda: phase, balanced=False)


if __name__ == "__main__":
    main()
