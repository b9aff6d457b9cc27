"""`fleet bench`: latency of one model file on this machine, without a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.cli import output
from edgefleet_controller.cli.errors import build
from edgefleet_controller.cli.options import PreprocessOption, duration_s, existing_file, feeding_of, parsed
from edgefleet_controller.cli.output import FormatOption

if TYPE_CHECKING:
    from edgefleet_controller.cli.settings import Settings

# Written out here, because `fleet --help` must not load the contract; a test compares it with that.
ScenarioChoice = Literal["single-stream", "multi-stream", "server", "offline", "fixed-rate"]
BENCH_MARGIN_S = 120.0
"""Loading, first inference, warm-up and the operator profile come on top of the measurement."""
_MOST_CPUS = 4096
"""As many as the worker takes."""


def bench(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", show_default=False, help="A model file.")],
    samples: Annotated[Path, typer.Option("--samples", help=".npz of real inputs.", show_default=False)],
    scenario: Annotated[ScenarioChoice, typer.Option("--scenario", help="As MLPerf means it.")] = "single-stream",
    rate: Annotated[
        str | None, typer.Option("--rate", help="Arrivals under server and fixed-rate: 20Hz. Default: by --load.")
    ] = None,
    load: Annotated[str, typer.Option("--load", help="Share of what single-stream reaches, where no rate is.")] = "50%",
    samples_per_query: Annotated[
        int | None, typer.Option("--samples-per-query", help="Under multi-stream (default 8) and offline (32).")
    ] = None,
    percentile: Annotated[
        float, typer.Option("--percentile", help="Measure until this one is known to 5 %, or time is up.")
    ] = 95.0,
    duration: Annotated[str, typer.Option("--duration", help="How long to measure: 5s, 1m.")] = "5s",
    threads: Annotated[int, typer.Option("--threads", help="Threads the runtime may use.")] = 1,
    cpus: Annotated[str | None, typer.Option("--cpus", help="CPUs to pin the worker to: 0 or 0-3,6.")] = None,
    preprocess_from: PreprocessOption = None,
    form: FormatOption = "table",
) -> None:
    """Latency of one model file on this machine, with intervals and the conditions it was measured under."""
    from edgefleet_contract.job import BenchAnswer, BenchJob, LatencyBudget
    from edgefleet_contract.units import parse_load_share, parse_rate_hz
    from edgefleet_controller.cli.render_trial import benchmark, draw_benchmark
    from edgefleet_controller.cli.worker import run_job

    wanted_s = duration_s(duration, "--duration")
    budget = build(
        LatencyBudget,
        scenario=scenario,
        rate_hz=None if rate is None else parsed(rate, "--rate", parse_rate_hz),
        load_share=parsed(load, "--load", parse_load_share),
        samples_per_query=samples_per_query,
        percentile=percentile / 100.0,
        min_duration_s=min(wanted_s, LatencyBudget().min_duration_s),
        max_duration_s=wanted_s,
        threads=threads,
        cpus=() if cpus is None else cpu_list(cpus),
        profile_max_s=1.0,
    )
    job = build(
        BenchJob,
        model=existing_file(model, "MODEL"),
        samples=existing_file(samples, "--samples"),
        latency=budget,
        **feeding_of(preprocess_from),
    )
    settings: Settings = ctx.obj
    # The run may go on to 4 times its duration to reach the smallest sample (LatencyBudget).
    timeout_s = 4 * wanted_s + BENCH_MARGIN_S
    answer = run_job(settings, job, BenchAnswer, timeout_s=timeout_s, doing=f"measuring for {duration}")
    output.emit(benchmark(answer, model.name), form, lambda console: draw_benchmark(console, answer, model.name))


def cpu_list(text: str) -> tuple[int, ...]:
    """Return the CPUs of `0-3,6`. Raises UserInputError."""
    cpus: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        ends = (low, high if dash else low)
        if not all(end.isdecimal() and end.isascii() and int(end) < _MOST_CPUS for end in ends):
            msg = f"--cpus {text[:64]!r}: not a list of CPUs; write 0 or 0-3,6"
            raise UserInputError(msg)
        cpus.update(range(int(ends[0]), int(ends[1]) + 1))
    return tuple(sorted(cpus))
