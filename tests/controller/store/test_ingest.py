"""Reports become rows exactly once, in whatever order they come."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from edgefleet_contract.evidence import Verdict
from edgefleet_contract.report import DeviceState, Report, ReportAck
from edgefleet_controller.api import EvidenceQuery
from edgefleet_controller.store import Store
from edgefleet_controller.store.ingest import MAX_ALSO
from edgefleet_controller.store.tables import metadata


def dump(store: Store) -> dict[str, list[str]]:
    with store._database.read() as connection:
        return {
            table.name: sorted(
                json.dumps(dict(row), sort_keys=True) for row in connection.execute(select(table)).mappings()
            )
            for table in metadata.sorted_tables
        }


def ingested(batches: list[list[Report]], empty: Path) -> dict[str, list[str]]:
    with TemporaryDirectory() as folder, Store.open(shutil.copy(empty, Path(folder) / "fleet.db")) as store:
        for batch in batches:
            store.ingest(batch, received_at_ns=7)
        return dump(store)


def stream(make: Any) -> list[Report]:
    """Two boots of one device and one of another; the first boot's clock jumps back in the middle."""
    walk = [
        make.said(),
        make.transition(DeviceState.FETCHING, None),
        make.transition(DeviceState.QUALIFYING),
        make.trial(verdict=Verdict.FAILED),
        make.trial(make.fp32),
        make.transition(DeviceState.ACTIVE, make.fp32),
        make.transition(DeviceState.FETCHING, None, generation=2),
    ]
    first = [
        make.report(body, seq, sent_at_ns=1000 - seq if seq > 3 else 2000 + seq)
        for seq, body in enumerate(walk, start=1)
    ]
    second = [
        make.report(body, seq, boot=2, sent_at_ns=5000 + seq)
        for seq, body in enumerate([make.said(cpu_count=8), *walk[1:4]], start=1)
    ]
    return [*first, *second, make.report(make.transition(), device="other")]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_and_any_doubling_of_reports_gives_the_same_tables(
    empty: Path, make: Any, data: st.DataObject
) -> None:
    reports = stream(make)
    shuffled = data.draw(st.permutations(reports + data.draw(st.lists(st.sampled_from(reports), max_size=6))))
    size = data.draw(st.integers(1, len(shuffled)))
    batches = [shuffled[at : at + size] for at in range(0, len(shuffled), size)]
    assert ingested(batches, empty) == ingested([reports], empty)


def test_only_new_reports_are_counted(store: Store, make: Any) -> None:
    reports = [make.report(make.transition(), seq) for seq in (1, 2, 2)]
    assert store.ingest(reports, 1) == 2
    assert store.ingest(reports, 2) == 0
    assert store.ingest([], 3) == 0


def test_what_came_first_under_a_number_stays(store: Store, make: Any) -> None:
    store.ingest([make.report(make.trial(reason="first"))], 1)
    store.ingest([make.report(make.trial(reason="second"))], 2)
    assert [row.evidence.reason for row in store.evidence(EvidenceQuery())] == ["first"]


def test_the_ack_names_the_highest_number_without_a_gap_and_what_lies_above(store: Store, make: Any) -> None:
    store.ingest([make.report(make.transition(), seq) for seq in (1, 2, 4, 6)], 1)
    assert store.committed("local", make.boot()) == ReportAck(boot=make.boot(), committed=2, also=(4, 6))
    store.ingest([make.report(make.transition(), 3)], 1)
    assert store.committed("local", make.boot()) == ReportAck(boot=make.boot(), committed=4, also=(6,))


def test_the_ack_of_a_boot_nobody_reported_from_is_zero(store: Store, make: Any) -> None:
    assert store.committed("nobody", make.boot()) == ReportAck(boot=make.boot(), committed=0)


def test_the_ack_stays_within_its_bound(store: Store, make: Any) -> None:
    store.ingest([make.report(make.transition(), seq) for seq in range(2, MAX_ALSO + 10)], 1)
    ack = store.committed("local", make.boot())
    assert ack.committed == 0
    assert ack.also == tuple(range(2, MAX_ALSO + 2))


def test_a_clock_that_jumps_back_within_a_boot_does_not_hide_what_is_newer(wished: Store, make: Any) -> None:
    wished.ingest([make.report(make.transition(DeviceState.QUALIFYING), 1, sent_at_ns=9_000)], 1)
    wished.ingest([make.report(make.transition(DeviceState.ACTIVE), 2, sent_at_ns=10)], 1)
    assert [row.state for row in wished.device_rows()] == [DeviceState.ACTIVE]


def test_an_older_generation_never_overrides_a_newer_one(wished: Store, make: Any) -> None:
    wished.ingest([make.report(make.transition(DeviceState.ACTIVE, generation=2), 2)], 1)
    wished.ingest([make.report(make.transition(DeviceState.REFUSED, None, generation=1), 1, boot=2)], 1)
    assert [row.state for row in wished.device_rows()] == [DeviceState.ACTIVE]


def test_evidence_comes_back_as_it_was_sent(store: Store, make: Any) -> None:
    sent = make.evidence(latency=make.latency(), memory=make.memory())
    store.ingest([make.report(make.trial(latency=make.latency(), memory=make.memory()))], 5)
    (row,) = store.evidence(EvidenceQuery())
    assert (row.device, row.received_at_ns, row.evidence) == ("local", 5, sent)


def test_evidence_is_listed_newest_first_by_device_and_model(store: Store, make: Any) -> None:
    store.ingest([make.report(make.trial(reason="old"))], 1)
    store.ingest([make.report(make.trial(reason="new"), 2), make.report(make.trial(), device="other")], 2)
    assert [row.evidence.reason for row in store.evidence(EvidenceQuery(device="local"))] == ["new", "old"]
    assert [row.device for row in store.evidence(EvidenceQuery(model="digits", limit=1))] != []
    assert store.evidence(EvidenceQuery(model="nothing")) == ()


def test_the_newest_profile_is_the_devices(store: Store, make: Any) -> None:
    store.ingest([make.report(make.said(cpu_count=8), boot=2), make.report(make.said(cpu_count=2), 5, boot=1)], 1)
    assert store.device_profiles()["local"].cpu_count == 8


def test_a_late_report_that_shows_a_boot_to_be_the_older_one_puts_its_word_behind(wished: Store, make: Any) -> None:
    wished.ingest([make.report(make.transition(DeviceState.QUALIFYING), 2, boot=1, sent_at_ns=100)], 1)
    wished.ingest([make.report(make.transition(DeviceState.ACTIVE), 1, boot=2, sent_at_ns=50)], 1)
    assert [row.state for row in wished.device_rows()] == [DeviceState.QUALIFYING]
    wished.ingest([make.report(make.said(), 1, boot=1, sent_at_ns=1)], 1)
    assert [row.state for row in wished.device_rows()] == [DeviceState.ACTIVE]
