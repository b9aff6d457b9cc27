"""People's SQL: named queries and one SELECT, and nothing else."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.api import QueryRequest, QueryResult
from edgefleet_controller.store import Store
from edgefleet_controller.store.catalog import BUILT_IN, query_files
from edgefleet_controller.store.sandbox import MAX_CELL_CHARS, select_rows

INT8, FP32 = "ort/cpu/int8", "ort/cpu/fp32"


def ask(store: Store, text: str, limit: int = 1000) -> QueryResult:
    return store.query(QueryRequest(query=text, limit=limit))


def test_a_select_gives_columns_and_rows(wished: Store) -> None:
    result = ask(wished, "-- who\nSELECT device, online FROM fleet_devices;")
    assert (result.columns, result.rows, result.truncated) == (("device", "online"), (("local", 1),), False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("DELETE FROM devices", "only one SELECT"),
        ("PRAGMA journal_mode = DELETE", "only one SELECT"),
        ("ATTACH 'x.db' AS x", "only one SELECT"),
        ("EXPLAIN SELECT 1", "only one SELECT"),
        ("/* SELECT */ DROP TABLE devices", "only one SELECT"),
        ("", "only one SELECT"),
        ("WITH x AS (SELECT 1) DELETE FROM devices", "only reading is allowed"),
        ("SELECT load_extension('x')", "only reading is allowed"),
        ("SELECT name FROM pragma_table_info('devices')", "only reading is allowed"),
        ("SELECT 1; DELETE FROM devices", "only one statement"),
        ("SELECT * FROM nowhere", "no such table: nowhere; there are: fleet_"),
        ("SELECT * FROM fleet_latest_evidenc", "did you mean 'fleet_latest_evidence'?"),
        ("SELECT e.p95_m FROM fleet_evidence AS e", "did you mean 'p95_ms'?"),
        ("SELECT zeroblob(1000000000)", "too big"),
        ("SELECT ?", "cannot be run"),
        ("SELECT 1\0", "cannot be run"),
        ("no-such-query", "no query 'no-such-query'"),
        ("modles", "did you mean 'models'"),
    ],
)
def test_anything_but_one_reading_statement_is_refused_with_words(wished: Store, text: str, says: str) -> None:
    with pytest.raises(UserInputError, match=says):
        ask(wished, f" {text}")
    assert ask(wished, "SELECT COUNT(*) FROM devices").rows == ((1,),)


def test_an_error_is_said_without_a_hint_where_none_can_be_had(tmp_path: Path) -> None:
    path = tmp_path / "broken.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE VIEW fleet_broken AS SELECT a FROM gone")
    with pytest.raises(UserInputError, match=r"cannot be run: no such column: p95_m \(next"):
        select_rows(path, "SELECT p95_m FROM (SELECT 1)", 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1, max_size=40) | st.text("SELECTWIH(),*;'\"x:?-/ ", max_size=40).map("SELECT ".__add__))
def test_no_text_raises_anything_but_our_error(store: Store, text: str) -> None:
    with contextlib.suppress(UserInputError):
        ask(store, text)


def test_rows_beyond_the_limit_are_cut_off_and_it_says_so(store: Store) -> None:
    text = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r WHERE x < 9) SELECT x FROM r"
    assert ask(store, text, limit=3).rows == ((1,), (2,), (3,))
    assert ask(store, text, limit=3).truncated
    assert not ask(store, text, limit=9).truncated


def test_cells_are_bounded_and_fit_json(store: Store) -> None:
    (row,) = ask(store, "SELECT printf('%.*c', 100000, 'x'), x'00ff', 9e999, CAST(x'ff' AS TEXT)").rows
    assert (len(row[0]), row[1], row[2], row[3]) == (MAX_CELL_CHARS, "00ff", None, "\N{REPLACEMENT CHARACTER}")


def test_json_can_be_taken_apart(wished: Store) -> None:
    assert ask(wished, "SELECT value FROM json_each('[3, 4]')").rows == ((3,), (4,))


def test_a_query_that_takes_too_long_is_stopped(store: Store, path: Path) -> None:
    ticks = itertools.count()
    endless = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT COUNT(*) FROM r"
    with pytest.raises(UserInputError, match="longer than 3 s"):
        select_rows(path, endless, 1, time_limit_s=3, now_s=lambda: float(next(ticks)))


@pytest.mark.parametrize("name", sorted(query_files(BUILT_IN)))
def test_every_named_query_runs_on_an_empty_store(store: Store, name: str) -> None:
    assert ask(store, name).rows == ()


def test_a_users_query_takes_the_place_of_one_that_ships(store: Store, path: Path) -> None:
    folder = path.parent.parent / "queries"
    folder.mkdir()
    (folder / "models.sql").write_text("SELECT 'mine' AS whose, :now_ns AS at_ns")
    assert ask(store, "models").rows == (("mine", 1_800_000_000_000_000_000),)


def test_a_query_file_that_cannot_be_read_says_which(store: Store, path: Path) -> None:
    folder = path.parent.parent / "queries"
    folder.mkdir()
    (folder / "bad.sql").write_bytes(b"SELECT '\xff'")
    (folder / "big.sql").write_bytes(b" " * 70_000)
    (folder / "folder.sql").mkdir()
    for name, says in (("bad", "not UTF-8"), ("big", "larger than"), ("folder", "cannot be read")):
        with pytest.raises(UserInputError, match=says):
            ask(store, name)


def test_questions_are_answered_while_reports_come_in(wished: Store, path: Path, make: Any) -> None:
    stop = threading.Event()
    counts: list[int] = []
    errors: list[Exception] = []

    def read() -> None:
        with Store.open(path, read_only=True) as reader:
            while not stop.is_set():
                try:
                    counts.append(ask(reader, "SELECT COUNT(*) FROM fleet_evidence").rows[0][0])
                    counts.append(len(wished.devices()) and counts[-1])
                except Exception as error:  # noqa: BLE001 - handed to the test
                    errors.append(error)
                    return

    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    for batch in range(20):
        wished.ingest([make.report(make.trial(), batch * 10 + n + 1) for n in range(10)], batch)
    stop.set()
    for thread in readers:
        thread.join(timeout=10)
    assert errors == []
    assert {count % 10 for count in counts} == {0}, "a batch was seen half"
    assert ask(wished, "SELECT COUNT(*) FROM fleet_evidence").rows == ((200,),)


def test_two_threads_that_write_take_turns(wished: Store, make: Any) -> None:
    def write(device: str) -> None:
        for seq in range(1, 21):
            wished.ingest([make.report(make.transition(), seq, device=device)], seq)

    threads = [threading.Thread(target=write, args=(f"d{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert [wished.committed(f"d{n}", make.boot()).committed for n in range(3)] == [20, 20, 20]


@pytest.fixture
def tried(wished: Store, make: Any) -> Store:
    """A store with a trial that measured everything, one that measured little, and the first one's serving."""
    everything = make.everything() | {"verdict": "qualified", "gate": None, "warnings": ("only just",)}
    outputs = {"outputs": ({"name": "y", "n_samples": 9, "bit_exact": False, "worst_sqnr_db": 3.0},)}
    everything["parity"] = {**everything["parity"].model_dump(), **outputs}
    wished.ingest(
        [
            make.report(make.trial(**everything), 1),
            make.report(make.trial(make.fp32, latency=make.latency(), energy=make.unmeasured()), 2),
            make.report(make.trial("ort/cuda/fp16", energy=make.energy(3.0)), 3),
            make.report(make.transition(), 4),
        ],
        5,
    )
    return wished


@pytest.mark.parametrize(
    ("name", "columns", "rows"),
    [
        ("energy", "variant net_mj low_mj", [("ort/cuda/fp16", 3.0, 2.0), (INT8, 12.0, 11.0), (FP32, None, None)]),
        ("slowest", "variant scenario limit_used top_operator", [(INT8, "server", 2.0 / 1.5, "Conv")]),
        ("operators", "variant operator share calls_n", [(INT8, "Conv", 0.7, 3)]),
        ("placement", "accelerated_time_share elsewhere", [(0.8, '{"NonZero":1}')]),
        ("parity_outputs", "output worst_sqnr_db", [("y", 3.0)]),
        ("heat", "throttled hottest_end_c", [(1, 95.5)]),
        ("warnings", "variant warning", [(INT8, "only just")]),
        ("latency", "variant throughput_hz", [(FP32, None), (INT8, 19.5)]),
    ],
)
def test_a_named_query_answers_from_the_newest_trials(
    tried: Store, name: str, columns: str, rows: list[tuple[Any, ...]]
) -> None:
    result = ask(tried, name)
    places = [result.columns.index(column) for column in columns.split()]
    assert [tuple(row[place] for place in places) for row in result.rows] == rows
