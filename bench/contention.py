"""A CPU hog takes half of the CPU a model is measured on: do the undisturbed figures still tell the quiet ones?

Quiet and contended runs take turns on one CPU. What else runs on this machine disturbs the quiet runs as well: their
undisturbed p99 is what the contended runs are held against, round by round.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.conditions import conditions, go_first
from edgefleet_agent.qualify.clocks import real_clocks
from edgefleet_agent.qualify.latency import Start, measure_latency
from edgefleet_agent.tasks import open_model
from edgefleet_contract.evidence import LatencyResult
from edgefleet_contract.job import LatencyBudget

ROUNDS_N = int(os.environ.get("BENCH_ROUNDS", "5"))
AIM = 0.15
LAYERS_N, WIDTH = 12, 512
BUDGET = LatencyBudget(min_n=1500, max_n=12_000, min_duration_s=2.0, max_duration_s=10.0, percentile=0.99)


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


def measure(call: Callable[[], object]) -> LatencyResult:
    """Measure once."""
    return measure_latency(call, BUDGET, start=Start(0, 0), spinning=False, clocks=real_clocks(1))


def undisturbed_p99_ms(result: LatencyResult) -> float:
    """Return p99 without disturbed samples."""
    return result.p99_ms if result.undisturbed is None else result.undisturbed.p99_ms


def described(name: str, result: LatencyResult) -> str:
    """Return a run in one line."""
    calm = result.undisturbed
    figures = "none" if calm is None else f"p50 {calm.p50_ms:.3f} p99 {calm.p99_ms:.3f} ms of {calm.n}"
    return (
        f"  {name:9} raw p50 {result.p50_ms:.3f} p99 {result.p99_ms:.3f} ms of {result.n}; undisturbed {figures}; "
        f"{result.verdict.value}: {result.reason}"
    )


def main() -> None:
    """Measure and print."""
    allowed = os.sched_getaffinity(0)
    cpu = max(allowed)
    os.sched_setaffinity(0, {cpu})
    go_first()
    quiet: list[LatencyResult] = []
    contended: list[LatencyResult] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            session = open_model(chain(Path(folder)), "ort/cpu/fp32")
            call = session.bind({"x": np.ones((16, WIDTH), np.float32)})
            for _ in range(ROUNDS_N):
                quiet.append(measure(call))
                print(described("quiet", quiet[-1]), flush=True)
                with hog(cpu):
                    contended.append(measure(call))
                print(described("contended", contended[-1]), flush=True)
    finally:
        os.sched_setaffinity(0, allowed)
    offs = [undisturbed_p99_ms(b) / undisturbed_p99_ms(a) - 1.0 for a, b in zip(quiet, contended, strict=True)]
    off = statistics.median(offs)
    said = sum(result.verdict.value == "contended" for result in contended)
    word = "met" if abs(off) <= AIM else "MISSED"
    print(
        f"medians: quiet p99 {statistics.median(map(undisturbed_p99_ms, quiet)):.3f} ms; with the hog raw "
        f"{statistics.median(result.p99_ms for result in contended):.3f} ms, undisturbed "
        f"{statistics.median(map(undisturbed_p99_ms, contended)):.3f} ms"
    )
    print(f"undisturbed against quiet, by round: {', '.join(f'{value:+.1%}' for value in offs)}")
    print(f"  median {off:+.1%} (aim: within {AIM:.0%}, {word}); verdict contended {said}/{len(contended)}")
    print(f"conditions: one CPU, one thread, hog on the same CPU, {ROUNDS_N} rounds in turn; {conditions()}")


if __name__ == "__main__":
    main()
