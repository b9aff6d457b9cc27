"""Desired states: every generation of each device, and the models of the newest one row each."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, func, select

from edgefleet_contract.desired import DesiredModel, DesiredState
from edgefleet_contract.errors import InternalError
from edgefleet_controller.store.concern import Concern
from edgefleet_controller.store.database import insert_into
from edgefleet_controller.store.tables import desired, desired_models, releases


class Wishes(Concern):
    """What the controller wants of each device."""

    def desired(self, device: str) -> DesiredState | None:
        """Return a device's newest desired state, or None."""
        chosen = (
            select(desired.c.document).where(desired.c.device == device).order_by(desired.c.generation.desc()).limit(1)
        )
        with self._database.read() as connection:
            document = connection.scalar(chosen)
        return None if document is None else DesiredState.model_validate(document)

    def all_desired(self) -> tuple[DesiredState, ...]:
        """Return the newest desired state of every device that has one, by device."""
        newest = select(desired.c.device, func.max(desired.c.generation).label("generation"))
        latest = newest.group_by(desired.c.device).subquery()
        same = (desired.c.device == latest.c.device) & (desired.c.generation == latest.c.generation)
        chosen = select(desired.c.document).join(latest, same).order_by(desired.c.device)
        with self._database.read() as connection:
            return tuple(DesiredState.model_validate(document) for document in connection.scalars(chosen))

    def put_desired(self, state: DesiredState) -> None:
        """Store a device's next desired state. Its revision and its device must be known.

        Raises:
            InternalError: its generation is not above the newest one's.
        """
        with self._database.write() as connection:
            insert_desired(connection, state)


def insert_desired(connection: Connection, state: DesiredState) -> None:
    """Store a desired state on an open transaction. Raises as `Wishes.put_desired`."""
    newest = connection.scalar(select(func.max(desired.c.generation)).where(desired.c.device == state.device)) or 0
    if state.generation <= newest:
        msg = f"generation {state.generation} for {state.device} is not above {newest}"
        raise InternalError(msg)
    row = {
        "device": state.device,
        "generation": state.generation,
        "revision": state.revision,
        "document": state.model_dump(mode="json"),
        "issued_at_ns": state.issued_at_ns,
    }
    connection.execute(desired.insert().values(row))
    _replace_models(connection, state)


def _replace_models(connection: Connection, state: DesiredState) -> None:
    connection.execute(delete(desired_models).where(desired_models.c.device == state.device))
    for wish in state.models:
        release = {
            "digest": wish.release,
            "model": wish.model,
            "document": wish.model_dump(mode="json"),
            "created_at_ns": state.issued_at_ns,
        }
        connection.execute(insert_into(connection, releases).values(release).on_conflict_do_nothing())
        connection.execute(desired_models.insert().values(_model_row(state, wish)))


def _model_row(state: DesiredState, wish: DesiredModel) -> dict[str, Any]:
    latency = wish.accept.latency
    return {
        "device": state.device,
        "model": wish.model,
        "release": wish.release,
        "generation": state.generation,
        "issued_at_ns": state.issued_at_ns,
        "choose": wish.choose.value,
        "first_variant": wish.chain[0].variant,
        "limit_p50_ms": latency.p50_ms,
        "limit_p95_ms": latency.p95_ms,
        "limit_p99_ms": latency.p99_ms,
        "limit_peak_bytes": wish.accept.memory.peak_bytes,
        "limit_per_inference_mj": wish.accept.energy.per_inference_mj,
        "limit_scenario": latency.scenario.value,
        "limit_if_unmeasured": wish.accept.energy.if_unmeasured.value,
    }
