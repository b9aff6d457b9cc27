from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgefleet_agent.records import AgentState, Finding, ModelProgress
from edgefleet_agent.state import AGENT_DIED, MACHINE_DIED, StateError, StateStore, open_database
from edgefleet_contract.evidence import Verdict

ARTIFACT = "sha256:" + "a" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.db"


def progress(model: str, *, tried: bool = False) -> ModelProgress:
    finding = Finding(artifact=ARTIFACT, variant="ort/cpu/fp32", verdict=Verdict.FAILED, reason="no")
    return ModelProgress(model=model, findings=(finding,) if tried else ())


def test_what_was_saved_is_loaded_in_order_after_a_restart(path: Path) -> None:
    state = AgentState(
        generation=4, models=(progress("b", tried=True), progress("a")), strikes={ARTIFACT: ("it died",)}
    )
    store = StateStore(open_database(path).connection)
    with store.transaction():
        store.save(AgentState(), state)
    assert StateStore(open_database(path).connection).load() == state


def test_saving_writes_only_what_differs(path: Path) -> None:
    store = StateStore(open_database(path).connection)
    one = AgentState(generation=1, models=(progress("a"), progress("b")))
    two = AgentState(generation=1, models=(progress("b", tried=True),))
    three = replace(two, generation=2, models=(progress("c"), *two.models))
    before = AgentState()
    for after in (one, two, three):
        with store.transaction():
            store.save(before, after)
        assert store.load() == after
        before = after


def test_a_transaction_that_fails_leaves_nothing_behind(path: Path) -> None:
    store = StateStore(open_database(path).connection)

    def fail() -> None:
        with store.transaction():
            store.save(AgentState(), AgentState(generation=9))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.load() == AgentState()


def test_an_attempt_that_no_verdict_closed_is_a_strike_that_tells_who_went_down(path: Path) -> None:
    store = StateStore(open_database(path).connection)
    store.begin_attempt(ARTIFACT, "boot-1", 5)
    again = StateStore(open_database(path).connection)
    assert again.open_strikes("boot-1") == {ARTIFACT: AGENT_DIED}
    assert again.open_strikes("boot-2") == {ARTIFACT: MACHINE_DIED}
    again.end_attempts()
    assert again.open_strikes("boot-2") == {}


@pytest.mark.parametrize(
    "damage",
    [
        b"this is no database, but long enough to look like a file of some kind" * 20,
        b"SQLite format 3\x00" + b"\xff" * 4096,
    ],
)
def test_a_damaged_database_is_moved_aside_and_a_new_one_begun(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    opened = open_database(path, now_ns=7)
    assert opened.moved_aside == path.with_name("agent.db.unreadable-7")
    assert opened.moved_aside.read_bytes() == damage
    assert StateStore(opened.connection).load() == AgentState()


def spoil(path: Path, statement: str, *arguments: Any) -> None:
    connection = open_database(path).connection
    connection.execute(statement, arguments)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO progress VALUES (0, 'm', '{\"model\": \"../evil\"}')",
        "INSERT INTO progress VALUES (0, 'm', 'no json')",
        "INSERT INTO kv VALUES ('rules', 'no json')",
        "PRAGMA user_version=99",
        "DROP TABLE progress",
    ],
)
def test_a_database_with_foreign_content_is_moved_aside(path: Path, statement: str) -> None:
    spoil(path, statement)
    assert open_database(path).moved_aside is not None
    assert open_database(path).moved_aside is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 40_000), junk=st.binary(min_size=1, max_size=64))
def test_no_damage_to_the_file_keeps_the_agent_from_starting(tmp_path: Path, where: int, junk: bytes) -> None:
    path = tmp_path / f"{where}.db"
    store = StateStore(open_database(path).connection)
    with store.transaction():
        store.save(AgentState(), AgentState(generation=3, models=(progress("a", tried=True),)))
    store._connection.close()
    data = bytearray(path.read_bytes())
    at = where % len(data)
    data[at : at + len(junk)] = junk
    path.write_bytes(data)
    StateStore(open_database(path).connection).load()


def test_a_home_that_cannot_be_written_is_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="give --home a folder that can be written"):
        open_database(tmp_path / "missing" / "agent.db")


def test_a_database_that_is_merely_locked_is_not_moved_aside(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    open_database(path).connection.close()

    def locked(*_: object, **__: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(sqlite3, "connect", locked)
    with pytest.raises(StateError, match="locked"):
        open_database(path)
    assert path.exists()
