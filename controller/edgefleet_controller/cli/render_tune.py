"""A search's result as a table: every point, the frontier marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgefleet_contract.units import format_bytes, format_ms
from edgefleet_controller.cli import figures
from edgefleet_controller.cli.tables import Cell, draw

if TYPE_CHECKING:
    from rich.console import Console

    from edgefleet_contract.tuning import TunedModel, TunedPoint


def draw_tuned(console: Console, tuned: TunedModel) -> None:
    """Draw every point, best accuracy first, then what is chosen and why the rest fell out."""
    points = sorted(tuned.points, key=lambda point: (-(point.accuracy or -1e9), point.p50_ms or 1e9))
    draw(
        console,
        ["", "variant", "recipe", "verdict", "accuracy", "in", "p50 here", "size"],
        [_cells(point) for point in points],
        right=["accuracy", "p50 here", "size"],
        fixed=["variant", "accuracy", "p50 here", "size"],
    )
    console.print(
        "\n* on the frontier: no other there is as accurate, as fast and as small, and better in one;\n"
        "  accuracies that these samples cannot tell apart count as equal"
    )
    for variant, recipe in tuned.recipes.items():
        console.print(f"chosen for {variant}: {recipe.words}", soft_wrap=True)
    for point in points:
        if point.reason and (point.verdict in {"failed", "unsupported"} or point.reason.startswith("not timed")):
            console.print(f"{point.variant}{_recipe(point)}: {point.reason[:300]}", soft_wrap=True)


def verdict_of(point: TunedPoint) -> str:
    """Return a point's verdict; of one that was built, whether it keeps the limits."""
    built = point.verdict in {"pass", "weak"}
    return "over a limit" if built and not point.within_limits else point.verdict


def _recipe(point: TunedPoint) -> str:
    return f" ({point.recipe.words})" if point.recipe.words else ""


def _cells(point: TunedPoint) -> Sequence[Cell]:
    mark = ("*", "green") if point.frontier else ("", "dim")
    verdict = verdict_of(point)
    return [
        mark,
        point.variant,
        point.recipe.words or "default",
        (verdict, figures.verdict_style(verdict)),
        figures.NONE if point.accuracy is None else f"{point.accuracy:.4g}",
        {"worst_sqnr_db": "dB"}.get(point.accuracy_is or "", point.accuracy_is or figures.NONE),
        figures.NONE if point.p50_ms is None else format_ms(point.p50_ms),
        figures.NONE if point.size_bytes is None else format_bytes(point.size_bytes),
    ]
