"""`fleet up`, `fleet down` and `fleet status`: the local stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgefleet_controller.cli import output
from edgefleet_controller.cli.output import FormatOption
from edgefleet_controller.cli.session import NOTHING_YET, reader

if TYPE_CHECKING:
    from rich.console import Console

    from edgefleet_controller.api import StatusResult
    from edgefleet_controller.cli.settings import Settings, StackHandle
    from edgefleet_controller.stack.home import FleetHome

_CHECK_S = 0.5


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("status")(status)


def up(
    ctx: typer.Context,
    broker_port: Annotated[
        int | None, typer.Option("--broker-port", help="Port of the MQTT broker on loopback. Default: a free one.")
    ] = None,
    form: FormatOption = "table",
) -> None:
    """Run the local stack (broker, controller, one agent) in the foreground; Ctrl-C stops it."""
    settings: Settings = ctx.obj
    home = settings.home()
    try:
        with settings.backend.stack(home, "fleet up", shared=True, broker_port=broker_port) as stack:
            stack.wait_ready(on_progress=output.words)
            facts = _facts(stack, home)
            output.emit(facts, form, lambda console: _draw_facts(console, facts))
            output.words("Ctrl-C stops it; fleet apply in another terminal finds it")
            while True:
                stack.check()
                settings.sleep_s(_CHECK_S)
    except KeyboardInterrupt:
        output.words("stopped")


def _facts(stack: StackHandle, home: FleetHome) -> dict[str, Any]:
    return {
        "api": "fleet/v1",
        "url": stack.url,
        "broker": stack.broker_url,
        "home": str(home.root),
        "pids": dict(stack.pids()),
    }


def _draw_facts(console: Console, facts: Mapping[str, Any]) -> None:
    pids = ", ".join(f"{name} {pid}" for name, pid in facts["pids"].items())
    for name, value in (*((key, facts[key]) for key in ("url", "broker", "home")), ("pids", pids)):
        console.print(f"{name:8}{value}", soft_wrap=True)


def down(ctx: typer.Context) -> None:
    """Stop the local stack that another terminal runs on this home."""
    settings: Settings = ctx.obj
    home = settings.home()
    stopped = settings.backend.stop_running(home)
    output.words(f"stopped {stopped}" if stopped else f"no stack is running on {home.root}")


def status(ctx: typer.Context, form: FormatOption = "table") -> None:
    """Show devices, the last apply and the number of health findings, on one screen."""
    from edgefleet_controller.api import Empty
    from edgefleet_controller.cli.render_state import draw_status

    api = reader(ctx.obj)
    if api is None:
        output.emit(_nothing(ctx.obj), form, lambda console: console.print(NOTHING_YET))
        return
    result = api.status(Empty())
    output.emit(result, form, lambda console: draw_status(console, result))


def _nothing(settings: Settings) -> StatusResult:
    """Return the status of a home where nothing was ever applied."""
    from importlib.metadata import version

    from edgefleet_controller.api import StatusResult

    store = str(settings.home().database)
    return StatusResult(version=version("edgefleet"), store=store, running=False, devices=(), revision=None, findings=0)
