"""Ingest: reports become rows exactly once, whatever the order and however often they come.

What is projected (a model's state, a device's profile) is computed again from the stored reports of the device, so it
depends on which reports are there and never on the order they came in. Reports of one device are ordered by
(generation, boot, number); boots by the earliest time any of their reports was sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

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
            life = {"device": device, "boot": boot}
            known = connection.execute(_BOOT, life).one_or_none()
            upto = known.committed_seq if known else 0
            above = connection.scalars(_NUMBERS_ABOVE.limit(MAX_ALSO), {**life, "above": upto})
            return ReportAck(boot=boot, committed=upto, also=tuple(above))


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
    states = [_model_row(connection, device, model) for device, model in sorted(models)]
    upsert(connection, device_models, states)
    for device in {report.device for report in fresh if isinstance(report.body, ProfileReport)} | reordered:
        _project_profile(connection, device)


_BOOT = select(boots.c.first_sent_at_ns, boots.c.committed_seq).where(
    (boots.c.device == bindparam("device")) & (boots.c.boot == bindparam("boot"))
)
_NUMBERS_ABOVE = (
    select(reports.c.seq)
    .where(
        (reports.c.device == bindparam("device"))
        & (reports.c.boot == bindparam("boot"))
        & (reports.c.seq > bindparam("above"))
    )
    .order_by(reports.c.seq)
)


def _advance_boots(connection: Connection, fresh: Sequence[Report]) -> set[str]:
    """Bring each boot's earliest time and committed number up to date; return devices whose boots changed order."""
    first: dict[BootKey, int] = {}
    for report in fresh:
        life = (report.device, report.boot)
        first[life] = min(first.get(life, report.sent_at_ns), report.sent_at_ns)
    reordered: set[str] = set()
    rows = []
    for (device, boot), sent_at_ns in sorted(first.items()):
        known = connection.execute(_BOOT, {"device": device, "boot": boot}).one()
        earlier = known.first_sent_at_ns is None or sent_at_ns < known.first_sent_at_ns
        if earlier:
            reordered.add(device)
        upto = _contiguous(connection, device, boot, known.committed_seq)
        first_ns = sent_at_ns if earlier else known.first_sent_at_ns
        rows.append({"device": device, "boot": boot, "first_sent_at_ns": first_ns, "committed_seq": upto})
    upsert(connection, boots, rows)
    return reordered


def _contiguous(connection: Connection, device: str, boot: str, upto: int) -> int:
    for seq in connection.scalars(_NUMBERS_ABOVE, {"device": device, "boot": boot, "above": upto}):
        if seq != upto + 1:
            break
        upto = seq
    return upto


def _reported_models(connection: Connection, names: Collection[str]) -> set[tuple[str, str]]:
    if not names:
        return set()
    where = reports.c.device.in_(names) & (reports.c.kind == "transition")
    rows = connection.execute(select(reports.c.device, reports.c.model).where(where).distinct())
    return {(row.device, row.model) for row in rows}


_OF_BOOT = (boots.c.device == reports.c.device) & (boots.c.boot == reports.c.boot)

# Built once: at thousands of rows a second, building a statement costs more than running it.
_NEWEST = (
    select(reports.c.body, reports.c.sent_at_ns)
    .select_from(reports.join(boots, _OF_BOOT))
    .where((reports.c.device == bindparam("device")) & (reports.c.kind == bindparam("kind")))
    .order_by(reports.c.generation.desc(), boots.c.first_sent_at_ns.desc(), reports.c.boot.desc(), reports.c.seq.desc())
    .limit(1)
)
_NEWEST_OF_MODEL = _NEWEST.where(reports.c.model == bindparam("model"))


def _model_row(connection: Connection, device: str, model: str) -> dict[str, Any]:
    place = {"device": device, "kind": "transition", "model": model}
    newest = connection.execute(_NEWEST_OF_MODEL, place).one()
    transition = Transition.model_validate(newest.body)
    return {
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


def _project_profile(connection: Connection, device: str) -> None:
    newest = connection.execute(_NEWEST, {"device": device, "kind": "profile"}).one_or_none()
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
