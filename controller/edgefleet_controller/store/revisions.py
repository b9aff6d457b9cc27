"""Revisions and what happens during each: one row an apply, one row each thing that moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Update, delete, func, select, update

from edgefleet_contract.base import clip_reason, digest_bytes
from edgefleet_contract.desired import DesiredState
from edgefleet_contract.errors import InternalError
from edgefleet_contract.manifest import Manifest
from edgefleet_controller.api import Phase, ProgressEvent, Stage, Unit
from edgefleet_controller.store.concern import Concern
from edgefleet_controller.store.database import insert_into
from edgefleet_controller.store.records import RevisionRecord
from edgefleet_controller.store.tables import events, revisions
from edgefleet_controller.store.wishes import insert_desired

MAX_EVENTS = 10_000
"""Per revision; the oldest go first. One event a moving thing: enough for thousands of devices."""


class Revisions(Concern):
    """Applies and their progress."""

    def create_revision(self, manifest: Manifest, plan: dict[str, Any], at_ns: int, changed: bool) -> int:
        """Store a new apply in phase `pending`; return its number, one above the newest.

        Args:
            manifest: what was asked.
            plan: JSON to keep with it.
            at_ns: when, Unix time.
            changed: whether there is something to do.
        """
        row = {
            "created_at_ns": at_ns,
            "manifest": manifest.model_dump(mode="json"),
            "manifest_digest": digest_bytes(manifest.canonical_json()),
            "phase": Phase.PENDING.value,
            "changed": changed,
            "plan": plan,
        }
        with self._database.write() as connection:
            newest = connection.scalar(select(func.max(revisions.c.revision))) or 0
            connection.execute(revisions.insert().values(revision=newest + 1, **row))
            return newest + 1

    def revision(self, number: int | None) -> RevisionRecord | None:
        """Return a revision, or the newest (None); None when there is none."""
        chosen = select(revisions).order_by(revisions.c.revision.desc()).limit(1)
        if number is not None:
            chosen = chosen.where(revisions.c.revision == number)
        with self._database.read() as connection:
            row = connection.execute(chosen).one_or_none()
        return None if row is None else _record(row)

    def unfinished_revisions(self) -> tuple[RevisionRecord, ...]:
        """Return the revisions whose phase is not final, oldest first."""
        final = [phase.value for phase in Phase if phase.final]
        chosen = select(revisions).where(revisions.c.phase.not_in(final)).order_by(revisions.c.revision)
        with self._database.read() as connection:
            return tuple(_record(row) for row in connection.execute(chosen))

    def set_phase(
        self, revision: int, phase: Phase, *, reason: str | None = None, exit_code: int | None = None
    ) -> None:
        """Set how far a revision has come, with the reason (cut to what a `Reason` holds) and exit code of that phase.

        Raises:
            InternalError: no such revision.
        """
        told = None if reason is None else clip_reason(reason)
        values = {"phase": phase.value, "reason": told, "exit_code": exit_code}
        with self._database.write() as connection:
            _update_one(connection, revision, _by_number(revision).values(values))

    def put_wishes(self, revision: int, states: Sequence[DesiredState], plan: dict[str, Any]) -> None:
        """Store what a revision wants of each device, with its plan, and turn it to `rolling-out`: all, or nothing.

        Raises:
            InternalError: no such revision, a device the store does not know, or a generation not above the newest.
        """
        values = {"plan": plan, "phase": Phase.ROLLING_OUT.value}
        with self._database.write() as connection:
            _update_one(connection, revision, _by_number(revision).values(values))
            for state in states:
                insert_desired(connection, state)

    def add_event(
        self,
        revision: int,
        stage: Stage,
        key: str,
        text: str,
        *,
        at_ns: int,
        done: float | None = None,
        total: float | None = None,
        unit: Unit | None = None,
    ) -> None:
        """Write an event under a new id; it replaces the one with the same stage and key."""
        row = {"at_ns": at_ns, "text": text, "done": done, "total": total, "unit": unit}
        with self._database.write(durable=False) as connection:
            newest = connection.scalar(select(func.max(events.c.id)).where(events.c.revision == revision)) or 0
            row["id"] = newest + 1
            place = {"revision": revision, "stage": stage, "key": key}
            statement = insert_into(connection, events).values(**place, **row)
            connection.execute(statement.on_conflict_do_update(index_elements=list(place), set_=row))
            _forget_oldest(connection, revision)

    def events_after(self, revision: int, after_id: int) -> tuple[ProgressEvent, ...]:
        """Return the events of a revision with an id above `after_id`, in the order they happened."""
        where = (events.c.revision == revision) & (events.c.id > after_id)
        with self._database.read() as connection:
            rows = connection.execute(select(events).where(where).order_by(events.c.id))
            return tuple(_event(row) for row in rows)


def _by_number(revision: int) -> Update:
    return update(revisions).where(revisions.c.revision == revision)


def _update_one(connection: Connection, revision: int, statement: Update) -> None:
    if connection.execute(statement).rowcount != 1:
        msg = f"there is no revision {revision} to update"
        raise InternalError(msg)


def _forget_oldest(connection: Connection, revision: int) -> None:
    mine = events.c.revision == revision
    oldest = select(events.c.id).where(mine).order_by(events.c.id.desc()).offset(MAX_EVENTS).limit(1)
    connection.execute(delete(events).where(mine & (events.c.id <= oldest.scalar_subquery())))


def _record(row: Row[Any]) -> RevisionRecord:
    return RevisionRecord(
        revision=row.revision,
        created_at_ns=row.created_at_ns,
        manifest=Manifest.model_validate(row.manifest),
        manifest_digest=row.manifest_digest,
        phase=Phase(row.phase),
        exit_code=row.exit_code,
        changed=row.changed,
        reason=row.reason,
        plan=row.plan,
    )


def _event(row: Row[Any]) -> ProgressEvent:
    return ProgressEvent(
        id=row.id,
        at_ns=row.at_ns,
        stage=row.stage,
        key=row.key,
        text=row.text,
        done=row.done,
        total=row.total,
        unit=row.unit,
    )
