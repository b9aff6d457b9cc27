"""The file: migrations, versions, places that cannot be used."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.store import Store, StoreError
from edgefleet_controller.store import migrate as migrate_module
from edgefleet_controller.store.errors import translate
from edgefleet_controller.store.migrate import HEAD, alembic_config
from edgefleet_controller.store.tables import metadata


def test_the_migrations_make_exactly_the_tables_the_code_knows(store: Store) -> None:
    with store._database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_head_is_the_newest_migration(store: Store) -> None:
    with store._database.read() as connection:
        assert ScriptDirectory.from_config(alembic_config(connection)).get_current_head() == HEAD


def test_a_current_store_runs_no_migration(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate_module, "upgrade", lambda *_: pytest.fail("a migration ran"))
    Store.open(path).close()


def test_a_new_store_is_made_quickly(tmp_path: Path) -> None:
    Store.open(tmp_path / "warm.db").close()
    started_s = time.perf_counter()
    Store.open(tmp_path / "fleet.db").close()
    assert time.perf_counter() - started_s < 1.0  # 0.03 s here; the bound is wide for a busy machine


def test_a_migration_that_fails_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = migrate_module.upgrade

    def fail_at_the_end(connection: Connection, revision: str = HEAD) -> None:
        real(connection, revision)
        raise OSError("power cut")

    monkeypatch.setattr(migrate_module, "upgrade", fail_at_the_end)
    with pytest.raises(OSError, match="power cut"):
        Store.open(path)
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (0,)
    raw.close()


def test_a_store_of_a_newer_edgefleet_is_refused(store: Store, path: Path) -> None:
    with store._database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UserInputError, match=r"9999.*newer edgefleet"):
        Store.open(path)


def test_a_file_that_is_no_store_is_refused_with_words(path: Path) -> None:
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(UserInputError, match="not an SQLite file"):
        Store.open(path)


def test_a_missing_folder_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="cannot be opened or created"):
        Store.open(tmp_path / "nowhere" / "fleet.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_the_users_to_mend(path: Path) -> None:
    path.parent.chmod(0o500)
    try:
        with pytest.raises(UserInputError, match="FLEET_HOME"):
            Store.open(path)
    finally:
        path.parent.chmod(0o700)


def test_reading_needs_a_store_that_is_there(path: Path) -> None:
    with pytest.raises(UserInputError, match="no store"):
        Store.open(path, read_only=True)
    assert not path.exists()


def test_a_store_opened_for_reading_refuses_to_write(store: Store, path: Path, make: Any) -> None:
    with Store.open(path, read_only=True) as reader, pytest.raises(UserInputError, match="reading only"):
        reader.create_revision(make.manifest(), {}, at_ns=0, changed=True)


def test_a_place_may_be_a_url_and_only_sqlite_is_known(path: Path) -> None:
    Store.open(f"sqlite:///{path}").close()
    with pytest.raises(UserInputError, match="not supported yet"):
        Store.open("postgresql://db/fleet")


def test_a_folder_may_be_named_anything(tmp_path: Path, make: Any) -> None:
    folder = tmp_path / "50% of #1? yes"
    folder.mkdir()
    with Store.open(folder / "fleet.db") as store:
        assert store.create_revision(make.manifest(), {}, at_ns=0, changed=True) == 1
    assert (folder / "fleet.db").exists()


def fill_up(store: Store) -> None:
    with store._database.write() as connection:
        pages = connection.scalar(text("PRAGMA page_count"))
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))
        row = text(
            "INSERT INTO artifacts (digest, model, variant, document, document_bytes, total_bytes, created_at_ns)"
            " VALUES ('d', 'm', 'v', :blob, 1, 1, 1)"
        )
        connection.execute(row, {"blob": "x" * 1_000_000})


def test_a_full_disk_rolls_back_and_says_what_to_do(store: Store, make: Any) -> None:
    with pytest.raises(StoreError, match=r"is full.*free some space"):
        fill_up(store)
    with store._database.read() as connection:
        assert connection.scalar(text("SELECT COUNT(*) FROM artifacts")) == 0
        connection.execute(text("PRAGMA max_page_count = 1000000"))
    assert store.create_revision(make.manifest(), {}, at_ns=0, changed=True) == 1


def test_what_no_phrase_fits_is_a_bug_of_ours_and_says_so() -> None:
    assert "refused a statement" in str(translate(sqlite3.OperationalError("odd"), "x.db"))


def test_what_is_acknowledged_is_flushed_to_the_disk_first(store: Store) -> None:
    with store._database.write() as connection:
        assert connection.scalar(text("PRAGMA synchronous")) == 2  # FULL: survives a power cut
    with store._database.write(durable=False) as connection:
        assert connection.scalar(text("PRAGMA synchronous")) == 1  # NORMAL: survives a killed process
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
