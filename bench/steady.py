"""Steady-state labels on synthetic traces: 8 classes of 100 seeds, beside two rules in common use.

And which levels that go to and fro are believed to average.

`BENCH_SEEDS` shortens the run.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from edgefleet_agent.qualify.latency.steady import BLOCK_N, TraceKind, classify
from edgefleet_agent.qualify.latency.wander import level_of

SAMPLES_N = 2000
BASE_NS = 1e6
SEEDS_N = int(os.environ.get("BENCH_SEEDS", "100"))


@dataclass(frozen=True)
class Synthetic:
    """A trace whose truth is known: `change_n` samples come before its one change of level."""

    samples_ns: np.ndarray
    change_n: int | None = None


def _noise(rng: np.random.Generator) -> np.ndarray:
    return rng.lognormal(0.0, rng.choice([0.005, 0.02, 0.05]), SAMPLES_N)


def _made(relative: np.ndarray, change_n: int | None = None) -> Synthetic:
    return Synthetic((relative * BASE_NS).astype(np.int64), change_n)


def flat(rng: np.random.Generator) -> Synthetic:
    """One level, next to no noise."""
    return _made(rng.lognormal(0.0, 0.002, SAMPLES_N))


def noise(rng: np.random.Generator) -> Synthetic:
    """One level under 5 to 30 % of noise."""
    return _made(rng.lognormal(0.0, rng.uniform(0.05, 0.3), SAMPLES_N))


def spikes(rng: np.random.Generator) -> Synthetic:
    """0.5 to 10 % of samples take 3 to 20 times as long."""
    high = rng.random(SAMPLES_N) < rng.uniform(0.005, 0.1)
    return _made(_noise(rng) * np.where(high, rng.uniform(3, 20), 1.0))


def warm_up(rng: np.random.Generator) -> Synthetic:
    """Slower at first: by a step at a random place, or fading away."""
    times = np.arange(SAMPLES_N)
    if rng.random() < 0.5:
        change_n = int(rng.integers(100, 800))
        return _made(_noise(rng) * np.where(times < change_n, rng.uniform(1.1, 3), 1.0), change_n)
    return _made(_noise(rng) * (1.0 + rng.uniform(0.5, 3) * np.exp(-times / rng.uniform(30, 150))))


def throttle(rng: np.random.Generator) -> Synthetic:
    """Slower by 6 to 100 % from a random place on."""
    change_n = int(rng.integers(300, 1500))
    return _made(_noise(rng) * np.where(np.arange(SAMPLES_N) >= change_n, rng.uniform(1.06, 2), 1.0), change_n)


def drift(rng: np.random.Generator) -> Synthetic:
    """Slower by 8 to 60 % along a straight line."""
    return _made(_noise(rng) * (1.0 + rng.uniform(0.08, 0.6) * np.arange(SAMPLES_N) / SAMPLES_N))


def limit_cycle(rng: np.random.Generator) -> Synthetic:
    """To and fro by 6 to 50 %, as a sine or a square, every 100 to 800 samples."""
    turns = np.arange(SAMPLES_N) / rng.integers(100, 800) + rng.random()
    wave = (turns % 1.0 < 0.5) if rng.random() < 0.5 else 0.5 + 0.5 * np.sin(2.0 * math.pi * turns)
    return _made(_noise(rng) * (1.0 + rng.uniform(0.06, 0.5) * wave))


def bimodal(rng: np.random.Generator) -> Synthetic:
    """10 to 50 % of samples, at random, take 1.2 to 2 times as long."""
    high = rng.random(SAMPLES_N) < rng.uniform(0.1, 0.5)
    return _made(_noise(rng) * np.where(high, rng.uniform(1.2, 2), 1.0))


CLASSES: dict[str, tuple[Callable[[np.random.Generator], Synthetic], str]] = {
    "flat": (flat, "flat"),
    "noise": (noise, "flat"),
    "spikes": (spikes, "flat"),
    "warm-up": (warm_up, "warm-up"),
    "throttle step": (throttle, "slow-down"),
    "drift": (drift, "unsteady"),
    "limit cycle": (limit_cycle, "unsteady"),
    "bimodal": (bimodal, "flat"),
}
"""Class → how it is made, and its right label."""


WANDER_N = 2500
"""Ten seconds of a model of 4 ms."""
Moving = Callable[[np.random.Generator], np.ndarray]


def _times() -> np.ndarray:
    return np.arange(WANDER_N) / WANDER_N


def autoregressive(memory_share: float) -> Moving:
    """Return a level with a standard deviation of 4 % and a memory of some share of the run."""

    def make(rng: np.random.Generator) -> np.ndarray:
        rho = math.exp(-1.0 / (memory_share * WANDER_N))
        steps = rng.normal(size=WANDER_N)
        steps[1:] *= math.sqrt(1.0 - rho * rho)
        return np.asarray(0.04 * lfilter([1.0], [1.0, -rho], steps))

    return make


def walk(rng: np.random.Generator) -> np.ndarray:
    """Return a random walk that ends some 10 to 20 % from where it began."""
    return np.asarray(np.cumsum(rng.normal(0.0, rng.uniform(0.1, 0.2) / math.sqrt(WANDER_N), WANDER_N)))


def excursions(rng: np.random.Generator) -> np.ndarray:
    """Return a level that is 12 % higher eight times or so, for a fortieth of the run each."""
    begins = rng.random(WANDER_N) < 8.0 / WANDER_N
    return np.asarray(0.12 * (lfilter(np.ones(WANDER_N // 40), [1.0], begins.astype(np.float64)) > 0.5))


def trend(rng: np.random.Generator) -> np.ndarray:
    """Return a slow rise by 10 % under a quick wander."""
    return 0.1 * _times() + 0.75 * autoregressive(0.01)(rng)


def step(rng: np.random.Generator) -> np.ndarray:
    """Return a rise by 10 % for good, in the middle or near the end, under a quick wander."""
    return 0.1 * (_times() > rng.uniform(0.2, 0.9)) + 0.75 * autoregressive(0.01)(rng)


def cycle(turns: float) -> Moving:
    """Return a swing of 20 % that turns so often in a run."""
    return lambda rng: 0.1 * np.sin(2.0 * math.pi * (turns * _times() + rng.random()))


WANDERS: dict[str, Moving] = {
    "memory 1 % of the run": autoregressive(0.01),
    "memory 2.5 %": autoregressive(0.025),
    "memory 5 %": autoregressive(0.05),
    "memory 10 %": autoregressive(0.1),
    "excursions of 12 %": excursions,
    "cycle, 12 turns": cycle(12),
    "cycle, 6 turns": cycle(6),
    "cycle, 3 turns": cycle(3),
    "cycle, 1 turn": cycle(1),
    "random walk": walk,
    "trend of 10 %": trend,
    "step of 10 %": step,
}
"""Level → how its logarithm is made; those from three turns on do not average."""


def moving(make: Moving, seed: int) -> np.ndarray:
    """Return latencies whose level moves so, under 0.5 to 2 % of noise, in nanoseconds."""
    rng = np.random.default_rng(seed)
    noise_of = rng.normal(0.0, rng.choice([0.005, 0.01, 0.02]), WANDER_N)
    return np.asarray(4e6 * np.exp(make(rng) + noise_of), np.int64)


def show_wanders() -> None:
    """Print how many levels of each class last, are believed to average, or want more time."""
    for name, make in WANDERS.items():
        levels = [level_of(moving(make, seed)) for seed in range(SEEDS_N)]
        lasts = sum(level.trace.kind is TraceKind.FLAT for level in levels)
        averages = sum(level.averages for level in levels)
        print(f"{name:22} one level {lasts:3}, averages {averages:3}, unsteady {SEEDS_N - lasts - averages:3}")


def three_windows_agree(samples_ns: np.ndarray) -> bool:
    """Return perf_analyzer's rule on the last 3 of 10 windows: mean latencies within 10 % of each other's mean."""
    means = samples_ns[-3 * (SAMPLES_N // 10) :].reshape(3, -1).mean(axis=1)
    return bool(np.all(np.abs(means / means.mean() - 1.0) <= 0.1))


def little_variation(samples_ns: np.ndarray) -> bool:
    """Return trtexec's warning turned round: the coefficient of variation is at most 1 %."""
    return bool(samples_ns.std() / samples_ns.mean() <= 0.01)


def main() -> None:
    """Label every trace and print the shares that are right."""
    right = near = located = others_a = others_b = 0
    began_s = time.perf_counter()
    for name, (make, label) in CLASSES.items():
        kinds: Counter[str] = Counter()
        for seed in range(SEEDS_N):
            trace = make(np.random.default_rng(seed))
            found = classify(trace.samples_ns)
            kinds[found.kind.value] += 1
            if trace.change_n is not None and found.kind.value == label and found.steady_from_n is not None:
                located += 1
                near += abs(found.steady_from_n - trace.change_n) <= BLOCK_N
            others_a += three_windows_agree(trace.samples_ns) == (label != "unsteady")
            others_b += little_variation(trace.samples_ns) == (label != "unsteady")
        right += kinds[label]
        print(f"{name:14} right {kinds[label] / SEEDS_N:6.1%}  {dict(kinds)}")
    all_n = SEEDS_N * len(CLASSES)
    took_ms = 1e3 * (time.perf_counter() - began_s) / all_n
    print(f"all: {right / all_n:.1%} right (aim: at least 95 %), {took_ms:.1f} ms a trace of {SAMPLES_N} samples")
    print(f"change within one block of {BLOCK_N} samples: {near} of {located}")
    print(
        "steady or not, right: three windows within 10 % (perf_analyzer) "
        f"{others_a / all_n:.1%}, coefficient of variation at most 1 % (trtexec) {others_b / all_n:.1%}"
    )
    show_wanders()


if __name__ == "__main__":
    main()
