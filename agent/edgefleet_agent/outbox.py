"""The outbox: reports wait in SQLite until the controller says it has committed them.

A report's identity is (device, boot, seq): `boot` is new at each start of the agent, `seq` counts from 1 without gaps.
What an earlier life left behind is still delivered, first.

The store orders a device's boots by `sent_at_ns`, so it keeps rising over boots and over clocks that are set back.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from edgefleet_contract.errors import WireError
from edgefleet_contract.evidence import Evidence, ParityResult
from edgefleet_contract.report import EvidenceReport, Report, ReportAck, ReportBody, Transition
from edgefleet_contract.wire import encode

log = logging.getLogger(__name__)

MAX_REPORTS = 10_000
"""About 20 MB of evidence; a device that far behind has been offline through thousands of changes."""
IN_FLIGHT = 20
"""Reports sent and not acknowledged; the sum over devices stays below a broker's queue (1,000 in mosquitto)."""
RESEND_AFTER_S = 5.0
MAX_SENT_AT_NS = 2**63 - 1
"""The largest `sent_at_ns` a report can hold."""
_LAST_SENT_AT = "outbox_last_sent_at_ns"
"""Key in the agent's `kv` table: the highest `sent_at_ns` of any boot, also of reports deleted since."""


@dataclass(frozen=True)
class Pending:
    """One report that waits: its identity within this device, and its bytes."""

    boot: str
    seq: int
    body: bytes


class Outbox:
    """Reports of this and earlier lives of the agent, in one table.

    Args:
        connection: the agent's database, in autocommit mode; additions join a transaction that is open.
        device: the device's name.
        site: the site's name.
        max_reports: when this many wait, see `add`.
    """

    def __init__(
        self, connection: sqlite3.Connection, device: str, site: str, *, max_reports: int = MAX_REPORTS
    ) -> None:
        self._connection = connection
        self._names = (device, site)
        self._max_reports = max_reports
        self.boot = uuid.uuid4().hex
        last = connection.execute("SELECT max(life) FROM report").fetchone()[0]
        self._life = 1 + int(last or 0)
        kept = connection.execute("SELECT value FROM kv WHERE key = ?", (_LAST_SENT_AT,)).fetchone()
        self._last_sent_at_ns = int(kept[0]) if kept is not None and str(kept[0]).isdigit() else -1
        self.last_seq = 0
        """The number of the last report added in this life."""
        self.refused_n = 0
        """Reports that found the outbox full; each was logged."""

    @property
    def count(self) -> int:
        """Return how many reports wait."""
        return int(self._connection.execute("SELECT count(*) FROM report").fetchone()[0])

    def add(self, body: ReportBody, now_ns: int) -> bool:
        """Keep a report until it is acknowledged.

        When full, a transition takes the place of the same model's last one of this life that was not yet sent; any
        other report is refused, counted and logged.
        """
        full = self.count >= self._max_reports
        seq = self._replaceable(body) if full else self.last_seq + 1
        if seq is None:
            self.refused_n += 1
            log.error("outbox is full (%d reports); a report of kind %s was not kept", self._max_reports, body.kind)
            return False
        # Kept at once in memory: after a rollback the numbers may have a hole, but never fall.
        self._last_sent_at_ns = min(MAX_SENT_AT_NS, max(now_ns, self._last_sent_at_ns + 1))
        data = self._encode(body, seq, self._last_sent_at_ns)
        self._connection.execute(
            "INSERT OR REPLACE INTO kv (key, value) VALUES (?, ?)", (_LAST_SENT_AT, str(self._last_sent_at_ns))
        )
        model = body.model if isinstance(body, Transition) else None
        self._connection.execute(
            "INSERT OR REPLACE INTO report (life, seq, boot, model, body) VALUES (?, ?, ?, ?, ?)",
            (self._life, seq, self.boot, model, data),
        )
        self.last_seq = max(self.last_seq, seq)
        return True

    def rewind(self, last_seq: int) -> None:
        """Give the numbers above `last_seq` back, after a transaction that added their reports was rolled back."""
        self.last_seq = last_seq

    def _replaceable(self, body: ReportBody) -> int | None:
        if not isinstance(body, Transition):
            return None
        query = "SELECT max(seq) FROM report WHERE life = ? AND model = ? AND sent_n = 0"
        row = self._connection.execute(query, (self._life, body.model)).fetchone()
        return None if row[0] is None else int(row[0])

    def _encode(self, body: ReportBody, seq: int, sent_at_ns: int) -> bytes:
        device, site = self._names
        report = Report(device=device, site=site, boot=self.boot, seq=seq, sent_at_ns=sent_at_ns, body=body)
        try:
            return encode(report)
        except WireError as error:
            log.warning("report %d is shortened: %s", seq, error)
            return encode(report.model_copy(update={"body": shortened(body)}))

    def pending(self, limit: int) -> tuple[Pending, ...]:
        """Return the first reports that wait, oldest life first, in order."""
        query = "SELECT boot, seq, body FROM report ORDER BY life, seq LIMIT ?"
        return tuple(Pending(*row) for row in self._connection.execute(query, (limit,)))

    def mark_sent(self, pending: Pending) -> None:
        """Note that a report has left at least once, so it is not replaced any more."""
        query = "UPDATE report SET sent_n = 1 WHERE boot = ? AND seq = ? AND sent_n = 0 AND life = ?"
        if pending.boot == self.boot:
            # On a full disk the mark is lost, which only matters to a full outbox; sending must go on to empty both.
            with contextlib.suppress(sqlite3.OperationalError):
                self._connection.execute(query, (pending.boot, pending.seq, self._life))

    def ack(self, ack: ReportAck) -> int:
        """Delete what the controller has committed; return how many reports that were."""
        query = "DELETE FROM report WHERE boot = ? AND seq <= ?"
        deleted_n = self._connection.execute(query, (ack.boot, ack.committed)).rowcount
        for seq in ack.also:
            query = "DELETE FROM report WHERE boot = ? AND seq = ?"
            deleted_n += self._connection.execute(query, (ack.boot, seq)).rowcount
        return deleted_n


def shortened(body: ReportBody) -> ReportBody:
    """Return a report without per-output parity figures: the part that can outgrow a message."""
    if not isinstance(body, EvidenceReport):
        return body
    evidence: Evidence = body.evidence
    update = {"parity": _without_outputs(evidence.parity), "device_parity": _without_outputs(evidence.device_parity)}
    return EvidenceReport(evidence=evidence.model_copy(update=update))


def _without_outputs(parity: ParityResult | None) -> ParityResult | None:
    return None if parity is None else parity.model_copy(update={"outputs": ()})


class Sender:
    """Decides which reports to send now: at most `IN_FLIGHT` unacknowledged, each again after a wait.

    Args:
        outbox: where the reports wait.
        publish: sends one report's bytes; called only while connected.
        clock_s: monotonic time in seconds.
    """

    def __init__(self, outbox: Outbox, publish: Callable[[bytes], None], clock_s: Callable[[], float]) -> None:
        self._outbox = outbox
        self._publish = publish
        self._clock_s = clock_s
        self._sent_at_s: dict[tuple[str, int], float] = {}
        self.connected = False

    def on_connected(self) -> None:
        """Send everything unacknowledged again: what was in flight may be lost."""
        self.connected = True
        self._sent_at_s.clear()
        self.pump()

    def on_ack(self, ack: ReportAck) -> None:
        """Delete what is committed and send what waits behind it."""
        self._outbox.ack(ack)
        also = set(ack.also)
        for boot, seq in list(self._sent_at_s):
            if boot == ack.boot and (seq <= ack.committed or seq in also):
                del self._sent_at_s[boot, seq]
        self.pump()

    def pump(self) -> None:
        """Send what is due now."""
        if not self.connected:
            return
        now_s = self._clock_s()
        for pending in self._outbox.pending(IN_FLIGHT):
            sent_at_s = self._sent_at_s.get((pending.boot, pending.seq))
            if sent_at_s is not None and now_s < sent_at_s + RESEND_AFTER_S:
                continue
            self._outbox.mark_sent(pending)
            self._sent_at_s[pending.boot, pending.seq] = now_s
            self._publish(pending.body)

    def due_s(self) -> float | None:
        """Return when the next resend is due on the clock, or None while nothing is in flight."""
        if not self.connected or not self._sent_at_s:
            return None
        return min(self._sent_at_s.values()) + RESEND_AFTER_S
