"""A store made by an earlier version keeps its rows, and shows in new columns what they always said."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, MetaData, create_engine, select, update

from edgefleet_contract.evidence import EnergyStatus
from edgefleet_contract.report import DeviceState
from edgefleet_controller.api import EvidenceQuery, QueryRequest
from edgefleet_controller.compile.records import BuildRecord
from edgefleet_controller.store import Store, tables
from edgefleet_controller.store.flatten import evidence_columns
from edgefleet_controller.store.migrate import upgrade

OLD = "0002"
NEW_TO_THE_CONTRACT = ("throughput_hz", "undisturbed", "profile", "service", "samples_per_query", "rate_hz", "reason")
"""What latency did not say at all when the first tables were made (or said only now and then)."""

UNSAID = (
    "SELECT energy_sensor, net_j, throughput_hz, undisturbed_p99_ms, top_operator, throttled, placement_source"
    " FROM fleet_evidence WHERE seq = 1"
)


@contextmanager
def opened(path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{path}")
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def rows_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    with opened(path) as connection:
        return {
            table.name: [dict(row) for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()]
            for table in tables.metadata.sorted_tables
        }


def copy_as_old(new: Path, old: Path) -> None:
    """Make `old` at the earlier version, with the rows of `new` as far as it had columns for them."""
    rows = rows_of(new)
    with opened(old) as connection:
        upgrade(connection, OLD)
        known = MetaData()
        known.reflect(connection)
        for table in tables.metadata.sorted_tables:
            had = known.tables[table.name].c
            narrow = [{name: value for name, value in row.items() if name in had} for row in rows[table.name]]
            if narrow:
                connection.execute(table.insert(), narrow)


@pytest.fixture
def filled(wished: Store, path: Path, make: Any) -> Path:
    """A store of this version in which every table that gained columns has rows that fill them."""
    document = make.proven_document()
    wished.put_artifact(document, 1)
    wished.put_artifact(make.document(make.fp32), 1)
    wished.record_build(
        BuildRecord(
            key=document.build_key, model="digits", variant=make.int8, artifact=document.digest, verdict="qualified",
            reason=None, duration_s=1.0,
        )
    )  # fmt: skip
    wished.ingest(
        [
            make.report(make.trial(**make.everything()), 1),
            make.report(make.trial(make.fp32, latency=make.latency(), energy=make.unmeasured()), 2),
            make.report(make.trial("ort/cuda/fp16"), 3),
            make.report(make.transition(), 4),
        ],
        5,
    )
    return path


def test_every_column_of_evidence_is_filled_by_a_trial_that_measured_everything(make: Any) -> None:
    columns = evidence_columns(make.evidence(**make.everything()))
    assert [name for name, value in columns.items() if value is None] == []
    placed = {"device", "boot", "seq", "received_at_ns"}
    assert set(columns) == {column.name for column in tables.evidence.c} - placed


def test_old_rows_show_in_new_columns_what_their_documents_say(filled: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    copy_as_old(filled, old)
    Store.open(old).close()
    assert rows_of(old) == rows_of(filled)


def test_what_an_old_document_did_not_say_is_null_and_the_row_is_readable(
    filled: Path, tmp_path: Path, make: Any
) -> None:
    old = tmp_path / "old.db"
    copy_as_old(filled, old)
    body = make.evidence(**make.everything()).model_dump(mode="json")
    body = {name: part for name, part in body.items() if name not in {"thermal", "placement", "device_parity"}}
    body["energy"] = {"status": "measured", "per_inference_mj": 12.0}
    body["latency"] = {name: value for name, value in body["latency"].items() if name not in NEW_TO_THE_CONTRACT}
    with opened(old) as connection:
        connection.execute(update(tables.evidence).where(tables.evidence.c.seq == 1).values(body=body))
    with Store.open(old) as store:
        (row,) = store.query(QueryRequest(query=UNSAID)).rows
        (kept,) = store.query(QueryRequest(query="SELECT p95_ms, per_inference_mj FROM fleet_evidence LIMIT 1")).rows
        evidence = store.evidence(EvidenceQuery(limit=10))
        (state,) = store.device_rows()
    assert row == (None,) * 7
    assert kept == (2.0, 12.0)
    assert {one.evidence.energy.status for one in evidence if one.evidence.energy} == {
        EnergyStatus.MEASURED,
        EnergyStatus.UNMEASURED,
    }
    assert (state.state, state.variant) == (DeviceState.ACTIVE, make.int8)


def columns_of(path: Path) -> dict[str, set[str]]:
    with closing(sqlite3.connect(path)) as raw:
        names = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'view'")]
        return {name: {row[1] for row in raw.execute(f"PRAGMA table_info({name})")} for name in names}


def test_no_view_has_lost_a_column(path: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    with opened(old) as connection:
        upgrade(connection, OLD)
    before = columns_of(old)
    Store.open(old).close()
    after = columns_of(old)
    assert set(before) <= set(after)
    assert {name: before[name] - after[name] for name in before} == {name: set() for name in before}
    assert len(after["fleet_evidence"] - before["fleet_evidence"]) == 40


def test_an_empty_old_store_takes_new_reports(tmp_path: Path, make: Any) -> None:
    old = tmp_path / "old.db"
    with opened(old) as connection:
        upgrade(connection, OLD)
    with Store.open(old) as store:
        assert store.ingest([make.report(make.trial(**make.everything()))], 1) == 1
