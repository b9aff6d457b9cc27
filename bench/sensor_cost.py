"""What reading power costs: per reading of six files, and in the p50 of a tiny model with the sampler beside it.

Kept descriptors against opening each file again, and the model's p50 with the sampler on against off, in alternating
stretches of one run. `BENCH_SECONDS` is the time for the second part.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.conditions import conditions, spread
from edgefleet_agent.sensors.files import read_int
from edgefleet_agent.sensors.probe import probe
from edgefleet_agent.sensors.rails import FileProduct
from edgefleet_agent.sensors.reader import RailReader
from edgefleet_agent.sensors.sampler import Sampler, SamplerClock
from edgefleet_agent.tasks import open_model
from edgefleet_hil.boards import build_board

READS_N = 20_000
PERIOD_S = 0.01
STRETCH_S = 0.25
DURATION_S = float(os.environ.get("BENCH_SECONDS", "40"))
AIM_US = 10.0
AIM_RATIO = 1.01


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        rails = probe(build_board("orin-nano", Path(folder) / "board")).rails
        paths = [path for rail in rails if isinstance(rail.source, FileProduct) for path in rail.source.paths]
        with RailReader(rails) as reader:
            kept_us = times_us(reader.read, READS_N)
            opened_us = times_us(lambda: [read_int(path) for path in paths], READS_N // 10)
            print(f"reading {len(paths)} files, kept open: {spread(kept_us, 'us')} (aim: median at most {AIM_US:g} us)")
            print(f"reading {len(paths)} files, opened each time: {spread(opened_us, 'us')}")
            print(f"ratio opened / kept: {statistics.median(opened_us) / statistics.median(kept_us):.1f}")
            ratios, off_us = model_ratios(reader, tiny_model(Path(folder)))
    ordered = sorted(ratios)
    low, high = ordered[len(ordered) // 40], ordered[-1 - len(ordered) // 40]
    print(f"tiny model, p50 without sampler: {statistics.median(off_us):.3g} us")
    print(
        f"ratio of p50 with the sampler at {1 / PERIOD_S:.0f} Hz / without: median {statistics.median(ratios):.4f} of "
        f"{len(ratios)} pairs, 95 % of them in {low:.4f} to {high:.4f} (aim: at most {AIM_RATIO:g})"
    )
    print(f"conditions: files on this machine's disk cache, no I2C bus behind them; {conditions()}")


def times_us(call: Callable[[], object], times_n: int) -> list[float]:
    """Return how long each call took, in microseconds."""
    taken = []
    for _ in range(times_n):
        began_ns = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - began_ns) / 1e3)
    return taken


def tiny_model(folder: Path) -> Callable[[], object]:
    """Return one inference of a model of a single small matrix product."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [weight],
    )
    path = folder / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return open_model(path, "ort/cpu/fp32").bind({"x": np.ones((1, 64), np.float32)})


def model_ratios(reader: RailReader, call: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Return (p50 with the sampler / p50 without, p50 without in us) of pairs of stretches, in changing order."""
    ratios: list[float] = []
    off_us: list[float] = []
    p50_us(call, STRETCH_S)
    deadline_s = time.monotonic() + DURATION_S
    while time.monotonic() < deadline_s or len(ratios) < 20:
        if len(ratios) % 2:
            on, off = with_sampler_us(reader, call), p50_us(call, STRETCH_S)
        else:
            off, on = p50_us(call, STRETCH_S), with_sampler_us(reader, call)
        ratios.append(on / off)
        off_us.append(off)
    return ratios, off_us


def with_sampler_us(reader: RailReader, call: Callable[[], object]) -> float:
    """Return the p50 of the model while the sampler reads, in microseconds."""
    sampler = Sampler(reader, period_s=PERIOD_S, draw=random.random, clock=SamplerClock())
    sampler.start()
    try:
        return p50_us(call, STRETCH_S)
    finally:
        sampler.stop()
        assert len(sampler.trace.rows) > 0.5 * STRETCH_S / PERIOD_S, "the sampler was starved"


def p50_us(call: Callable[[], object], seconds: float) -> float:
    """Return the median time of a call over some time, in microseconds."""
    taken = []
    deadline_ns = time.perf_counter_ns() + int(seconds * 1e9)
    while (began_ns := time.perf_counter_ns()) < deadline_ns:
        call()
        taken.append(time.perf_counter_ns() - began_ns)
    return statistics.median(taken) / 1e3


if __name__ == "__main__":
    main()
