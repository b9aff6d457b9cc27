"""MLPerf's early stopping, with LoadGen itself as the oracle."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_agent.qualify.latency.early_stopping import discardable, early_stopping, needed_queries

loadgen: Any = pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen installs on x86_64 only")


def queries_of_loadgen(n: int, percentile: float, folder: Path) -> str:
    """Let LoadGen issue n queries that are answered at once; return its summary."""
    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.SingleStream
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_query_count = settings.max_query_count = n
    settings.min_duration_ms = 0
    settings.single_stream_target_latency_percentile = percentile
    log = loadgen.LogSettings()
    log.enable_trace = False
    output = loadgen.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(folder), False
    log.log_output = output

    def answer(queries: Any) -> None:
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(query.id, 0, 0) for query in queries])

    system = loadgen.ConstructSUT(answer, lambda: None)
    library = loadgen.ConstructQSL(4, 4, lambda _: None, lambda _: None)
    try:
        loadgen.StartTestWithLogSettings(system, library, settings, log, "")
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)
    return (folder / "mlperf_log_summary.txt").read_text()


def count(pattern: str, summary: str) -> int | None:
    match = re.search(pattern, summary)
    return int(match[1]) if match else None


def drawn(runs_n: int) -> list[tuple[int, float]]:
    rng = random.Random(5)
    return [(int(10 ** rng.uniform(1, 3.9)), round(rng.uniform(0.5, 0.995), 4)) for _ in range(runs_n)]


def test_counts_are_loadgens_for_100_random_numbers_of_queries_and_percentiles(tmp_path: Path) -> None:
    enough_n = 0
    for n, percentile in drawn(100):
        summary = queries_of_loadgen(n, percentile, tmp_path)
        needed = count(r"(?:Processed|process) at least (\d+) queries", summary)
        above_n = discardable(n, percentile)
        ours = (needed_queries(percentile), None if above_n is None else above_n - 1)
        assert ours == (needed, count(r"Would discard (\d+) highest", summary)), (n, percentile)
        enough_n += above_n is not None
    assert 30 < enough_n < 100


@pytest.mark.parametrize(("percentile", "needed"), [(0.9, 64), (0.95, 130), (0.99, 662)])
def test_the_known_numbers_of_queries_are_asked_for(percentile: float, needed: int) -> None:
    assert needed_queries(percentile) == needed
    assert discardable(needed, percentile) == 1
    assert discardable(needed - 1, percentile) is None


def test_the_estimate_is_the_latency_that_the_discarded_queries_exceed() -> None:
    said = early_stopping(np.arange(1, 1001, dtype=np.int64) * 1_000_000, 0.9)
    assert (said.needed_n, said.discarded_n, said.estimate_ms) == (64, 77, 923.0)


def test_too_few_queries_say_nothing() -> None:
    said = early_stopping(np.arange(1, 101, dtype=np.int64), 0.99)
    assert (said.needed_n, said.discarded_n, said.estimate_ms) == (662, None, None)
