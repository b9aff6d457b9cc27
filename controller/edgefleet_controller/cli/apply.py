"""`fleet apply` and `fleet plan`: their options. What they do stands in `applying`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_contract.errors import EdgefleetError
from edgefleet_controller.cli import errors
from edgefleet_controller.cli.options import ManifestArgument, duration_s
from edgefleet_controller.cli.output import FormatOption, emit

EXIT_CHANGES = 2
"""`plan --detailed-exitcode`, as in Terraform: 0 no change, 1 error, 2 changes."""


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("apply")(apply)
    app.command("plan")(plan)


def apply(
    ctx: typer.Context,
    file: ManifestArgument,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the evidence of every device.")] = True,
    timeout: Annotated[str, typer.Option("--timeout", help="How long to wait: 30s, 10m, 1h.")] = "10m",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before models are removed.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove models from devices that no deployment names any more.")
    ] = False,
    form: FormatOption = "table",
) -> None:
    """Build, push and prove what a manifest says; exit 0 only when every device has it, proven."""
    from edgefleet_controller.cli.applying import ApplyOptions, run_apply

    timeout_s = duration_s(timeout, "--timeout")
    options = ApplyOptions(file, wait=wait, timeout_s=timeout_s, yes=yes, prune=prune, form=form)
    raise typer.Exit(run_apply(ctx.obj, options))


def plan(
    ctx: typer.Context,
    file: ManifestArgument,
    prune: Annotated[bool, typer.Option("--prune", help="As in apply: also plan what would be removed.")] = False,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 0 no change, 1 any error, 2 changes.")
    ] = False,
    form: FormatOption = "table",
) -> None:
    """Say what an apply would do on each device; change nothing."""
    from edgefleet_controller.cli.applying import run_plan
    from edgefleet_controller.cli.render_plan import draw_plan

    try:
        planned = run_plan(ctx.obj, file, prune=prune)
    except EdgefleetError as error:
        if not detailed_exitcode:
            raise
        errors.report(error)
        raise typer.Exit(errors.EXIT_ERROR) from error
    emit(planned, form, lambda console: draw_plan(console, planned))
    raise typer.Exit(EXIT_CHANGES if detailed_exitcode and planned.changed else 0)
