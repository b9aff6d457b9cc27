"""A plan as two tables: what is built, and what each device does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgefleet_contract.units import format_bytes
from edgefleet_controller.api import DeviceModelPlan, PlanResult
from edgefleet_controller.cli import figures
from edgefleet_controller.cli.tables import Cell, draw

if TYPE_CHECKING:
    from rich.console import Console

_ACTION_STYLES = {"deploy": "green", "update": "yellow", "remove": "red", "no-change": "dim"}


def draw_plan(console: Console, plan: PlanResult) -> None:
    """Draw the plan; one line when there is nothing to do."""
    if not plan.changed:
        console.print("no change: every device has what the manifest says")
    if plan.builds:
        draw(
            console,
            ["build", "variant", "artifact", "from cache"],
            [
                [build.model, build.variant, figures.short_digest(build.artifact), "yes" if build.cached else "no"]
                for build in plan.builds
            ],
        )
        console.print()
    draw(
        console,
        ["device", "model", "action", "chain, in order", "to move", "skipped"],
        [_cells(row) for row in plan.devices],
        right=["to move"],
        fixed=["action", "to move"],
    )


def _cells(row: DeviceModelPlan) -> Sequence[Cell]:
    size = "not built yet" if row.bytes_to_move is None else format_bytes(row.bytes_to_move)
    skipped = "\n".join(f"{one.variant}: {one.reason}" for one in row.skipped)
    chain = "\n".join(row.chain)
    return [row.device, row.model, (row.action, _ACTION_STYLES[row.action]), chain, size, skipped or figures.NONE]
