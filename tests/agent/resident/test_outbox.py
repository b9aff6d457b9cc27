from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from edgefleet_agent.outbox import IN_FLIGHT, MAX_SENT_AT_NS, RESEND_AFTER_S, Outbox, Sender
from edgefleet_agent.state import StateStore, open_database
from edgefleet_contract.evidence import Evidence, OutputParity, ParityResult, ParityVerdict, Verdict
from edgefleet_contract.report import DeviceState, EvidenceReport, Report, ReportAck, Transition
from edgefleet_contract.wire import MAX_MESSAGE_BYTES, decode


@pytest.fixture
def database(tmp_path: Path) -> sqlite3.Connection:
    return open_database(tmp_path / "agent.db").connection


@pytest.fixture
def outbox(database: sqlite3.Connection) -> Outbox:
    return Outbox(database, "one", "lab")


def said(generation: int, model: str = "digits") -> Transition:
    return Transition(model=model, state=DeviceState.FETCHING, generation=generation)


def seqs(outbox: Outbox, limit: int = 100) -> list[int]:
    return [pending.seq for pending in outbox.pending(limit)]


def test_reports_are_numbered_from_one_without_gaps_and_keep_their_order(outbox: Outbox) -> None:
    for generation in (7, 8, 9):
        outbox.add(said(generation), now_ns=5)
    reports = [decode(Report, pending.body) for pending in outbox.pending(10)]
    assert [report.seq for report in reports] == [1, 2, 3]
    assert {report.boot for report in reports} == {outbox.boot}
    assert reports[0].body == said(7)
    assert reports[0].sent_at_ns == 5


def test_an_ack_deletes_what_is_committed_and_what_is_committed_above(outbox: Outbox) -> None:
    for generation in range(1, 7):
        outbox.add(said(generation), 0)
    assert outbox.ack(ReportAck(boot=outbox.boot, committed=2, also=(4, 6))) == 4
    assert seqs(outbox) == [3, 5]


def test_an_ack_of_another_life_deletes_nothing_of_this_one(outbox: Outbox) -> None:
    outbox.add(said(1), 0)
    assert outbox.ack(ReportAck(boot="0" * 32, committed=9)) == 0
    assert seqs(outbox) == [1]


def test_an_earlier_life_s_reports_are_delivered_first_under_their_own_boot(database: sqlite3.Connection) -> None:
    old = Outbox(database, "one", "lab")
    old.add(said(1), 0)
    new = Outbox(database, "one", "lab")
    new.add(said(2), 0)
    assert [(pending.boot, pending.seq) for pending in new.pending(10)] == [(old.boot, 1), (new.boot, 1)]
    assert new.ack(ReportAck(boot=old.boot, committed=1)) == 1


def sent_at_ns(outbox: Outbox) -> list[int]:
    return [decode(Report, pending.body).sent_at_ns for pending in outbox.pending(100)]


def test_the_time_of_reports_keeps_rising_when_the_clock_is_set_back(outbox: Outbox) -> None:
    for now_ns in (50, 20, 20, 60):
        outbox.add(said(1), now_ns)
    assert sent_at_ns(outbox) == [50, 51, 52, 60]


def test_a_later_boot_is_later_than_every_report_of_the_earlier_ones_also_acknowledged_ones(
    database: sqlite3.Connection,
) -> None:
    first = Outbox(database, "one", "lab")
    first.add(said(1), 1_000)
    first.ack(ReportAck(boot=first.boot, committed=1))
    second = Outbox(database, "one", "lab")
    second.add(said(2), 5)
    assert sent_at_ns(second) == [1_001]


def test_a_clock_at_the_end_of_time_still_gives_reports_that_can_be_sent(outbox: Outbox) -> None:
    for _ in range(2):
        assert outbox.add(said(1), MAX_SENT_AT_NS)
    assert sent_at_ns(outbox) == [MAX_SENT_AT_NS] * 2


@pytest.mark.parametrize("kept", ["", "soon", "-5"])
def test_a_kept_time_that_is_none_is_as_good_as_no_kept_time(database: sqlite3.Connection, kept: str) -> None:
    database.execute("INSERT INTO kv (key, value) VALUES ('outbox_last_sent_at_ns', ?)", (kept,))
    outbox = Outbox(database, "one", "lab")
    outbox.add(said(1), 7)
    assert sent_at_ns(outbox) == [7]


def test_a_report_of_a_transaction_that_is_rolled_back_never_was(database: sqlite3.Connection, outbox: Outbox) -> None:
    def step_that_fails() -> None:
        with StateStore(database).transaction():
            outbox.add(said(1), 0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        step_that_fails()
    assert outbox.count == 0
    outbox.rewind(0)
    outbox.add(said(2), 0)
    assert seqs(outbox) == [1]


def test_a_full_outbox_replaces_a_models_unsent_transition_and_refuses_and_counts_the_rest(
    database: sqlite3.Connection,
) -> None:
    outbox = Outbox(database, "one", "lab", max_reports=2)
    assert outbox.add(said(1, "a"), 0)
    assert outbox.add(said(1, "b"), 0)
    assert outbox.add(said(2, "a"), 0)
    assert not outbox.add(said(1, "c"), 0)
    assert outbox.refused_n == 1
    bodies = [decode(Report, pending.body).body for pending in outbox.pending(9)]
    assert bodies == [said(2, "a"), said(1, "b")]
    outbox.mark_sent(outbox.pending(1)[0])
    assert not outbox.add(said(3, "a"), 0)
    outbox.ack(ReportAck(boot=outbox.boot, committed=1))
    assert outbox.add(said(3, "a"), 0)
    assert seqs(outbox) == [2, 3]


def test_evidence_too_large_for_a_message_leaves_out_the_figures_of_each_output(outbox: Outbox) -> None:
    output = OutputParity(name="x" * 500, n_samples=1, bit_exact=False, reason="y" * 2000)
    parity = ParityResult(verdict=ParityVerdict.FAIL, n_samples=1, outputs=(output,) * 200)
    digest = "sha256:" + "a" * 64
    evidence = Evidence(
        verdict=Verdict.FAILED,
        parity=parity,
        model="digits",
        variant="ort/cpu/fp32",
        artifact=digest,
        release=digest,
        generation=1,
        started_at_ns=0,
        duration_s=1,
    )
    outbox.add(EvidenceReport(evidence=evidence), 0)
    body = outbox.pending(1)[0].body
    assert len(body) < MAX_MESSAGE_BYTES
    report = decode(Report, body).body
    assert isinstance(report, EvidenceReport)
    assert report.evidence.parity == parity.model_copy(update={"outputs": ()})


class Wire:
    """Keeps what a sender publishes, under a clock that tests set."""

    def __init__(self, outbox: Outbox) -> None:
        self.now_s = 100.0
        self.sent: list[int] = []
        self.sender = Sender(outbox, self.publish, lambda: self.now_s)

    def publish(self, body: bytes) -> None:
        self.sent.append(decode(Report, body).seq)

    def take(self) -> list[int]:
        taken, self.sent = self.sent, []
        return taken


def test_nothing_is_sent_while_disconnected(outbox: Outbox) -> None:
    wire = Wire(outbox)
    outbox.add(said(1), 0)
    wire.sender.pump()
    assert wire.take() == []
    assert wire.sender.due_s() is None


def test_at_most_twenty_are_in_flight_and_acks_let_others_follow(outbox: Outbox) -> None:
    for generation in range(1, 31):
        outbox.add(said(generation), 0)
    wire = Wire(outbox)
    wire.sender.on_connected()
    assert wire.take() == list(range(1, IN_FLIGHT + 1))
    wire.sender.pump()
    assert wire.take() == []
    wire.sender.on_ack(ReportAck(boot=outbox.boot, committed=5))
    assert wire.take() == list(range(21, 26))


def test_what_is_not_acknowledged_is_sent_again_after_a_wait_and_at_once_after_a_reconnect(outbox: Outbox) -> None:
    outbox.add(said(1), 0)
    wire = Wire(outbox)
    wire.sender.on_connected()
    assert wire.sender.due_s() == 100.0 + RESEND_AFTER_S
    wire.now_s += RESEND_AFTER_S - 0.1
    wire.sender.pump()
    assert wire.take() == [1]
    wire.now_s += 0.1
    wire.sender.pump()
    assert wire.take() == [1]
    wire.sender.on_connected()
    assert wire.take() == [1]
