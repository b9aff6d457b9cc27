"""What the agent remembers over restarts: one SQLite file, written before anything is acted upon.

The reports of a step are committed together with its state, so a death at any moment neither loses nor doubles one.
A file that cannot be read is moved aside and a new one begun: what serves is told by the links on disk, and the
controller sends its wish again at the next birth.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from edgefleet_agent.records import AgentState, ModelProgress
from edgefleet_contract.errors import DeviceError

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
AGENT_DIED = "the agent died during its trial"
MACHINE_DIED = "the machine went down during its trial"
_SCHEMA = """
CREATE TABLE kv (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE progress (position INTEGER NOT NULL, model TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE attempt (artifact TEXT PRIMARY KEY, machine_boot TEXT NOT NULL, started_at_ns INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE report (
    life INTEGER NOT NULL, seq INTEGER NOT NULL, boot TEXT NOT NULL, model TEXT, sent_n INTEGER NOT NULL DEFAULT 0,
    body BLOB NOT NULL, PRIMARY KEY (life, seq)
) WITHOUT ROWID;
"""


class StateError(DeviceError):
    """The agent's home cannot be written."""


def machine_boot_id() -> str:
    """Return the kernel's identity of this machine boot, or a constant where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


@dataclass(frozen=True)
class Opened:
    """An opened database, and where a file that could not be read was moved to."""

    connection: sqlite3.Connection
    moved_aside: Path | None = None


def open_database(path: Path, *, now_ns: int | None = None) -> Opened:
    """Open or make the agent's database; a damaged or foreign one is moved aside.

    Raises:
        StateError: the folder cannot be written.
    """
    try:
        return Opened(_connect(path))
    except (sqlite3.DatabaseError, ValidationError, ValueError) as error:
        # Locked, full or read-only is not damage; a missing table is.
        if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
            raise _unwritable(path, error) from error
        log.warning("state is unreadable (%s); starting afresh", error)
    try:
        aside = _move_aside(path, time.time_ns() if now_ns is None else now_ns)
        return Opened(_connect(path), aside)
    except (OSError, sqlite3.DatabaseError) as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: Exception) -> StateError:
    return StateError(f"cannot keep state in {path}: {error}", next_step="give --home a folder that can be written")


def _move_aside(path: Path, now_ns: int) -> Path:
    aside = path.with_name(f"{path.name}.unreadable-{now_ns}")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-256")  # KiB; the file is small, and so shall the process be
        _check(connection)
        StateStore(connection).load()
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        msg = "quick_check found damage"
        raise ValueError(msg)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
    elif version != SCHEMA_VERSION:
        msg = f"schema version {version}, this agent knows {SCHEMA_VERSION}"
        raise ValueError(msg)


def _rules_of(state: AgentState) -> dict[str, object]:
    return {"generation": state.generation, "struck": state.strikes, "environment": state.environment}


class StateStore:
    """The rules' state and the journal of attempts, in an opened database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything done inside at once, or nothing of it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite has rolled back by itself after some failures
                self._connection.execute("ROLLBACK")
            raise

    def load(self) -> AgentState:
        """Return the state last saved; work in hand is not kept.

        Raises:
            ValueError: a row does not hold what this agent writes.
        """
        rows = self._connection.execute("SELECT body FROM progress ORDER BY position").fetchall()
        kept = json.loads(self.get("rules") or "{}")
        return AgentState(
            generation=int(kept.get("generation", 0)),
            models=tuple(ModelProgress.model_validate_json(body) for (body,) in rows),
            strikes={str(artifact): tuple(map(str, struck)) for artifact, struck in kept.get("struck", {}).items()},
            environment=str(kept.get("environment", "")),
        )

    def save(self, before: AgentState, after: AgentState) -> None:
        """Write what differs between two states; call inside a transaction."""
        if (kept := _rules_of(after)) != _rules_of(before):
            self.put("rules", json.dumps(kept))
        old = {progress.model: (position, progress) for position, progress in enumerate(before.models)}
        for position, progress in enumerate(after.models):
            if old.pop(progress.model, None) != (position, progress):
                self._connection.execute(
                    "INSERT OR REPLACE INTO progress (position, model, body) VALUES (?, ?, ?)",
                    (position, progress.model, progress.model_dump_json()),
                )
        self._connection.executemany("DELETE FROM progress WHERE model = ?", [(model,) for model in old])

    def get(self, key: str) -> str | None:
        """Return a kept value, or None."""
        row = self._connection.execute("SELECT value FROM kv WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, value: str) -> None:
        """Keep a value."""
        self._connection.execute("INSERT OR REPLACE INTO kv (key, value) VALUES (?, ?)", (key, value))

    def begin_attempt(self, artifact: str, machine_boot: str, now_ns: int) -> None:
        """Note that a worker is about to touch an artifact; committed before it starts."""
        row = (artifact, machine_boot, now_ns)
        self._connection.execute("INSERT OR REPLACE INTO attempt VALUES (?, ?, ?)", row)

    def end_attempts(self) -> None:
        """Note that no attempt is under way."""
        self._connection.execute("DELETE FROM attempt")

    def open_strikes(self, machine_boot: str) -> dict[str, str]:
        """Return artifact → what died, in words, for attempts that neither a verdict nor an orderly stop has closed."""
        rows = self._connection.execute("SELECT artifact, machine_boot FROM attempt").fetchall()
        return {artifact: AGENT_DIED if boot == machine_boot else MACHINE_DIED for artifact, boot in rows}
