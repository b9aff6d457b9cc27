"""What each part of the store is built on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgefleet_controller.store.database import Database


class Concern:
    """One part of the store, over the shared database.

    Args:
        database: where the rows are.
        queries_dir: the user's own `*.sql`; need not exist.
        now_ns: Unix time in nanoseconds, for rows whose caller gives no time.
    """

    def __init__(self, database: Database, queries_dir: Path, now_ns: Callable[[], int]) -> None:
        self._database = database
        self._queries_dir = queries_dir
        self._now_ns = now_ns
