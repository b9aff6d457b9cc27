"""Bring a database to the current schema, with Alembic; a current one costs one SELECT and no import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from edgefleet_contract.errors import UserInputError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0003"
"""The newest migration; a test keeps it so."""

MIGRATIONS = Path(__file__).parent / "migrations"


def ensure_schema(reader: Engine, writer: Engine, *, read_only: bool) -> None:
    """Migrate the database to `HEAD` where it is older. A migration is one transaction: all of it, or nothing.

    Raises:
        UserInputError: the store is of a newer edgefleet, or is old and may only be read.
    """
    with reader.connect() as connection:
        version = schema_version(connection)
    if version == HEAD:
        return
    if version is not None and version > HEAD:
        msg = f"the store has schema {version}; this edgefleet knows up to {HEAD}"
        raise UserInputError(msg, next_step="install a newer edgefleet, or set FLEET_HOME to another folder")
    if read_only:
        msg = f"the store has schema {version or 'none'}; this edgefleet reads {HEAD}"
        raise UserInputError(msg, next_step="run `fleet up` once, which brings it up to date")
    with writer.begin() as connection:
        # Asked again under the lock: another process may have migrated in between.
        if schema_version(connection) != HEAD:
            upgrade(connection)


def schema_version(connection: Connection) -> str | None:
    """Return the migration the database is at, or None when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    version = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if version is None else str(version)


def upgrade(connection: Connection, revision: str = HEAD) -> None:
    """Run the migrations up to `revision` on an open transaction."""
    from alembic import command

    command.upgrade(alembic_config(connection), revision)


def alembic_config(connection: Connection) -> Config:
    """Return Alembic's configuration for the migrations inside this package."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
