"""docs/store.md says what the store has, and nothing else; and a store is readable where it lies."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edgefleet_controller.api import QueryRequest
from edgefleet_controller.store import Store
from edgefleet_controller.store.catalog import parse_health_query, query_files
from edgefleet_controller.store.database import sqlite_uri

SAME_AS = re.compile(r"columns are those of `(\w+)`")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("empty") / "fleet.db"
    Store.open(made).close()
    return made


@pytest.fixture
def database(tmp_path: Path, empty: Path) -> Path:
    path = tmp_path / "controller" / "fleet.db"
    path.parent.mkdir()
    shutil.copy(empty, path)
    return path


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "store.md").read_text(encoding="utf-8")


def documented_views(page: str) -> dict[str, list[str]]:
    views: dict[str, list[str]] = {}
    for section in page.split("\n### ")[1:]:
        name, _, rest = section.partition("\n")
        body = rest.partition("\n## ")[0]
        same = SAME_AS.search(body)
        views[name.strip("`")] = views[same[1]] if same else re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE)
    return views


def names_in(page: str, heading: str) -> list[str]:
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def test_the_page_lists_every_view_with_exactly_its_columns(page: str, database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'")]
        real = {name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in names}
    assert documented_views(page) == real


def test_the_page_lists_every_named_query_and_every_check(page: str, tmp_path: Path) -> None:
    assert names_in(page, "Named queries") == list(query_files(tmp_path))
    assert names_in(page, "Health checks") == list(query_files(tmp_path, "health"))


def test_the_check_shown_on_the_page_is_one_that_runs(page: str, database: Path) -> None:
    shown = page.partition("```sql\n")[2].partition("```")[0]
    folder = database.parent.parent / "queries" / "health"
    folder.mkdir(parents=True)
    (folder / "shown.sql").write_text(shown, encoding="utf-8")
    assert parse_health_query(shown).threshold == 100.0
    with Store.open(database) as store:
        result = store.health(0)
    assert (result.findings, "shown" in result.checks) == ((), True)


@pytest.mark.parametrize("name", sorted(query_files(Path("/nowhere"))))
def test_every_packaged_query_runs_on_an_empty_store(database: Path, name: str) -> None:
    with Store.open(database, read_only=True) as store:
        assert store.query(QueryRequest(query=name)).rows == ()


def test_a_store_at_rest_in_a_folder_that_cannot_be_written_is_opened_as_immutable(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "immutable" not in sqlite_uri(database, read_only=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert sqlite_uri(database, read_only=True).endswith("?mode=ro&immutable=1")
    assert sqlite_uri(database, read_only=False).endswith("?mode=rwc")


def test_a_store_with_a_writer_or_something_to_recover_is_never_opened_as_immutable(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    database.with_name("fleet.db-wal").write_bytes(b"frames")
    assert "immutable" not in sqlite_uri(database, read_only=True)
    database.with_name("fleet.db-wal").write_bytes(b"")
    database.with_name("fleet.db-shm").write_bytes(b"index")
    assert "immutable" not in sqlite_uri(database, read_only=True)
