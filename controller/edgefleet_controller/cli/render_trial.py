"""Results of `fleet compare` and `fleet bench`, as JSON types and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgefleet_contract.units import format_ms, format_share
from edgefleet_controller.cli import figures
from edgefleet_controller.cli.tables import Cell, draw

if TYPE_CHECKING:
    from rich.console import Console

    from edgefleet_contract.evidence import Bisection, Conditions, LatencyResult, OperatorError, OutputParity
    from edgefleet_contract.job import BenchAnswer, CompareAnswer

_BAR = 24
_TOP_OPERATORS = 5


def comparison(answer: CompareAnswer) -> dict[str, Any]:
    """Return what `compare -o json` prints: verdict, first failed check, reason, and the figures, flat."""
    unasked = {"bisection"} if answer.bisection is None else set()
    data = answer.model_dump(mode="json", exclude={"kind", "parity"} | unasked)
    parity = answer.parity.model_dump(mode="json")
    figures_of_all = {key: parity[key] for key in ("n_samples", "agreement", "worst_sqnr_db", "metric", "outputs")}
    return {"api": "fleet/v1", **data, **figures_of_all}


def draw_comparison(console: Console, answer: CompareAnswer) -> None:
    """Draw the verdict and one row an output."""
    verdict = answer.verdict.value
    task = answer.task.value if answer.task else "not known"
    console.print(f"parity {verdict}", style=f"bold {figures.verdict_style(verdict)}")
    console.print(f"{answer.parity.n_samples} samples, precision {answer.precision}, task {task}", soft_wrap=True)
    if (metric := answer.parity.metric) is not None:
        words = f"{metric.kind.value} reference {metric.reference:.3f}, candidate {metric.measured:.3f} (n {metric.n})"
        console.print(words, soft_wrap=True)
    if answer.parity.agreement is not None:
        console.print(f"{format_share(answer.parity.agreement)} of decisions agree", soft_wrap=True)
    for text in answer.assumed:
        console.print(f"assumed: {text}", soft_wrap=True)
    console.print()
    draw(
        console,
        ["output", "worst SQNR", "median", "tolerance", "max error", "agreement", "failed check"],
        [_output_cells(output) for output in answer.parity.outputs],
        right=["worst SQNR", "median", "tolerance", "max error", "agreement"],
    )
    if answer.bisection is not None:
        draw_bisection(console, answer.bisection)


def draw_bisection(console: Console, found: Bisection) -> None:
    """Draw how the search ended and the islands with the largest error."""
    console.print()
    console.print(f"bisection {found.status.value}: {found.reason}", soft_wrap=True)
    if not found.worst:
        return
    counts = f"{found.operators_n} operators, {found.compared_n} tensors in both files"
    console.print(f"{counts}; {found.runs_n} runs over {found.samples_n} samples", soft_wrap=True)
    draw(
        console,
        ["tensor", "operator", "alone", "in the whole"],
        [
            [
                error.tensor,
                error.operator,
                _db_or_word(error, error.island_sqnr_db),
                _db_or_word(error, error.drift_sqnr_db),
            ]
            for error in found.worst
        ],
        right=["alone", "in the whole"],
    )
    if found.command is not None:
        console.print(f"repeat it: {found.command}", soft_wrap=True)


def _db_or_word(error: OperatorError, value_db: float | None) -> str:
    if value_db is not None:
        return f"{value_db:.1f} dB"
    return "exact" if error.reason is None else "broken"


def _output_cells(output: OutputParity) -> Sequence[Cell]:
    exact = "bit-exact" if output.bit_exact else None
    failed: Cell = (output.failed_check.value, "red") if output.failed_check else figures.NONE
    return [
        output.name,
        exact or _db(output.worst_sqnr_db),
        _db(output.median_sqnr_db),
        _db(output.tolerance_sqnr_db),
        figures.NONE if output.max_abs_error is None else f"{output.max_abs_error:.3g}",
        figures.NONE if output.agreement is None else format_share(output.agreement),
        failed,
    ]


def _db(value_db: float | None) -> str:
    return figures.NONE if value_db is None else f"{value_db:.1f} dB"


def benchmark(answer: BenchAnswer, model: str) -> dict[str, Any]:
    """Return what `bench -o json` prints: the latency figures as in `apply -o json`, and the conditions."""
    return {
        "api": "fleet/v1",
        "model": model,
        **answer.latency.model_dump(mode="json"),
        "conditions": answer.conditions.model_dump(mode="json"),
    }


def draw_benchmark(console: Console, answer: BenchAnswer, model: str) -> None:
    """Draw the percentiles with their intervals, a picture of the tail, and the conditions."""
    latency, conditions = answer.latency, answer.conditions
    verdict = latency.verdict.value
    reason = f": {latency.reason}" if latency.reason else ""
    console.print(f"{model}: latency {verdict}{reason}", style=figures.verdict_style(verdict), soft_wrap=True)
    console.print()
    rows = [
        ["p50", format_ms(latency.p50_ms), figures.interval_cell(latency.ci95_p50_ms)],
        ["p95", format_ms(latency.p95_ms), figures.interval_cell(latency.ci95_p95_ms)],
        ["p99", format_ms(latency.p99_ms), figures.interval_cell(latency.ci95_p99_ms)],
    ]
    draw(console, ["", "latency", "95 % interval"], rows, right=["latency"])
    console.print(f"0 to p99: {figures.tail_bar(latency, _BAR)}")
    console.print()
    for line in _conditions(latency, conditions):
        console.print(line, soft_wrap=True)


def _conditions(latency: LatencyResult, conditions: Conditions) -> list[str]:
    independent = f"of which independent {latency.n_eff:.0f}"
    start = f"load {format_ms(latency.load_ms)}, first {format_ms(latency.first_ms)}, warm-up {latency.warmup_n}"
    machine = f"{conditions.cpu_model} ({conditions.cpu_count} CPU(s), {conditions.arch})"
    runtime = f"{conditions.runtime} {conditions.runtime_version}, {conditions.threads} thread(s)"
    unsettled = "" if latency.warmed_up is not False else " (the level had not settled)"
    return [
        f"n {latency.n}, {independent}, preempted {latency.preempted_n}; {latency.duration_s:.1f} s",
        f"{_scenario(latency)}; {start}{unsettled}; harness floor {format_ms(latency.harness_floor_ms)}",
        *_throughput(latency),
        *_early_stopping(latency),
        *_operators(latency),
        f"{runtime}, CPUs {conditions.extra.get('cpus', 'any')}, {machine}",
    ]


def _scenario(latency: LatencyResult) -> str:
    words = latency.scenario.value
    if latency.samples_per_query > 1:
        words += f", {latency.samples_per_query} samples a query"
    if latency.rate_hz is not None:
        words += f", {latency.rate_hz:.4g} queries a second"
    return words


def _throughput(latency: LatencyResult) -> list[str]:
    if latency.throughput_hz is None:
        return []
    words = f"throughput {latency.throughput_hz:.4g} samples a second"
    if latency.ci95_throughput_hz is not None:
        words += " ({:.4g} … {:.4g})".format(*latency.ci95_throughput_hz)
    if latency.service is not None:
        words += f"; in the model p50 {format_ms(latency.service.p50_ms)}, p99 {format_ms(latency.service.p99_ms)}"
    return [words]


def _early_stopping(latency: LatencyResult) -> list[str]:
    """Return what MLPerf's criterion allows to be said about the percentiles it knows."""
    if not latency.early_stopping:
        return []
    said = [
        f"p{100 * stated.percentile:g} "
        + (f"needs {stated.needed_n}" if stated.estimate_ms is None else format_ms(stated.estimate_ms))
        for stated in latency.early_stopping
    ]
    return [f"by MLPerf's early stopping: {', '.join(said)}"]


def _operators(latency: LatencyResult) -> list[str]:
    if latency.profile is None:
        return []
    named = [f"{found.operator} {format_share(found.share)}" for found in latency.profile.operators[:_TOP_OPERATORS]]
    return [f"time by operator, from a pass of its own: {', '.join(named)}"]
