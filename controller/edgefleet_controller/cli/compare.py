"""`fleet compare`: parity of two model files on this machine, without a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgefleet_controller.cli import output
from edgefleet_controller.cli.bench import bench
from edgefleet_controller.cli.errors import build
from edgefleet_controller.cli.options import PreprocessOption, existing_file, feeding_of
from edgefleet_controller.cli.output import FormatOption

if TYPE_CHECKING:
    from edgefleet_controller.cli.settings import Settings

EXIT_PARITY_FAILED = 3

# Written out here, because `fleet --help` must not load the contract; a test compares them with it.
PrecisionChoice = Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic", "int16x8", "int4"]
TaskChoice = Literal["classification", "detection", "embedding", "segmentation", "sequence", "regression"]

COMPARE_TIMEOUT_S = 3600.0
"""Comparing runs every sample through two models; a larger set than an hour's is a mistake or a hang."""


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("compare")(compare)
    app.command("bench")(bench)


def compare(
    ctx: typer.Context,
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", show_default=False, help="A model, or .npz.")],
    candidate: Annotated[Path, typer.Argument(metavar="CANDIDATE", show_default=False, help="A model, or .npz.")],
    samples: Annotated[Path | None, typer.Option("--samples", help=".npz of real inputs, for two models.")] = None,
    precision: Annotated[
        PrecisionChoice | None, typer.Option("--precision", help="What the candidate claims. Default: read from it.")
    ] = None,
    task: Annotated[TaskChoice | None, typer.Option("--task", help="What the outputs mean.")] = None,
    same_artifact: Annotated[
        bool, typer.Option("--same-artifact", help="Both ran the same file: only arithmetic may differ.")
    ] = False,
    labels_key: Annotated[str, typer.Option("--labels-key", help="Array of true answers in the samples.")] = "labels",
    preprocess_from: PreprocessOption = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="top1, or module:function of your own: it gets outputs and labels."),
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option("--min-agreement", help="Share of decisions that must agree, 0 to 1.")
    ] = None,
    min_sqnr_db: Annotated[float | None, typer.Option("--min-sqnr-db", help="dB the worst sample must reach.")] = None,
    tolerance_db: Annotated[
        float | None,
        typer.Option("--tolerance-db", help="dB the median sample must reach, in place of the derived one."),
    ] = None,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Find the operator at fault between two ONNX files.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="With --bisect: folder for the failing part and how to repeat it.")
    ] = None,
    form: FormatOption = "table",
) -> None:
    """Parity of two model files on samples, or of two .npz of outputs; exit 0 pass, 3 fail."""
    from edgefleet_contract.evidence import ParityVerdict
    from edgefleet_contract.job import CompareAnswer, CompareJob
    from edgefleet_controller.cli.render_trial import comparison, draw_comparison
    from edgefleet_controller.cli.worker import run_job

    job = build(
        CompareJob,
        reference=existing_file(reference, "REFERENCE"),
        candidate=existing_file(candidate, "CANDIDATE"),
        samples=existing_file(samples, "--samples") if samples else None,
        labels_key=labels_key,
        precision=precision,
        task=task,
        same_artifact=same_artifact,
        **feeding_of(preprocess_from),
        metric=_metric(metric),
        limits={"min_agreement": min_agreement, "min_sqnr_db": min_sqnr_db, "tolerance_db": tolerance_db},
        bisect=bisect,
        out=str(out.resolve()) if out else None,
    )
    settings: Settings = ctx.obj
    answer = run_job(settings, job, CompareAnswer, timeout_s=COMPARE_TIMEOUT_S, doing="comparing")
    output.emit(comparison(answer), form, lambda console: draw_comparison(console, answer))
    if answer.verdict is ParityVerdict.WEAK:
        output.words(f"WEAK: nothing failed, but this proves little: {answer.reason or 'too few or random samples'}")
    if answer.verdict is ParityVerdict.FAIL:
        check = answer.failed_check.value if answer.failed_check else "unnamed check"
        output.words(f"parity fails at {check}: {answer.reason or 'no reason was given'}", style="red")
        raise typer.Exit(EXIT_PARITY_FAILED)


def _metric(given: str | None) -> dict[str, str] | None:
    """Return what the job holds for a metric: a kind by name, or the user's own function."""
    if given is None:
        return None
    return {"kind": "function", "function": given} if ":" in given else {"kind": given}
