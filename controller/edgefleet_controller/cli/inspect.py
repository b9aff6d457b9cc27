"""`fleet devices`, `evidence`, `health` and `query`: what the store knows. All read-only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.cli import output
from edgefleet_controller.cli.errors import build
from edgefleet_controller.cli.options import DeviceOption, ModelOption
from edgefleet_controller.cli.output import FormatOption, QueryFormat
from edgefleet_controller.cli.session import require_reader

if TYPE_CHECKING:
    from edgefleet_controller.api import DeviceRow, HealthFinding

EXIT_FOUND = 3
"""`health --fail-on`: something at or above that severity was found."""

devices_app = typer.Typer(help="The devices the controller knows.", invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(devices_app, name="devices")
    app.command("evidence")(evidence)
    app.command("health")(health)
    app.command("query")(query)


@devices_app.callback()
def devices(ctx: typer.Context, form: FormatOption = "table") -> None:
    """List devices (as `devices list`), or show one."""
    if ctx.invoked_subcommand is None:
        list_devices(ctx, form)


@devices_app.command("list")
def list_devices(ctx: typer.Context, form: FormatOption = "table") -> None:
    """List all devices: whether they are here, how far they have come, what is active."""
    from edgefleet_controller.api import Empty
    from edgefleet_controller.cli.render_state import draw_devices

    result = require_reader(ctx.obj).devices(Empty())
    output.emit(result, form, lambda console: draw_devices(console, result.devices))


@devices_app.command("show")
def show_device(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The device.", show_default=False)],
    form: FormatOption = "table",
) -> None:
    """Show one device: what it is, what it can run and measure, and its models."""
    from edgefleet_controller.api import Empty
    from edgefleet_controller.cli.render_state import draw_device

    row = _device_named(name, require_reader(ctx.obj).devices(Empty()).devices)
    data = {"api": "fleet/v1", **output.plain(row)}
    output.emit(data, form, lambda console: draw_device(console, row))


def _device_named(name: str, rows: tuple[DeviceRow, ...]) -> DeviceRow:
    found = next((row for row in rows if row.device == name), None)
    if found is None:
        known = ", ".join(row.device for row in rows[:20]) or "none"
        raise UserInputError(f"no device {name[:63]!r}; known: {known}", next_step="fleet devices list")
    return found


def evidence(
    ctx: typer.Context,
    device: DeviceOption = None,
    model: ModelOption = None,
    limit: Annotated[int, typer.Option("--limit", help="At most this many, newest first (1 to 10000).")] = 100,
    form: FormatOption = "table",
) -> None:
    """List what was measured on devices, newest first: verdict, failed gate, parity, latency, memory."""
    from edgefleet_controller.api import Empty, EvidenceQuery
    from edgefleet_controller.cli.render_state import draw_evidence

    wanted = build(EvidenceQuery, device=device, model=model, limit=limit)
    store = require_reader(ctx.obj)
    result = store.evidence(wanted)
    output.emit(result, form, lambda console: draw_evidence(console, result.evidence))
    if not result.evidence and (device or model):
        known = sorted({f"{row.device}/{one.model}" for row in store.devices(Empty()).devices for one in row.models})
        output.words(f"no evidence of that; there is: {', '.join(known[:20]) or 'none'}")


def health(
    ctx: typer.Context,
    fail_on: Annotated[
        Literal["warning", "critical"] | None,
        typer.Option("--fail-on", help="Exit 3 when there is a finding of this severity or worse."),
    ] = None,
    form: FormatOption = "table",
) -> None:
    """Run every health query and list what is wrong in the fleet."""
    from edgefleet_controller.api import Empty
    from edgefleet_controller.cli.render_state import draw_health

    result = require_reader(ctx.obj).health(Empty())
    output.emit(result, form, lambda console: draw_health(console, result))
    if fail_on is not None and _worst(result.findings, fail_on):
        raise typer.Exit(EXIT_FOUND)


def _worst(findings: tuple[HealthFinding, ...], at_least: str) -> bool:
    """Tell whether a finding is at least that bad."""
    from edgefleet_controller.api import Severity

    order = list(Severity)
    floor = order.index(Severity(at_least))
    return any(order.index(finding.severity) >= floor for finding in findings)


def query(
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(metavar='NAME|"SELECT …"', help="A named query, or one read-only SELECT.")],
    limit: Annotated[int, typer.Option("--limit", help="At most this many rows (1 to 100000).")] = 1000,
    form: Annotated[QueryFormat, typer.Option("--output", "-o", help="How to print the rows.")] = "table",
) -> None:
    """Ask the store: a named query, or one SELECT over the fleet_* views. Read-only."""
    from edgefleet_controller.api import QueryRequest
    from edgefleet_controller.cli.render_state import draw_query

    wanted = build(QueryRequest, query=sql, limit=limit)
    result = require_reader(ctx.obj).query(wanted)
    if form == "csv":
        output.write_csv(result.columns, result.rows)
    else:
        output.emit(result, form, lambda console: draw_query(console, result))
    if result.truncated:
        output.words(f"only the first {len(result.rows)} rows; more with --limit")
