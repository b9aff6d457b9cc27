"""Data to stdout, words to stderr: JSON, YAML, CSV, and consoles for tables."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from edgefleet_contract.base import Record

Format = Literal["table", "json", "yaml"]
QueryFormat = Literal["table", "json", "yaml", "csv"]

FormatOption = Annotated[Format, typer.Option("--output", "-o", help="How to print the result.")]

PIPE_COLUMNS = 100
"""Width of tables that go to a file or a pipe, unless COLUMNS says otherwise."""


def emit(data: Record | Mapping[str, Any], form: Format, draw: Callable[[Console], None]) -> None:
    """Print one result on stdout.

    Args:
        data: what `json` and `yaml` print.
        form: how to print.
        draw: draws the same for people, when `form` is `table`.
    """
    if form == "table":
        draw(stdout_console())
    else:
        write(serialise(plain(data), form))


def plain(data: Record | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a record as JSON types; a mapping as it is."""
    return data if isinstance(data, Mapping) else data.model_dump(mode="json", by_alias=True)


def serialise(data: Mapping[str, Any], form: Literal["json", "yaml"]) -> str:
    """Return `data` as one JSON object or one YAML document, with a newline at its end."""
    if form == "json":
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def write(text: str) -> None:
    """Write to stdout and flush, so that a closed pipe is noticed here and not at exit."""
    sys.stdout.write(text)
    sys.stdout.flush()


def write_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV (RFC 4180) with a header."""
    import csv

    writer = csv.writer(sys.stdout)
    writer.writerow(columns)
    writer.writerows(rows)
    sys.stdout.flush()


def stdout_console() -> Console:
    """Return a console on stdout: as wide as the terminal, `PIPE_COLUMNS` in a pipe; NO_COLOR is honoured."""
    from rich.console import Console

    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(file=sys.stdout, width=None if known else PIPE_COLUMNS, highlight=False, markup=False, emoji=False)


def stderr_console() -> Console:
    """Return a console on stderr, for words and progress."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False)


def words(text: str, style: str | None = None) -> None:
    """Say something to the person, on stderr, unwrapped; style only on a terminal that wants it."""
    stderr_console().print(text, style=style, soft_wrap=True)
