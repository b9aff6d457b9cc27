"""One look for every table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

_SHORT_WORD = 8
"""Characters below which a column of words is one of syllables."""
_GAP = 2
"""Characters between columns."""

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

    Where the console is too narrow for it, each row becomes a block of `header value` lines: a figure is never cut
    off, which would leave another figure.

    Args:
        console: where.
        headers: column names.
        rows: cells of each row, in the order of the headers.
        right: headers of columns of numbers, set to the right.
        fixed: headers of columns that are not broken over lines while others can be.
    """
    shown = [[_text(cell) for cell in row] for row in rows]
    if shown and _least_columns(headers, shown, {*right, *fixed}) > console.width:
        _draw_blocks(console, headers, shown)
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for header in headers:
        justify = "right" if header in right else "left"
        table.add_column(Text(header), justify=justify, no_wrap=header in {*right, *fixed}, overflow="fold")  # type: ignore[arg-type]
    for row in shown:
        table.add_row(*row)
    console.print(table)


def _least_columns(headers: Sequence[str], rows: Sequence[Sequence[Text]], whole: Collection[str]) -> int:
    """Return how many characters a table needs: columns of `whole` all of theirs, others enough for a short word."""
    columns = [[Text(header), *(row[index] for row in rows)] for index, header in enumerate(headers)]
    wanted = [max(_columns(cell) for cell in column) for column in columns]
    least = [
        width if header in whole else min(width, _SHORT_WORD) for header, width in zip(headers, wanted, strict=True)
    ]
    return sum(least) + _GAP * (len(least) - 1)


def _columns(cell: Text) -> int:
    return max((line.cell_len for line in cell.split(allow_blank=True)), default=0)


def _draw_blocks(console: Console, headers: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
    for number, row in enumerate(rows):
        if number:
            console.print()
        block = Table.grid(padding=(0, _GAP, 0, 0))
        block.add_column(no_wrap=True)
        block.add_column(overflow="fold")
        for header, cell in zip(headers, row, strict=True):
            if cell.plain:
                block.add_row(Text(header, style="bold"), cell)
        console.print(block)


def _text(cell: Cell) -> Text:
    return Text(cell) if isinstance(cell, str) else Text(cell[0], style=cell[1])
