"""The connection to the database: transactions, one writer at a time, durability, errors.

Everything here that is SQLite's own is set in one place (`_prepare_sqlite`); the rest of the store is portable SQL.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.store.errors import translate
from edgefleet_controller.store.migrate import ensure_schema

BUSY_TIMEOUT_MS = 10_000
"""How long a writer waits for another process's writer: our transactions last milliseconds, a backup seconds."""

_WRITE = "edgefleet_write"
_DURABLE = "edgefleet_durable"

Insert = sqlite_dialect.Insert | postgresql.Insert


class Database:
    """An open database file.

    Args:
        path: the SQLite file; its folder must exist.
        read_only: refuse every write; the file must exist and have the current schema.

    Raises:
        UserInputError: the file cannot be opened, created or written, or is not a store.
        StoreError: the disk is full or broken.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        if read_only and not path.is_file():
            msg = f"there is no store at {path}"
            raise UserInputError(msg, next_step="run `fleet apply MANIFEST`, which makes one")
        self._engine = _open_engine(path, read_only=read_only)
        self._writer = threading.RLock()
        try:
            with _translated(path):
                ensure_schema(self._engine, self._engine.execution_options(**{_WRITE: True}), read_only=read_only)
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close every connection. Safe to call twice."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection that sees one consistent moment. Never waits for a writer.

        Raises:
            StoreError: the database cannot be read.
        """
        with _translated(self.path), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """Give a connection in a transaction that commits at the end, or rolls back on any exception.

        Args:
            durable: survive a power cut once committed (`synchronous=FULL`): what is acknowledged to a device must.
                False (`NORMAL`) survives a killed process, and may lose its last moments in a power cut: enough for
                presence, heartbeats and progress, which repeat. It saves one flush to disk (measured: milliseconds).

        Raises:
            UserInputError: the database cannot be written.
            StoreError: the disk is full or broken, or another process holds the lock.
        """
        if self.read_only:
            msg = f"{self.path} was opened for reading only"
            raise UserInputError(msg, next_step="start the controller with `fleet up`")
        engine = self._engine.execution_options(**{_WRITE: True, _DURABLE: durable})
        with self._writer, _translated(self.path), engine.begin() as connection:
            yield connection


def insert_into(connection: Connection, table: Table) -> Insert:
    """Return the dialect's INSERT, which knows ON CONFLICT on SQLite and PostgreSQL alike."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite_dialect.insert(table)


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, or update the columns given of those with the same primary key. All rows name the same columns."""
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    statement = insert_into(connection, table)
    rest = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=rest), rows)


def sqlite_uri(path: Path, *, read_only: bool) -> str:
    """Return the URI that opens an SQLite file.

    A reader in WAL mode makes `-shm` beside the file where it is missing. Where that folder cannot be written and no
    writer has left something to recover, the file cannot change either: it is opened as immutable.
    """
    # A quoted URI: a folder may hold `?`, `#` or `%`.
    place = path.absolute().as_uri()
    if not read_only:
        return f"{place}?mode=rwc"
    shm, wal = path.with_name(f"{path.name}-shm"), path.with_name(f"{path.name}-wal")
    at_rest = not shm.exists() and not (wal.exists() and wal.stat().st_size)
    frozen = at_rest and not os.access(path.parent, os.W_OK)
    return f"{place}?mode=ro{'&immutable=1' if frozen else ''}"


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise translate(error, str(path)) from error


def _open_engine(path: Path, *, read_only: bool) -> Engine:
    uri = sqlite_uri(path, read_only=read_only)
    engine = create_engine(
        "sqlite://",
        creator=lambda: _connect(uri),
        poolclass=QueuePool,
        pool_size=4,
        max_overflow=60,
    )
    event.listen(engine, "begin", _begin_sqlite)
    event.listen(engine, "connect", lambda connection, _record: _prepare_sqlite(connection, read_only=read_only))
    return engine


def _connect(uri: str) -> sqlite3.Connection:
    # Threads of the daemon share the pool; SQLAlchemy hands a connection to one of them at a time.
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_MS / 1000)


def _prepare_sqlite(connection: sqlite3.Connection, *, read_only: bool) -> None:
    if read_only:
        connection.execute("PRAGMA query_only=ON")
        return
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get(_WRITE):
        connection.exec_driver_sql("BEGIN")
        return
    level = "FULL" if options.get(_DURABLE, True) else "NORMAL"
    connection.exec_driver_sql(f"PRAGMA synchronous={level}")
    # A writer takes its lock at once: one that starts as a reader could not be promoted after another's write.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
