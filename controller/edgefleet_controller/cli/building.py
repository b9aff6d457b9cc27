"""`fleet build` and `fleet export`: artifacts without a fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.cli import output
from edgefleet_controller.cli.errors import build as record
from edgefleet_controller.cli.output import FormatOption

if TYPE_CHECKING:
    from edgefleet_controller.build import BuildProgress
    from edgefleet_controller.cli.settings import Settings
    from edgefleet_controller.workbench import Wanted

T = TypeVar("T")
ALL_VARIANTS = "all"
MANIFESTS = frozenset({".yaml", ".yml"})
TaskChoice = Literal["classification", "detection", "embedding", "segmentation", "sequence", "regression"]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("build")(build)
    app.command("export")(export)


def build(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="MODEL|FILE", help="A model, or a manifest.", show_default=False)],
    samples: Annotated[
        Path | None, typer.Option("--samples", help=".npz of real inputs; without it, drawn at random.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help=".npz to calibrate with; default: a part of the samples.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", help="runtime/engine/precision, or `all`; may be given more than once."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write each artifact below this folder.")] = None,
    task: Annotated[TaskChoice | None, typer.Option("--task", help="What the outputs mean.")] = None,
    preprocess_from: Annotated[
        str | None, typer.Option("--preprocess-from", metavar="MANIFEST[:MODEL]", help="Take its preprocessing.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="RUNTIME/ENGINE:KEY=VALUE", help="As `options` of a manifest says it."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Builds at once.")] = 2,
    form: FormatOption = "table",
) -> None:
    """Build a model's artifacts here and check each against its source; exit 0 when at least one is good."""
    from edgefleet_controller.cli.places import require_writable_folder
    from edgefleet_controller.cli.render_build import draw_builds
    from edgefleet_controller.workbench import Workbench

    settings: Settings = ctx.obj
    require_writable_folder(out, "--out")
    if file.suffix in MANIFESTS:
        _refuse_model_options(
            samples=samples, calibration=calibration, task=task, preprocess_from=preprocess_from, option=option
        )
        wanted = of_manifest(file, variants_of(variant))
    else:
        made = of_model(file, samples, calibration, variants_of(variant), task, preprocess_from)
        wanted = [with_options(made, option or [])]
    bench = Workbench(settings.home(file), workers)
    with _located(file):
        report = with_events(lambda tell: bench.build(wanted, tell, out))
    output.emit(report, form, lambda console: draw_builds(console, report))
    raise typer.Exit(report.exit_code)


@contextmanager
def _located(file: Path) -> Iterator[None]:
    """Give what is wrong with a model its place in the manifest, where that is what is built."""
    if file.suffix not in MANIFESTS:
        yield
        return
    from edgefleet_controller.cli.errors import located
    from edgefleet_controller.load import load_manifest

    with located(load_manifest(file)):
        yield


def export(
    ctx: typer.Context,
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="Its folder, or its digest.", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to.", show_default=False)],
    form: FormatOption = "table",
) -> None:
    """Write an artifact with its samples and a short script that runs it with the plain runtime."""
    from edgefleet_controller.export import export_artifact
    from edgefleet_controller.workbench import Workbench

    settings: Settings = ctx.obj
    document, place = Workbench(settings.home()).document(artifact)
    script = export_artifact(document, place, folder)
    data = {"api": "fleet/v1", "artifact": document.digest, "folder": str(folder), "script": str(script)}
    output.emit(data, form, lambda console: console.print(f"{document.variant} of {document.model} is in {folder}"))
    output.words(f"next: python {script}")


def variants_of(given: list[str] | None) -> tuple[str, ...]:
    """Return the variants the user asked for; none where none was given: each model's source then decides.

    Raises:
        UserInputError: not a variant.
    """
    from edgefleet_contract.variant import parse_variant
    from edgefleet_controller.compile.registry import all_buildable

    if not given:
        return ()
    if ALL_VARIANTS in given:
        return all_buildable()
    try:
        return tuple(dict.fromkeys(str(parse_variant(text)) for text in given))
    except ValueError as error:
        msg = f"--variant: {error}"
        raise UserInputError(msg) from error


def of_manifest(file: Path, variants: tuple[str, ...]) -> list[Wanted]:
    """Return every model of a manifest, to be built as these variants. Raises ManifestError."""
    from edgefleet_controller.load import load_manifest
    from edgefleet_controller.resolve import resolve_files
    from edgefleet_controller.workbench import Wanted

    loaded = load_manifest(file)
    files = {text: found.path for text, found in resolve_files(loaded).items()}
    return [Wanted(name, spec, files, variants) for name, spec in loaded.manifest.models.items()]


def of_model(
    file: Path,
    samples: Path | None,
    calibration: Path | None,
    variants: tuple[str, ...],
    task: str | None,
    preprocess_from: str | None,
) -> Wanted:
    """Return a model file, to be built as these variants. Raises UserInputError naming the argument that is wrong."""
    from edgefleet_contract.manifest import ModelSpec
    from edgefleet_controller.cli.options import feeding_of
    from edgefleet_controller.workbench import RANDOM_SAMPLES, Wanted, model_name

    files = {str(file): _source(file)}
    if samples is not None:
        files[str(samples)] = _existing(samples, "--samples")
    if calibration is not None:
        files[str(calibration)] = _existing(calibration, "--calibration")
    spec = record(
        ModelSpec,
        source=str(file),
        samples=str(samples or RANDOM_SAMPLES),
        calibration=str(calibration) if calibration else None,
        task=task,
        **feeding_of(preprocess_from),
    )
    return Wanted(model_name(file), spec, files, variants, random=samples is None)


def with_options(wanted: Wanted, given: list[str]) -> Wanted:
    """Return a model with options for its targets, each written `runtime/engine:key=value`. Raises UserInputError."""
    from dataclasses import replace

    from edgefleet_contract.options import manifest_problem

    options: dict[str, dict[str, str]] = {}
    for text in given:
        target, colon, setting = text.partition(":")
        key, equals, value = setting.partition("=")
        problem = None if colon and equals and value else "write RUNTIME/ENGINE:KEY=VALUE"
        if problem := problem or manifest_problem(target, {key: value}):
            raise UserInputError(f"--option {text[:200]!r}: {problem}")
        options.setdefault(target, {})[key] = value
    return replace(wanted, spec=wanted.spec.model_copy(update={"options": options}))


def _refuse_model_options(**given: object) -> None:
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if named:
        msg = f"{named[0]} goes with a model file; a manifest says it itself"
        raise UserInputError(msg, next_step="leave it out, or name the model file instead of the manifest")


def _source(file: Path) -> Path:
    """Return where a model lies: its file, or that of `module:function`. Raises UserInputError as a manifest would."""
    from edgefleet_controller.compile.sources import one_file
    from edgefleet_controller.compile.sources.formats import hook_of, wrong_folder, wrong_source

    hook = hook_of(str(file))
    wrong = wrong_folder([each.name for each in file.iterdir()]) if file.is_dir() else None
    path = file if wrong else _existing(Path(hook[0]) if hook else file, "MODEL")
    if wrong is None and hook is None:
        with path.open("rb") as stream:
            wrong = wrong_source(path.name, stream.read(16))
    if wrong is not None:
        raise UserInputError(f"MODEL: {file} {wrong[0]}", next_step=wrong[1])
    return one_file.plain(path, path.resolve().parent, f"MODEL: {file}")


def _existing(path: Path, what: str) -> Path:
    from edgefleet_controller.cli.options import existing_file

    return Path(existing_file(path, what))


def with_events(work: Callable[[BuildProgress], T]) -> T:
    """Do work that tells how far it is, and show that."""
    from edgefleet_controller.api import ProgressEvent
    from edgefleet_controller.cli.progress import progress_view

    with progress_view() as view:

        def tell(stage: str, key: str, text: str, done: float, total: float) -> None:
            told = {"stage": stage, "key": key, "text": text, "done": done, "total": total, "unit": "steps"}
            view.show(ProgressEvent.model_validate({"id": 0, "at_ns": 0, **told}))

        return work(tell)
