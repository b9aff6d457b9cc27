"""MLPerf's LoadGen around a bound call: what its Python SUT measures, beside the agent's own loop."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def single_stream_ns(
    call: Callable[[], object], n: int, warmup_n: int = 200, after: Callable[[], object] | None = None
) -> dict[str, int]:
    """Return p50, p90 and p99 in nanoseconds of n queries LoadGen issues one after the other.

    Args:
        call: one inference.
        n: queries.
        warmup_n: inferences before the first query.
        after: done after each query, outside of what LoadGen times.
    """
    import mlperf_loadgen as loadgen

    for _ in range(warmup_n):
        call()
    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.SingleStream
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_query_count = settings.max_query_count = n
    settings.min_duration_ms = 0
    response, complete = loadgen.QuerySampleResponse, loadgen.QuerySamplesComplete

    def issue(queries: Sequence[Any]) -> None:
        call()
        complete([response(queries[0].id, 0, 0)])
        if after is not None:
            after()

    log = loadgen.LogSettings()
    log.enable_trace = False
    output = loadgen.LogOutputSettings()
    with tempfile.TemporaryDirectory() as folder:
        output.outdir, output.copy_summary_to_stdout = folder, False
        log.log_output = output
        system = loadgen.ConstructSUT(issue, lambda: None)
        library = loadgen.ConstructQSL(16, 16, lambda _: None, lambda _: None)
        try:
            loadgen.StartTestWithLogSettings(system, library, settings, log, "")
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(system)
        summary = (Path(folder) / "mlperf_log_summary.txt").read_text(encoding="utf-8")
    return {name: _figure(summary, f"{number} percentile latency (ns)") for name, number in _PERCENTILES.items()}


_PERCENTILES = {"p50": "50.00", "p90": "90.00", "p99": "99.00"}


def _figure(summary: str, label: str) -> int:
    line = next(line for line in summary.splitlines() if line.startswith(label))
    return int(line.rpartition(":")[2])
