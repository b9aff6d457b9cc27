"""`fleet explain`: where a model's operators would run, what an artifact is, what a device can do."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.cli import output
from edgefleet_controller.cli.output import FormatOption

if TYPE_CHECKING:
    from edgefleet_contract.coverage import Coverage
    from edgefleet_controller.cli.settings import Settings

_MODELS = frozenset({".onnx", ".tflite"})
DEFAULT_VARIANTS = {".onnx": "ort/cpu/fp32", ".tflite": "tflite/edgetpu/int8"}


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("explain")(explain)


def explain(
    ctx: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|ARTIFACT|DEVICE", help="A model file, an artifact, a device.", show_default=False
        ),
    ],
    variant: Annotated[str | None, typer.Option("--variant", help="For a model: runtime/engine/precision.")] = None,
    form: FormatOption = "table",
) -> None:
    """Say why: where each operator of a model would run, how an artifact was made, what a device can run."""
    path = Path(what)
    if path.suffix in _MODELS and not path.is_dir():
        _explain_model(path, variant or DEFAULT_VARIANTS[path.suffix], form)
    elif variant is not None:
        msg = f"--variant goes with a model file (.onnx, .tflite); got {what[:200]!r}"
        raise UserInputError(msg)
    elif path.exists() or what.startswith("sha256:"):
        _explain_artifact(ctx.obj, what, form)
    elif path.suffix or len(path.parts) > 1:
        msg = f"{what[:200]}: no such file or folder, and no device is named so"
        raise UserInputError(msg, next_step="name a model file, an artifact's folder or digest, or a device")
    else:
        from edgefleet_controller.cli.inspect import show_device
        from edgefleet_controller.cli.session import reader

        if reader(ctx.obj) is None:
            msg = f"{what[:200]}: no such file or folder, and there is no fleet here whose device it could be"
            raise UserInputError(msg, next_step="name a model file, an artifact's folder or digest, or a device")
        show_device(ctx, what, form)


def _explain_model(path: Path, variant: str, form: output.Format) -> None:
    from edgefleet_controller.cli.render_build import draw_coverage

    coverage = coverage_of(path, variant)
    data = explained(path, variant, coverage)
    output.emit(data, form, lambda console: draw_coverage(console, coverage))


def coverage_of(path: Path, variant: str) -> Coverage:
    """Return where a model's operators would run, found in a child process.

    Raises:
        UserInputError: not a variant this version knows, or the file is no model that it takes.
        DeviceError: the child died.
    """
    from edgefleet_contract.errors import DeviceError
    from edgefleet_contract.variant import parse_variant
    from edgefleet_controller.cli.options import existing_file
    from edgefleet_controller.cli.worker import spinner
    from edgefleet_controller.compile.protocol import CoverageRequest
    from edgefleet_controller.compile.registry import buildable
    from edgefleet_controller.compile.steps import ChildSteps, StepError

    model = existing_file(path, "MODEL")
    try:
        reason = buildable(parse_variant(variant))
    except ValueError as error:
        raise UserInputError(f"--variant: {error}") from error
    if reason is not None:
        raise UserInputError(f"--variant {variant}: {reason}")
    with TemporaryDirectory(prefix="edgefleet-explain-") as folder, spinner(f"asking about {variant}"):
        try:
            request = CoverageRequest(model=model, variant=variant, work_dir=folder)
            return ChildSteps().coverage(request).coverage
        except StepError as error:
            if error.fault is None:
                raise DeviceError(f"{path}: {error.message}") from error
            raise UserInputError(f"{path}: {error.message}", next_step=error.fault.next_step) from error


def explained(path: Path, variant: str, coverage: Coverage) -> dict[str, Any]:
    """Return what `-o json` prints of a model. An operator nothing takes blocks before one that the CPU takes."""
    unsupported = (each for each in coverage.operators if each.placed.value == "unsupported")
    first = next(unsupported, coverage.first_blocking)
    return {
        "api": "fleet/v1",
        "model": str(path),
        "variant": variant,
        "counts": coverage.counts,
        "first_blocking": None if first is None else first.model_dump(mode="json"),
        **coverage.model_dump(mode="json"),
    }


def _explain_artifact(settings: Settings, what: str, form: output.Format) -> None:
    from edgefleet_controller.cli.render_build import draw_artifact
    from edgefleet_controller.workbench import Workbench

    document, _ = Workbench(settings.home()).document(what)
    data = {"api": "fleet/v1", "artifact": document.digest, **document.model_dump(mode="json", by_alias=True)}
    output.emit(data, form, lambda console: draw_artifact(console, document))
