"""The store as the rest of the controller knows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.store.builds import Builds
from edgefleet_controller.store.database import Database
from edgefleet_controller.store.ingest import Ingest
from edgefleet_controller.store.questions import Questions
from edgefleet_controller.store.revisions import Revisions
from edgefleet_controller.store.rows import Rows
from edgefleet_controller.store.wishes import Wishes


class Store(Ingest, Rows, Revisions, Wishes, Builds, Questions):
    """Everything the controller knows, in SQL. Safe for threads: many read while one writes.

    Each write is one transaction: after a kill at any moment, all of it is there or nothing. Every method raises
    StoreError when the disk is full or broken, or UserInputError when the place cannot be written.
    """

    @classmethod
    def open(
        cls,
        place: str | Path,
        *,
        read_only: bool = False,
        queries_dir: Path | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> Self:
        """Open a store, making or migrating it where needed.

        Args:
            place: the SQLite file, or `sqlite:///` and its path. Its folder must exist.
            read_only: refuse every write; the store must exist.
            queries_dir: the user's own queries; default: `$FLEET_HOME/queries` for a store at
                `$FLEET_HOME/controller/fleet.db`.
            now_ns: Unix time in nanoseconds.

        Raises:
            UserInputError: the place cannot be opened, is not a store, or is of a newer edgefleet.
            StoreError: the disk is full or broken.
        """
        path = _path_of(place)
        return cls(Database(path, read_only=read_only), queries_dir or path.parent.parent / "queries", now_ns)

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _path_of(place: str | Path) -> Path:
    text = str(place)
    if text.startswith("sqlite:///"):
        return Path(text.removeprefix("sqlite:///")).absolute()
    if "://" in text:
        msg = f"a store in {text.split('://', maxsplit=1)[0]!r} is not supported yet; allowed: an SQLite file"
        raise UserInputError(msg, next_step="give a path, or sqlite:///PATH")
    return Path(text).absolute()
