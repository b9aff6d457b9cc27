"""The root of `fleet`: global options and the list of commands. Kept quick: nothing heavy is imported here."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_controller.cli import apply, building, compare, explaining, inspect, language, stack, tuning
from edgefleet_controller.cli.errors import FleetGroup
from edgefleet_controller.cli.settings import Settings

app = typer.Typer(
    cls=FleetGroup,
    help="One manifest says which model goes where and what must hold there; fleet makes it so and proves it.",
    no_args_is_help=True,
    # A traceback of ours is for a bug report: whole, plain, and without the values of local variables.
    pretty_exceptions_enable=False,
    add_completion=True,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"fleet {version('edgefleet')}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    server: Annotated[
        str | None,
        typer.Option(
            "--server", envvar="FLEET_SERVER", help="URL of a controller elsewhere. FLEET_TOKEN is sent to it."
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001 - typer hands it to the eager callback
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """One manifest says which model goes where and what must hold there; fleet makes it so and proves it."""
    given = ctx.obj if isinstance(ctx.obj, Settings) else Settings.from_environment()
    ctx.obj = given.with_server(server)


for group in (apply, building, tuning, explaining, stack, inspect, compare, language):
    group.register(app)
