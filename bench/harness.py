"""What the measuring loop itself costs: beside an empty call, a loop in C on the same library, and MLPerf's LoadGen.

Everything is done in rounds, one after the other on one CPU, and the quietest round of each counts: other work on the
machine only ever adds.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from bench.conditions import conditions, go_first
from bench.loadgen import single_stream_ns
from edgefleet_agent.qualify.latency.clocks import real_clocks
from edgefleet_agent.qualify.latency.loop import Samples, no_collection, take
from edgefleet_agent.tasks import open_model

ROUNDS_N = int(os.environ.get("BENCH_ROUNDS", "9"))
HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "manifests" / "examples" / "models"
EMPTY_AIM_NS = 150
TINY_AIM_NS = 1500
SHARE_AIM, FLAT_AIM_NS = 0.02, 3000

Round = Callable[[], float]


def tiny_model(folder: Path) -> Path:
    """Write the smallest model that computes: y = x + x on one number."""
    tensor = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "tiny", tensor[:1], tensor[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = folder / "tiny.onnx"
    onnx.save(model, path)
    return path


def compile_loop(folder: Path) -> Path:
    """Compile the loop in C."""
    binary = folder / "ort_loop"
    compiler = shutil.which("cc")
    assert compiler is not None, "this benchmark needs a C compiler"
    subprocess.run([compiler, "-O2", "-o", binary, HERE / "ort_loop.c", "-ldl"], check=True)
    return binary


def wheel_library() -> Path:
    """Return the library of the installed wheel, which Python uses as well."""
    import onnxruntime

    return next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))


def c_loop(binary: Path, model: Path, shape: tuple[int, ...], n: int) -> float:
    """Return p50 in nanoseconds of n inferences on zeros, from C."""
    graph = onnx.load(model).graph
    names = [graph.input[0].name, graph.output[0].name]
    command = [str(binary), str(wheel_library()), str(model), "200", str(n), *names, *map(str, shape)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return statistics.median(map(int, said.split()))


def agent_loop(call: Callable[[], object], n: int) -> float:
    """Return p50 in nanoseconds of n inferences, by the agent's own loop."""
    clocks = real_clocks(1)
    samples = Samples()
    with no_collection():
        for _ in range(200):
            call()
        take(call, samples, n, time.perf_counter_ns() + 60_000_000_000, clocks)
    return float(np.median(samples.wall_ns))


def bound(model: Path, shape: tuple[int, ...]) -> Callable[[], object]:
    """Return the agent's bound call of a model on zeros."""
    session = open_model(model, "ort/cpu/fp32")
    return session.bind({session.inputs[0].name: np.zeros(shape, np.float32)})


def quietest(rounds: dict[str, Round]) -> dict[str, float]:
    """Run each in turn, `ROUNDS_N` times; return the smallest figure of each."""
    found: dict[str, list[float]] = {name: [] for name in rounds}
    for _ in range(ROUNDS_N):
        for name, run in rounds.items():
            found[name].append(run())
    return {name: min(values) for name, values in found.items()}


def verdict(value: float, limit: float) -> str:
    """Return whether an aim was reached, in a word."""
    return "met" if value <= limit else "MISSED"


def empty_call() -> None:
    """Print the cost of the loop around a call that does nothing."""
    found_ns = quietest({"empty": lambda: agent_loop(lambda: None, 20_000)})["empty"]
    print(
        f"empty call: p50 {found_ns / 1e3:.3f} µs (aim: ≤ {EMPTY_AIM_NS / 1e3} µs, {verdict(found_ns, EMPTY_AIM_NS)})"
    )


def tiny(binary: Path, model: Path) -> None:
    """Print a tiny model's p50 from C, by the agent and by LoadGen."""
    call, n = bound(model, (1,)), 20_000
    found = quietest(
        {
            "C": lambda: c_loop(binary, model, (1,), n),
            "agent": lambda: agent_loop(call, n),
            "LoadGen": lambda: single_stream_ns(call, n)["p50"],
        }
    )
    added_ns = found["agent"] - found["C"]
    below = "met" if found["agent"] < found["LoadGen"] else "MISSED"
    print(", ".join(f"{name} p50 {value / 1e3:.3f} µs" for name, value in found.items()))
    print(f"  agent over C: {added_ns / 1e3:+.3f} µs (aim: ≤ {TINY_AIM_NS / 1e3} µs, {verdict(added_ns, TINY_AIM_NS)})")
    print(f"  agent below LoadGen's Python SUT: {below}")


def real(name: str, model: Path, shape: tuple[int, ...], n: int, binary: Path) -> None:
    """Print a model's p50 by the agent and by LoadGen."""
    call = bound(model, shape)
    found = quietest(
        {
            "C": lambda: c_loop(binary, model, shape, n),
            "agent": lambda: agent_loop(call, n),
            "LoadGen": lambda: single_stream_ns(call, n)["p50"],
        }
    )
    print(f"{name}: " + ", ".join(f"{key} p50 {value / 1e3:.2f} µs" for key, value in found.items()))
    compared(found["agent"], found["LoadGen"])


def paired(name: str, model: Path, shape: tuple[int, ...], n: int) -> None:
    """Print a slow model's p50 by the agent and by LoadGen, each of whose queries is followed by one of the agent's.

    Runs of seconds one after the other would compare what else the machine did in the meantime.
    """
    call, clocks, samples = bound(model, shape), real_clocks(1), Samples()

    def one_more() -> None:
        take(call, samples, samples.n + 1, time.perf_counter_ns() + 60_000_000_000, clocks)

    loadgen_ns = single_stream_ns(call, n, warmup_n=20, after=one_more)["p50"]
    agent_ns = float(np.median(samples.wall_ns))
    print(
        f"{name}: in turn, {n} queries each, agent p50 {agent_ns / 1e3:.1f} µs, LoadGen p50 {loadgen_ns / 1e3:.1f} µs"
    )
    compared(agent_ns, loadgen_ns)


def compared(agent_ns: float, loadgen_ns: float) -> None:
    """Print how far the two are apart."""
    apart_ns, limit_ns = abs(agent_ns - loadgen_ns), SHARE_AIM * loadgen_ns + FLAT_AIM_NS
    aim = f"aim: ≤ {limit_ns / 1e3:.2f} µs, {verdict(apart_ns, limit_ns)}"
    print(f"  agent and LoadGen: {apart_ns / 1e3:.2f} µs apart ({aim})")


def main() -> None:
    """Measure and print."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    go_first()
    try:
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            binary, model = compile_loop(folder), tiny_model(folder)
            empty_call()
            tiny(binary, model)
            real("digits", EXAMPLES / "mnist_cnn_fp32.onnx", (1, 1, 28, 28), 4000, binary)
            paired("classifier", EXAMPLES / "efficientnet_lite0_fp32.onnx", (1, 3, 224, 224), 400)
    finally:
        os.sched_setaffinity(0, allowed)
    print(f"conditions: smallest of {ROUNDS_N} rounds in turn, one thread, one CPU; {conditions()}")


if __name__ == "__main__":
    main()
