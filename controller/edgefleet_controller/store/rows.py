"""Rows for people and scripts: each model on each device, with the evidence that belongs to its state."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Row, Select, func, select

from edgefleet_contract.evidence import Evidence
from edgefleet_contract.report import DeviceState, Tried
from edgefleet_controller.api import DeviceModelRow, DeviceRow, EvidenceQuery, EvidenceRow
from edgefleet_controller.store.devices import Devices
from edgefleet_controller.store.tables import boots, desired_models, device_models, evidence

Place = tuple[str, str]
"""Device and model."""


class Rows(Devices):
    """Devices, models and evidence, joined."""

    def device_rows(
        self,
        *,
        devices: Collection[str] | None = None,
        models: Collection[str] | None = None,
        extra_tried: Mapping[Place, tuple[Tried, ...]] | None = None,
    ) -> tuple[DeviceModelRow, ...]:
        """Return a row for each model of each device's newest desired state, by device and model.

        What a device says of another release than the wished one does not count: such a model is `pending`.

        Args:
            devices: only these; None for all.
            models: only these; None for all.
            extra_tried: variants that fell out before the device saw them; they come before what it tried itself.
        """
        chosen = _states()
        if devices is not None:
            chosen = chosen.where(desired_models.c.device.in_(devices))
        if models is not None:
            chosen = chosen.where(desired_models.c.model.in_(models))
        with self._database.read() as connection:
            states = connection.execute(chosen).all()
            proofs = {(row.device, row.model): row for row in connection.execute(_proofs())}
        extra = extra_tried or {}
        return tuple(_model_row(row, _body(row, proofs), extra.get((row.device, row.model), ())) for row in states)

    def devices(self) -> tuple[DeviceRow, ...]:
        """Return every device with its models, by name."""
        models: dict[str, list[DeviceModelRow]] = {}
        for row in self.device_rows():
            models.setdefault(row.device, []).append(row)
        return tuple(
            DeviceRow(**record._asdict(), models=tuple(models.get(record.device, ())))
            for record in self.device_records()
        )

    def device(self, name: str) -> DeviceRow | None:
        """Return one device with its models, or None."""
        for record in self.device_records():
            if record.device == name:
                return DeviceRow(**record._asdict(), models=self.device_rows(devices=[name]))
        return None

    def evidence(self, query: EvidenceQuery) -> tuple[EvidenceRow, ...]:
        """Return evidence by arrival, newest first."""
        order = (evidence.c.received_at_ns.desc(), evidence.c.started_at_ns.desc(), evidence.c.seq.desc())
        chosen = select(evidence.c.device, evidence.c.received_at_ns, evidence.c.body).order_by(*order)
        if query.device is not None:
            chosen = chosen.where(evidence.c.device == query.device)
        if query.model is not None:
            chosen = chosen.where(evidence.c.model == query.model)
        with self._database.read() as connection:
            rows = connection.execute(chosen.limit(query.limit)).all()
        return tuple(
            EvidenceRow(
                device=row.device, received_at_ns=row.received_at_ns, evidence=Evidence.model_validate(row.body)
            )
            for row in rows
        )


def _states() -> Select[Any]:
    """Select each wished model with what its device says of the wished release."""
    same = (
        (device_models.c.device == desired_models.c.device)
        & (device_models.c.model == desired_models.c.model)
        & (device_models.c.release == desired_models.c.release)
    )
    said = (device_models.c.state, device_models.c.variant, device_models.c.artifact)
    return (
        select(desired_models.c.device, desired_models.c.model, *said, device_models.c.tried, device_models.c.reason)
        .select_from(desired_models.outerjoin(device_models, same))
        .order_by(desired_models.c.device, desired_models.c.model)
    )


def _proofs() -> Select[Any]:
    """Select, for each wished model, the newest evidence that belongs to its state.

    Active: of the active artifact under the wished release. Refused: the last that was tried under it.
    """
    newest = (evidence.c.generation.desc(), boots.c.first_sent_at_ns.desc(), evidence.c.boot.desc())
    place = func.row_number().over(
        partition_by=(evidence.c.device, evidence.c.model), order_by=(*newest, evidence.c.seq.desc())
    )
    same = (evidence.c.device == device_models.c.device) & (evidence.c.model == device_models.c.model)
    same &= evidence.c.release == device_models.c.release
    proves = (device_models.c.state == DeviceState.ACTIVE.value) & (evidence.c.artifact == device_models.c.artifact)
    proves |= device_models.c.state == DeviceState.REFUSED.value
    boot = (boots.c.device == evidence.c.device) & (boots.c.boot == evidence.c.boot)
    ranked = (
        select(evidence.c.device, evidence.c.model, evidence.c.body, place.label("place"))
        .select_from(device_models.join(evidence, same & proves).join(boots, boot))
        .subquery()
    )
    return select(ranked.c.device, ranked.c.model, ranked.c.body).where(ranked.c.place == 1)


def _body(row: Row[Any], proofs: Mapping[Place, Row[Any]]) -> Evidence | None:
    proof = proofs.get((row.device, row.model))
    return None if proof is None or row.state is None else Evidence.model_validate(proof.body)


def _model_row(row: Row[Any], proof: Evidence | None, extra: tuple[Tried, ...]) -> DeviceModelRow:
    own = tuple(Tried.model_validate(tried) for tried in row.tried or ())
    return DeviceModelRow(
        device=row.device,
        model=row.model,
        state=DeviceState(row.state or DeviceState.PENDING.value),
        variant=row.variant,
        artifact=row.artifact,
        tried=(*extra, *own),
        reason=row.reason,
        parity=proof.parity if proof else None,
        latency=proof.latency if proof else None,
        memory=proof.memory if proof else None,
        energy=proof.energy if proof else None,
        placement=proof.placement if proof else None,
        evidence=proof.level if proof else None,
    )
