"""Questions to the store: named queries, people's own SELECTs, and the health checks."""

from __future__ import annotations

import difflib
from pathlib import Path

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.api import HealthFinding, HealthResult, QueryRequest, QueryResult, Severity
from edgefleet_controller.store.catalog import NAME, HealthQuery, parse_health_query, query_files, read_query
from edgefleet_controller.store.concern import Concern
from edgefleet_controller.store.sandbox import Cell, Table, select_rows

MAX_FINDINGS = 1000
"""Per check: enough to see what is wrong; `fleet query` lists more."""

HEALTH_COLUMNS = ("device", "model", "detail", "value")
SEVERITY_COLUMN, UNIT_COLUMN = "severity", "unit"
"""Further columns a query may have, in this order: what holds for a row, where it is not the header's for all."""

_ALLOWED_COLUMNS = tuple(
    (*HEALTH_COLUMNS, *more) for more in ((), (SEVERITY_COLUMN,), (UNIT_COLUMN,), (SEVERITY_COLUMN, UNIT_COLUMN))
)


class Questions(Concern):
    """Read-only SQL."""

    def query(self, request: QueryRequest) -> QueryResult:
        """Run a named query, or one SELECT. Its parameters `:now_ns` (Unix time) may be used.

        Raises:
            UserInputError: no such query, or not one reading statement.
        """
        text = request.query.strip()
        sql = self._named(text) if NAME.match(text) else text
        table = select_rows(self._database.path, sql, request.limit, {"now_ns": self._now_ns()})
        return QueryResult(columns=table.columns, rows=table.rows, truncated=table.truncated)

    def health(self, now_ns: int) -> HealthResult:
        """Run every health query. One that cannot be run is a finding itself.

        Args:
            now_ns: Unix time, what "offline for" is counted from.
        """
        files = query_files(self._queries_dir, "health")
        findings = [finding for name, path in files.items() for finding in self._check(name, path, now_ns)]
        return HealthResult(checks=tuple(files), findings=tuple(findings))

    def _named(self, name: str) -> str:
        files = query_files(self._queries_dir)
        if name in files:
            return read_query(files[name])
        close = difflib.get_close_matches(name, files, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        msg = f"there is no query {name!r}{hint}; there are: {', '.join(files) or 'none'}"
        raise UserInputError(msg, next_step=f'put {name}.sql in {self._queries_dir}, or ask with "SELECT …"')

    def _check(self, name: str, path: Path, now_ns: int) -> list[HealthFinding]:
        try:
            query = parse_health_query(read_query(path))
            parameters = {"now_ns": now_ns, "threshold": query.threshold}
            table = select_rows(self._database.path, query.sql, MAX_FINDINGS, parameters)
            return _findings(name, query, table)
        except UserInputError as error:
            return [_broken(name, path, error)]


def _findings(name: str, query: HealthQuery, table: Table) -> list[HealthFinding]:
    if table.columns not in _ALLOWED_COLUMNS:
        wanted = f"{', '.join(HEALTH_COLUMNS)}, then {SEVERITY_COLUMN} and {UNIT_COLUMN} if rows differ in them"
        msg = f"it returns the columns {', '.join(table.columns)}; needed: {wanted}"
        raise UserInputError(msg)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return [
        HealthFinding(
            check=name,
            title=query.title,
            severity=_severity(row.get(SEVERITY_COLUMN), query.severity),
            device=_word(row["device"]),
            model=_word(row["model"]),
            detail=str(row["detail"] or query.description),
            value=_number(row["value"]),
            threshold=query.threshold,
            unit=_word(row.get(UNIT_COLUMN)) or query.unit,
        )
        for row in rows
    ]


def _severity(own: Cell, of_all: Severity) -> Severity:
    """Return a row's own severity, where it has one."""
    if own is None:
        return of_all
    try:
        return Severity(own)
    except ValueError as error:
        allowed = ", ".join(each.value for each in Severity)
        msg = f"its column `{SEVERITY_COLUMN}` holds {str(own)[:60]!r}; allowed: {allowed}"
        raise UserInputError(msg) from error


def _word(value: Cell) -> str | None:
    return None if value is None else str(value)


def _number(value: Cell) -> float | None:
    if value is None:
        return None
    if isinstance(value, str):
        msg = f"its column `value` holds the text {value[:60]!r}; needed: a number or NULL"
        raise UserInputError(msg)
    return float(value)


def _broken(name: str, path: Path, error: UserInputError) -> HealthFinding:
    return HealthFinding(
        check=name,
        title="A health query cannot be run",
        severity=Severity.WARNING,
        device=None,
        model=None,
        detail=f"{path}: {error}",
    )
