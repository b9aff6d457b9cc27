"""One look for every table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

Cell = str | tuple[str, str]
"""Text, or (text, style)."""


def draw(
    console: Console,
    headers: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    right: Sequence[str] = (),
    fixed: Sequence[str] = (),
) -> None:
    """Draw a table without outer lines; cells are text, never markup.

    Args:
        console: where.
        headers: column names.
        rows: cells of each row, in the order of the headers.
        right: headers of columns of numbers, set to the right.
        fixed: headers of columns that are not broken over lines while others can be.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for header in headers:
        justify = "right" if header in right else "left"
        table.add_column(Text(header), justify=justify, no_wrap=header in fixed, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*[_text(cell) for cell in row])
    console.print(table)


def _text(cell: Cell) -> Text:
    return Text(cell) if isinstance(cell, str) else Text(cell[0], style=cell[1])
