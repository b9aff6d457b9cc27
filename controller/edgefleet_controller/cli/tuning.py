"""`fleet tune`: search over variants, calibration and mixed precision, and draw what each costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.cli import output
from edgefleet_controller.cli.output import FormatOption

if TYPE_CHECKING:
    from edgefleet_controller.cli.settings import Settings
    from edgefleet_controller.tuning import TuneLimits
    from edgefleet_controller.workbench import Wanted

DEFAULT_TARGETS = "ort/cpu,tflite/xnnpack"


def register(app: typer.Typer) -> None:
    """Add this group's command."""
    app.command("tune")(tune)


def tune(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL|MANIFEST[:MODEL]", help="A model, or one of a manifest.", show_default=False)
    ],
    targets: Annotated[
        str, typer.Option("--targets", help="runtime/engine or variants, with commas between.")
    ] = DEFAULT_TARGETS,
    samples: Annotated[
        Path | None, typer.Option("--samples", help=".npz of real inputs (a manifest names its own).")
    ] = None,
    max_size: Annotated[str | None, typer.Option("--max-size", help="Largest model file: 5MiB.")] = None,
    max_p50: Annotated[str | None, typer.Option("--max-p50", help="Slowest median here: 20ms.")] = None,
    min_agreement: Annotated[
        float | None, typer.Option("--min-agreement", min=0.0, max=1.0, help="Least share of equal decisions.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the picture: FILE.html or FILE.png.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The result; default: beside the source.")] = None,
    preprocess_from: Annotated[
        str | None, typer.Option("--preprocess-from", metavar="MANIFEST[:MODEL]", help="Take its preprocessing.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Builds at once.")] = 2,
    form: FormatOption = "table",
) -> None:
    """Build a model in many ways, measure accuracy, latency and size, and keep the best recipe for each variant."""
    from edgefleet_controller.cli.building import with_events
    from edgefleet_controller.cli.places import require_writable
    from edgefleet_controller.cli.render_tune import draw_tuned
    from edgefleet_controller.tuned_file import SUFFIX, write_tuned
    from edgefleet_controller.tuning import Tuner
    from edgefleet_controller.workbench import Workbench

    settings: Settings = ctx.obj
    check_plot(plot)
    wanted = _wanted(model, targets, samples, preprocess_from)
    limits = with_accept(_limits(max_size, max_p50, min_agreement), model, wanted.name)
    source = wanted.files[wanted.spec.source]
    beside = source.with_name(source.name + SUFFIX)
    dest = out or beside
    for option, file in (("--out", dest), ("--plot", plot)):
        require_writable(file, option)
    tuner = Tuner(Workbench(settings.home(source), workers))
    tuned = with_events(lambda tell: tuner.search(wanted, limits, tell))
    found = any(point.frontier for point in tuned.points)
    if found:
        write_tuned(tuned, dest)
    if plot is not None:
        from edgefleet_controller.cli.plot import write_plot

        write_plot(tuned, plot)
    output.emit({"api": "fleet/v1", **output.plain(tuned)}, form, lambda console: draw_tuned(console, tuned))
    output.words(_written(dest if found else None, beside, plot))
    raise typer.Exit(0 if found else 3)


def _written(dest: Path | None, beside: Path, plot: Path | None) -> str:
    """Say which files were written, and what an apply makes of them; no result is no file."""
    files = ", ".join(str(path) for path in (dest, plot) if path is not None)
    if dest is None:
        return "no point keeps the limits: nothing was written for fleet apply" + (
            f"; written: {files}" if files else ""
        )
    used = "fleet apply builds by it" if dest.resolve() == beside.resolve() else f"fleet apply looks for {beside} only"
    return f"written: {files}; {used}"


def check_plot(plot: Path | None) -> None:
    """Raise UserInputError when a picture is asked for in a form that cannot be made."""
    if plot is not None and plot.suffix not in {".html", ".png"}:
        msg = f"--plot {plot}: allowed are .html and .png"
        raise UserInputError(msg)


def targets_of(text: str) -> tuple[str, ...]:
    """Return the variants of `runtime/engine` (in every precision it is built in) or of full variants.

    Raises:
        UserInputError: one is neither, or nothing is left.
    """
    from edgefleet_contract.variant import parse_variant
    from edgefleet_controller.compile.registry import all_buildable

    buildable = all_buildable()
    found: list[str] = []
    for part in (each.strip() for each in text.split(",")):
        of_target = [variant for variant in buildable if variant.rpartition("/")[0] == part]
        try:
            of_precision = parse_variant(f"{part}/fp32" if part.count("/") == 1 else part)
        except ValueError as error:
            msg = f"--targets {part[:128]!r}: {error}"
            raise UserInputError(msg, next_step="write runtime/engine, for example ort/cpu, or a variant") from error
        found += of_target or [str(of_precision)]
    return tuple(dict.fromkeys(found))


def _limits(max_size: str | None, max_p50: str | None, min_agreement: float | None) -> TuneLimits:
    from edgefleet_contract.units import parse_duration_ms, parse_size_bytes
    from edgefleet_controller.cli.options import parsed
    from edgefleet_controller.tuning import TuneLimits

    return TuneLimits(
        max_bytes=None if max_size is None else parsed(max_size, "--max-size", parse_size_bytes),
        min_agreement=min_agreement,
        max_p50_ms=None if max_p50 is None else parsed(max_p50, "--max-p50", parse_duration_ms),
    )


def with_accept(limits: TuneLimits, model: str, name: str) -> TuneLimits:
    """Return the limits with what a manifest accepts of its model, where no option says it.

    The strictest of its deployments counts. Latency and memory are left out: they are limits for devices.
    """
    from dataclasses import replace

    from edgefleet_controller.cli.building import MANIFESTS
    from edgefleet_controller.cli.options import split_model
    from edgefleet_controller.load import load_manifest

    file, _ = split_model(model)
    if Path(file).suffix not in MANIFESTS:
        return limits
    deployments = load_manifest(Path(file)).manifest.deployments
    parities = [each.accept.parity for each in deployments if each.model == name]
    agreements = [each.min_agreement for each in parities if each.min_agreement is not None]
    decibels = [each.min_sqnr_db for each in parities if each.min_sqnr_db is not None]
    said = limits.min_agreement
    return replace(
        limits,
        min_agreement=said if said is not None else max(agreements, default=None),
        min_sqnr_db=max(decibels, default=None),
    )


def _wanted(model: str, targets: str, samples: Path | None, preprocess_from: str | None) -> Wanted:
    from edgefleet_controller.cli.building import MANIFESTS, of_manifest, of_model
    from edgefleet_controller.cli.options import split_model

    file, name = split_model(model)
    variants = targets_of(targets)
    if Path(file).suffix not in MANIFESTS:
        return of_model(Path(model), samples, None, variants, None, preprocess_from)
    models = of_manifest(Path(file), variants)
    found = [each for each in models if name in {None, each.name}]
    if len(found) != 1:
        msg = f"{model}: name one model of the manifest: {', '.join(each.name for each in models)}"
        raise UserInputError(msg, next_step=f"fleet tune {file}:{models[0].name}")
    return found[0]
