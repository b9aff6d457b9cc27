"""Query files: those that ship with the store, and the user's own, which come first.

A health query starts with a header:

    -- title: Device offline
    -- severity: warning
    -- unit: s
    -- threshold: 300
    -- description: what is wrong, and what to do
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.api import Severity

BUILT_IN = Path(__file__).parent / "queries"
MAX_FILE_BYTES = 64 * 1024
MAX_FILES = 200
NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}$")
_FIELD = re.compile(r"^--\s*([a-z]+)\s*:\s*(.*?)\s*$")
_FIELDS = ("title", "severity", "unit", "threshold", "description")
_SEVERITIES = tuple(severity.value for severity in Severity)


@dataclass(frozen=True)
class HealthQuery:
    """One health query: its header and its SQL."""

    title: str
    severity: Severity
    unit: str | None
    threshold: float | None
    """In `unit`; the query sees it as `:threshold`."""
    description: str
    sql: str


def query_files(user_dir: Path, folder: str = "") -> dict[str, Path]:
    """Return query files by name. A user's file takes the place of a built-in one of the same name.

    Args:
        user_dir: the user's folder; need not exist.
        folder: the folder below each: "" or "health".
    """
    files: dict[str, Path] = {}
    for root in (BUILT_IN / folder, user_dir / folder):
        found = sorted(path for path in root.glob("*.sql") if NAME.match(path.stem)) if root.is_dir() else []
        files.update({path.stem: path for path in found[:MAX_FILES]})
    return files


def read_query(path: Path) -> str:
    """Return a query file's text.

    Raises:
        UserInputError: it cannot be read, is too large, or is not UTF-8 text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode()
    except OSError as error:
        msg = f"the query file {path} cannot be read: {error.strerror}"
        raise UserInputError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"the query file {path} is not UTF-8 text"
        raise UserInputError(msg) from error
    if len(data) > MAX_FILE_BYTES:
        msg = f"the query file {path} is larger than {MAX_FILE_BYTES} bytes"
        raise UserInputError(msg)
    return text


def parse_health_query(text: str) -> HealthQuery:
    """Return a health query from a file's text.

    Raises:
        UserInputError: the header lacks something, or says something that is not allowed.
    """
    header = _header(text)
    for name in ("title", "severity", "description"):
        if not header.get(name):
            msg = f"the header lacks `-- {name}: …`; it has: {', '.join(header) or 'nothing'}"
            raise UserInputError(msg)
    if header["severity"] not in _SEVERITIES:
        msg = f"severity {header['severity']!r}; allowed: {', '.join(_SEVERITIES)}"
        raise UserInputError(msg)
    return HealthQuery(
        title=header["title"][:200],
        severity=Severity(header["severity"]),
        unit=header.get("unit") or None,
        threshold=_threshold(header.get("threshold")),
        description=header["description"][:2000],
        sql=text,
    )


def _header(text: str) -> dict[str, str]:
    header: dict[str, str] = {}
    for line in text.splitlines():
        match = _FIELD.match(line)
        if not match:
            break
        if match[1] not in _FIELDS or match[1] in header:
            msg = f"the header has {match[1]!r} twice or does not know it; allowed, once each: {', '.join(_FIELDS)}"
            raise UserInputError(msg)
        header[match[1]] = match[2]
    return header


def _threshold(text: str | None) -> float | None:
    if not text:
        return None
    if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text):
        msg = f"threshold {text!r}; allowed: a plain number, in the header's unit"
        raise UserInputError(msg)
    return float(text)
