"""People's SQL: one SELECT, on a connection that cannot change anything, bounded in time and size.

The store's own connections are not used: this one is opened read-only, refuses every statement but reading ones
(an allow-list asked by SQLite's authorizer while the statement is compiled), and is closed afterwards.
"""

from __future__ import annotations

import math
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.store.database import sqlite_uri
from edgefleet_controller.store.errors import translate
from edgefleet_controller.words import nearest

TIME_LIMIT_S = 10.0
"""One statement; health and dashboards answer in milliseconds, and a longer read keeps the log from being trimmed."""
MAX_VALUE_BYTES = 4 * 1024**2
"""A value inside a statement, SQLite's own bound: no `zeroblob(1e9)`. Sixteen times the largest message."""
MAX_CELL_CHARS = 64 * 1024
MAX_RESULT_CHARS = 32 * 1024**2
"""All cells together; the rest is cut off as by a row limit."""
_STEPS_BETWEEN_LOOKS = 10_000
"""SQLite's virtual machine steps between two looks at the clock: about 0.1 ms."""

_ALLOWED_ACTIONS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
_FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}
_COMMENT = re.compile(r"\A(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*", re.DOTALL)
_NOT_THERE = re.compile(r"no such (table|column): (\S+)")

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """What a statement returned. `truncated` when there was more than was asked for or than fits."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    truncated: bool


def select_rows(
    path: Path,
    sql: str,
    limit_n: int,
    parameters: Mapping[str, int | float | None] | None = None,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    now_s: Callable[[], float] = time.monotonic,
) -> Table:
    """Run one SELECT (or WITH … SELECT) on an SQLite file; works while another process writes.

    Text longer than `MAX_CELL_CHARS` is cut; bytes come as hexadecimal text; infinities as None, JSON has none.

    Args:
        path: the database.
        sql: the statement.
        limit_n: rows to return at most.
        parameters: values of `:name` in the statement.
        time_limit_s: after this it is interrupted.
        now_s: a monotonic clock, in seconds.

    Raises:
        UserInputError: not one reading statement, an error in it, or it took too long.
        StoreError: the database cannot be read.
    """
    _require_select(sql)
    deadline_s = now_s() + time_limit_s
    with _connection(path) as connection:
        connection.set_progress_handler(lambda: int(now_s() > deadline_s), _STEPS_BETWEEN_LOOKS)
        try:
            cursor = connection.execute(sql, dict(parameters or {}))
            return _collect(cursor, limit_n)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            raise _explain(error, path, time_limit_s) from error


def _require_select(sql: str) -> None:
    rest = sql[len(_COMMENT.match(sql)[0]) :]  # type: ignore[index]  # the pattern also matches nothing
    word = re.match(r"[A-Za-z]*", rest)
    if word is None or word[0].upper() not in {"SELECT", "WITH"}:
        msg = f"only one SELECT (or WITH … SELECT) can be asked, got {rest[:60]!r}"
        raise UserInputError(msg, next_step="see docs/store.md for the views that can be read")


@contextmanager
def _connection(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        connection = sqlite3.connect(sqlite_uri(path, read_only=True), uri=True, isolation_level=None)
        connection.execute("PRAGMA query_only=ON")
        # A table-valued function declares itself at its first use, which the authorizer below would refuse.
        connection.execute("SELECT 1 FROM json_each('[]')")
    except sqlite3.Error as error:
        raise translate(error, str(path)) from error
    with closing(connection):
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.text_factory = _text
        connection.set_authorizer(_authorize)
        yield connection


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _authorize(action: int, _first: str | None, second: str | None, *_more: str | None) -> int:
    if action in _ALLOWED_ACTIONS:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _collect(cursor: sqlite3.Cursor, limit_n: int) -> Table:
    columns = tuple(str(column[0]) for column in cursor.description or ())
    rows: list[tuple[Cell, ...]] = []
    left = MAX_RESULT_CHARS
    for raw in cursor:
        row = tuple(_cell(value) for value in raw)
        left -= sum(len(value) if isinstance(value, str) else 8 for value in row)
        if len(rows) == limit_n or left < 0:
            return Table(columns, tuple(rows), truncated=True)
        rows.append(row)
    return Table(columns, tuple(rows), truncated=False)


def _cell(value: Any) -> Cell:  # noqa: ANN401 - SQLite gives any of its five types
    if isinstance(value, bytes):
        value = value[: MAX_CELL_CHARS // 2].hex()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and len(value) > MAX_CELL_CHARS:
        return value[: MAX_CELL_CHARS - 1] + "…"
    return value  # type: ignore[no-any-return]


def _explain(error: Exception, path: Path, time_limit_s: float) -> Exception:
    text = str(error)
    if "interrupted" in text:
        msg = f"the query took longer than {time_limit_s:g} s"
        return UserInputError(msg, next_step="narrow it with WHERE or LIMIT")
    if "one statement" in text:
        msg = "only one statement can be asked; there is more after the `;`"
        return UserInputError(msg, next_step="ask them one by one")
    if "not authorized" in text or "prohibited" in text:
        msg = f"only reading is allowed: {text}"
        return UserInputError(msg, next_step="ask with a SELECT over the fleet_* views")
    if any(phrase in text for phrase in ("disk I/O", "malformed", "not a database", "unable to open", "is locked")):
        return translate(error, str(path))
    msg = f"the query cannot be run: {text[:500]}{_hint(text, path)}"
    return UserInputError(msg, next_step="the columns of each view are in docs/store.md")


def _hint(text: str, path: Path) -> str:
    """Return the view or column that was probably meant, where an error names one that is not there."""
    found = _NOT_THERE.search(text)
    if found is None:
        return ""
    names = "name FROM sqlite_master WHERE type = 'view'"
    if found[1] == "column":
        names = "p.name FROM sqlite_master AS m, pragma_table_info(m.name) AS p WHERE m.type = 'view'"
    try:
        with closing(sqlite3.connect(sqlite_uri(path, read_only=True), uri=True)) as connection:
            known = [str(name) for (name,) in connection.execute(f"SELECT DISTINCT {names}")]
    except sqlite3.Error:  # the error that a hint is sought for says more than this one
        return ""
    near = nearest(found[2].rpartition(".")[2], known)
    if near is not None:
        return f"; did you mean {near!r}?"
    return f"; there are: {', '.join(sorted(known))}" if found[1] == "table" else ""
