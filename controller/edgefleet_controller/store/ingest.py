"""Ingest: reports become rows exactly once, whatever the order and however often they come.

What is projected (a model's state, a device's profile) is computed again from the stored reports of the device, so it
depends on which reports are there and never on the order they came in. Reports of one device are ordered by
(generation, boot, number); boots by the earliest time any of their reports was sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, select, update

from edgefleet_contract.profile import Profile
from edgefleet_contract.report import EvidenceReport, ProfileReport, Report, ReportAck, Transition
from edgefleet_controller.store.concern import Concern
from edgefleet_controller.store.database import insert_into, upsert
from edgefleet_controller.store.flatten import evidence_columns
from edgefleet_controller.store.tables import boots, device_models, devices, evidence, reports

MAX_ALSO = 1024
"""What `ReportAck.also` holds."""

Key = tuple[str, str, int]
BootKey = tuple[str, str]


class Ingest(Concern):
    """Takes reports in, and says what is committed."""

    def ingest(self, batch: Sequence[Report], received_at_ns: int) -> int:
        """Commit reports in one transaction; those already there change nothing.

        Args:
            batch: any reports of any devices; up to 500 is the size measured best.
            received_at_ns: when they came, Unix time.

        Returns:
            How many were new.

        Raises:
            StoreError: nothing was committed.
        """
        if not batch:
            return 0
        with self._database.write() as connection:
            _ensure_boots(connection, batch)
            new = _insert_reports(connection, batch, received_at_ns)
            fresh = [report for report in _distinct(batch) if _key(report) in new]
            if fresh:
                _insert_evidence(connection, fresh, received_at_ns)
                _project(connection, fresh)
        return len(new)

    def committed(self, device: str, boot: str) -> ReportAck:
        """Return what is committed of one boot: what the device may forget."""
        with self._database.read() as connection:
            where = (boots.c.device == device) & (boots.c.boot == boot)
            upto = connection.scalar(select(boots.c.committed_seq).where(where)) or 0
            above = _numbers_above(device, boot, upto).limit(MAX_ALSO)
            return ReportAck(boot=boot, committed=upto, also=tuple(connection.scalars(above)))


def _key(report: Report) -> Key:
    return (report.device, report.boot, report.seq)


def _distinct(batch: Iterable[Report]) -> Iterable[Report]:
    """Return each report once; the first of a number counts, as in the table."""
    seen: dict[Key, Report] = {}
    for report in batch:
        seen.setdefault(_key(report), report)
    return seen.values()


def _ensure_boots(connection: Connection, batch: Sequence[Report]) -> None:
    sites = {report.device: report.site for report in batch}
    rows = [{"device": device, "site": site, **_UNSEEN} for device, site in sites.items()]
    connection.execute(insert_into(connection, devices).on_conflict_do_nothing(), rows)
    lives = {(report.device, report.boot) for report in batch}
    new = [{"device": device, "boot": boot, "committed_seq": 0} for device, boot in lives]
    connection.execute(insert_into(connection, boots).on_conflict_do_nothing(), new)


_UNSEEN = {"online": False, "reported_generation": 0}


def _insert_reports(connection: Connection, batch: Sequence[Report], received_at_ns: int) -> set[Key]:
    rows = [_report_row(report, received_at_ns) for report in _distinct(batch)]
    statement = insert_into(connection, reports).on_conflict_do_nothing()
    returned = connection.execute(statement.returning(reports.c.device, reports.c.boot, reports.c.seq), rows)
    return {(row.device, row.boot, row.seq) for row in returned}


def _report_row(report: Report, received_at_ns: int) -> dict[str, Any]:
    body = report.body
    about = body.evidence if isinstance(body, EvidenceReport) else body
    return {
        "device": report.device,
        "boot": report.boot,
        "seq": report.seq,
        "kind": body.kind,
        "model": None if isinstance(about, Profile | ProfileReport) else about.model,
        "generation": None if isinstance(about, Profile | ProfileReport) else about.generation,
        "sent_at_ns": report.sent_at_ns,
        "received_at_ns": received_at_ns,
        "body": None if isinstance(body, EvidenceReport) else body.model_dump(mode="json"),
    }


def _insert_evidence(connection: Connection, fresh: Sequence[Report], received_at_ns: int) -> None:
    rows = [
        {
            "device": report.device,
            "boot": report.boot,
            "seq": report.seq,
            "received_at_ns": received_at_ns,
            **evidence_columns(report.body.evidence),
        }
        for report in fresh
        if isinstance(report.body, EvidenceReport)
    ]
    if rows:
        connection.execute(evidence.insert(), rows)


def _project(connection: Connection, fresh: Sequence[Report]) -> None:
    reordered = _advance_boots(connection, fresh)
    models = {(report.device, report.body.model) for report in fresh if isinstance(report.body, Transition)}
    models |= _reported_models(connection, reordered)
    for device, model in models:
        _project_model(connection, device, model)
    for device in {report.device for report in fresh if isinstance(report.body, ProfileReport)} | reordered:
        _project_profile(connection, device)


def _advance_boots(connection: Connection, fresh: Sequence[Report]) -> set[str]:
    """Bring each boot's earliest time and committed number up to date; return devices whose boots changed order."""
    first: dict[BootKey, int] = {}
    for report in fresh:
        life = (report.device, report.boot)
        first[life] = min(first.get(life, report.sent_at_ns), report.sent_at_ns)
    return {device for (device, boot), at_ns in first.items() if _advance_boot(connection, device, boot, at_ns)}


def _advance_boot(connection: Connection, device: str, boot: str, first_sent_at_ns: int) -> bool:
    where = (boots.c.device == device) & (boots.c.boot == boot)
    known = connection.execute(select(boots.c.first_sent_at_ns, boots.c.committed_seq).where(where)).one()
    earlier = known.first_sent_at_ns is None or first_sent_at_ns < known.first_sent_at_ns
    values = {
        "first_sent_at_ns": first_sent_at_ns if earlier else known.first_sent_at_ns,
        "committed_seq": _contiguous(connection, device, boot, known.committed_seq),
    }
    connection.execute(update(boots).where(where).values(values))
    return earlier


def _contiguous(connection: Connection, device: str, boot: str, upto: int) -> int:
    for seq in connection.scalars(_numbers_above(device, boot, upto)):
        if seq != upto + 1:
            break
        upto = seq
    return upto


def _numbers_above(device: str, boot: str, seq: int) -> Select[int]:
    place = (reports.c.device == device) & (reports.c.boot == boot) & (reports.c.seq > seq)
    return select(reports.c.seq).where(place).order_by(reports.c.seq)


def _reported_models(connection: Connection, names: Collection[str]) -> set[tuple[str, str]]:
    if not names:
        return set()
    where = reports.c.device.in_(names) & (reports.c.kind == "transition")
    rows = connection.execute(select(reports.c.device, reports.c.model).where(where).distinct())
    return {(row.device, row.model) for row in rows}


def _newest_report(connection: Connection, device: str, kind: str, model: str | None) -> Row[Any, int] | None:
    order = (
        reports.c.generation.desc(),
        boots.c.first_sent_at_ns.desc(),
        reports.c.boot.desc(),
        reports.c.seq.desc(),
    )
    where = (reports.c.device == device) & (reports.c.kind == kind)
    if model is not None:
        where &= reports.c.model == model
    joined = reports.join(boots, (boots.c.device == reports.c.device) & (boots.c.boot == reports.c.boot))
    chosen = select(reports.c.body, reports.c.sent_at_ns).select_from(joined).where(where).order_by(*order).limit(1)
    return connection.execute(chosen).one_or_none()


def _project_model(connection: Connection, device: str, model: str) -> None:
    newest = _newest_report(connection, device, "transition", model)
    if newest is None:
        return
    transition = Transition.model_validate(newest.body)
    row = {
        "device": device,
        "model": model,
        "state": transition.state.value,
        "variant": transition.variant,
        "artifact": transition.artifact,
        "release": transition.release,
        "generation": transition.generation,
        "tried": [tried.model_dump(mode="json") for tried in transition.tried],
        "reason": transition.reason,
        "updated_at_ns": newest.sent_at_ns,
    }
    upsert(connection, device_models, row)


def _project_profile(connection: Connection, device: str) -> None:
    newest = _newest_report(connection, device, "profile", None)
    if newest is None:
        return
    profile = ProfileReport.model_validate(newest.body).profile
    values = {
        "site": profile.site,
        "profile": profile.model_dump(mode="json"),
        "profile_digest": profile.digest,
        "agent_version": profile.agent_version,
        "arch": profile.arch,
        "os": profile.os,
        "cpu_model": profile.cpu_model,
        "cpu_count": profile.cpu_count,
        "memory_bytes": profile.memory_bytes,
    }
    connection.execute(update(devices).where(devices.c.device == device).values(values))
