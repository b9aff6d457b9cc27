"""A CPU hog takes half of the CPU a model is measured on: do the undisturbed figures still tell the quiet ones?

Short quiet and contended rounds take turns on one CPU, and the samples of each kind are pooled: what else runs on this
machine disturbs both alike. How far chance moves the answer is told by drawing pairs of rounds again, with replacement.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.conditions import conditions, go_first
from edgefleet_agent.qualify.latency.clocks import real_clocks
from edgefleet_agent.qualify.latency.loop import Samples
from edgefleet_agent.qualify.latency.result import Run, latency_result
from edgefleet_agent.qualify.latency.run import Start, measured_run
from edgefleet_agent.tasks import open_model
from edgefleet_contract.evidence import LatencyVerdict
from edgefleet_contract.job import LatencyBudget

ROUNDS_N = int(os.environ.get("BENCH_ROUNDS", "30"))
DRAWS_N = 200
AIM = 0.15
LAYERS_N, WIDTH = 12, 512
BUDGET = LatencyBudget(min_n=1, max_n=12_000, min_duration_s=1.0, max_duration_s=1.0, warmup_max_s=0.2, percentile=0.99)
"""So short a round has no interval of p99 with a hog, so it never ends early."""


def chain(folder: Path) -> Path:
    """Write a chain of matrix products that takes about a millisecond and a half."""
    rng = np.random.default_rng(1)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.04, (WIDTH, WIDTH)).astype(np.float32), f"w{index}")
        for index in range(LAYERS_N)
    ]
    names = ["x", *(f"h{index}" for index in range(1, LAYERS_N)), "y"]
    nodes = [helper.make_node("MatMul", [names[index], f"w{index}"], [names[index + 1]]) for index in range(LAYERS_N)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16, WIDTH]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    path = folder / "chain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@contextlib.contextmanager
def hog(cpu: int) -> Iterator[None]:
    """Keep a CPU busy from another process."""
    code = f"import os; os.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    time.sleep(0.3)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def pooled(runs: Sequence[Run]) -> Samples:
    """Return the samples of some runs as one."""
    samples = Samples()
    for run in runs:
        part = run.samples
        samples.wall_ns = np.concatenate([samples.wall_ns, part.wall_ns])
        samples.late_ns = np.concatenate([samples.late_ns, part.late_ns])
        samples.preempted = np.concatenate([samples.preempted, part.preempted])
    return samples


def p99_ms(samples: Samples) -> float:
    """Return p99 without disturbed samples."""
    kept_ns = samples.wall_ns[~samples.disturbed]
    return float(np.percentile(kept_ns, 99)) / 1e6


def apart(quiet: Sequence[Run], contended: Sequence[Run]) -> float:
    """Return how far the undisturbed p99 of contended runs lies from that of quiet ones, as a share."""
    return p99_ms(pooled(contended)) / p99_ms(pooled(quiet)) - 1.0


def redrawn(quiet: Sequence[Run], contended: Sequence[Run], rounds_n: int) -> tuple[float, float, float]:
    """Return (2.5 % quantile, 97.5 % quantile, share within the aim) of `apart` of so many rounds drawn again."""
    rng = np.random.default_rng(1)
    draws = [rng.integers(0, len(quiet), rounds_n) for _ in range(DRAWS_N)]
    offs = np.array([apart([quiet[at] for at in draw], [contended[at] for at in draw]) for draw in draws])
    low, high = np.quantile(offs, [0.025, 0.975])
    return float(low), float(high), float(np.mean(np.abs(offs) <= AIM))


def verdict_of(run: Run) -> LatencyVerdict:
    """Return what the instrument says of one round."""
    return latency_result(run, Start(0, 0), spinning=False).verdict


def described(name: str, runs: Sequence[Run]) -> str:
    """Return a kind of rounds in one line."""
    samples = pooled(runs)
    kept = ~samples.disturbed
    raw_ms = [value / 1e6 for value in np.percentile(samples.wall_ns, [50, 99])]
    return (
        f"{name:9} raw p50 {raw_ms[0]:.3f} p99 {raw_ms[1]:.3f} ms of {samples.n}; undisturbed p50 "
        f"{np.median(samples.wall_ns[kept]) / 1e6:.3f} p99 {p99_ms(samples):.3f} ms of {np.count_nonzero(kept)}; "
        f"preempted {samples.preempted_share:.1%}"
    )


def main() -> None:
    """Measure and print."""
    allowed = os.sched_getaffinity(0)
    cpu = max(allowed)
    os.sched_setaffinity(0, {cpu})
    go_first()
    quiet: list[Run] = []
    contended: list[Run] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            session = open_model(chain(Path(folder)), "ort/cpu/fp32")
            call = session.bind({"x": np.ones((16, WIDTH), np.float32)})
            for _ in range(ROUNDS_N):
                quiet.append(measured_run(call, BUDGET, real_clocks(1)))
                with hog(cpu):
                    contended.append(measured_run(call, BUDGET, real_clocks(1)))
    finally:
        os.sched_setaffinity(0, allowed)
    print(described("quiet", quiet))
    print(described("contended", contended))
    off, (low, high, _) = apart(quiet, contended), redrawn(quiet, contended, ROUNDS_N)
    word = "met" if abs(off) <= AIM else "MISSED"
    print(
        f"undisturbed against quiet p99: {off:+.1%} (aim: within {AIM:.0%}, {word}); chance {low:+.1%} to {high:+.1%}"
    )
    few_n = min(10, ROUNDS_N)
    _, _, within = redrawn(quiet, contended, few_n)
    print(f"  of {few_n} rounds, as long as a trial's run: within {AIM:.0%} in {within:.0%} of draws")
    said = sum(verdict_of(run) is LatencyVerdict.CONTENDED for run in contended)
    print(f"  verdict contended in {said} of {len(contended)} contended rounds")
    print(f"conditions: one CPU, one thread, hog on the same CPU, {ROUNDS_N} rounds of 1 s in turn; {conditions()}")


if __name__ == "__main__":
    main()
