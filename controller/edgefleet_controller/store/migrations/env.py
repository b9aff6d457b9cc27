"""Alembic's entry: runs migrations on the connection the store hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from edgefleet_controller.store.tables import metadata


def run() -> None:
    """Run the asked migrations."""
    connection = context.config.attributes["connection"]
    # The store has begun the transaction itself, so DDL rolls back on SQLite too.
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


run()
