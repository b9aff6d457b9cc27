"""Devices: who is there, since when, what each is, and the labels an operator gave it."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, func, select, update

from edgefleet_contract.errors import UserInputError
from edgefleet_contract.profile import Profile, merged_labels
from edgefleet_contract.report import Heartbeat, Presence
from edgefleet_controller.store.concern import Concern
from edgefleet_controller.store.database import insert_into, upsert
from edgefleet_controller.store.tables import boots, desired, device_labels, devices


class Standing(NamedTuple):
    """Which life of a device is believed to be the current one."""

    boot: str | None
    connection: int
    online: bool


class DeviceRecord(NamedTuple):
    """A device's row, with its labels merged into its profile."""

    device: str
    site: str
    online: bool
    last_seen_ns: int | None
    desired_generation: int
    reported_generation: int
    profile: Profile | None


def overrides(presence: Presence, now: Standing, *, was_current: bool) -> bool:
    """Tell whether a presence message is newer than what is known. Pure.

    A broker delivers last wills late: the will of an earlier connection, or of an earlier boot, may come after the
    device is back. Within a boot the connection counts up. Between boots, one that was current before is over; an
    unknown one takes over when it says it is online, or when nothing else is.

    Args:
        presence: what came.
        now: what is known.
        was_current: whether the message's boot was seen online before.
    """
    if now.boot is None:
        return True
    if presence.boot == now.boot:
        return presence.connection >= now.connection
    return not was_current and (presence.online or not now.online)


class Devices(Concern):
    """Presence, heartbeats, profiles and labels."""

    def presence(self, presence: Presence, at_ns: int) -> bool:
        """Take a presence message or a last will; return whether it changed what is known (an old will does not)."""
        with self._database.write(durable=False) as connection:
            _ensure_device(connection, presence.device, presence.site)
            now = _standing(connection, presence.device)
            was_current = _was_online(connection, presence.device, presence.boot)
            if not overrides(presence, now, was_current=was_current):
                return False
            _take_over(connection, presence, at_ns)
            return True

    def heartbeat(self, site: str, device: str, heartbeat: Heartbeat, at_ns: int) -> bool:
        """Take a heartbeat; return False when it is from a boot that is over."""
        with self._database.write(durable=False) as connection:
            _ensure_device(connection, device, site)
            now = _standing(connection, device)
            if now.boot not in {None, heartbeat.boot} and _was_online(connection, device, heartbeat.boot):
                return False
            same = now.boot == heartbeat.boot
            values = {
                "online": True,
                "last_seen_ns": at_ns,
                "boot": heartbeat.boot,
                "connection": now.connection if same else 0,
                "reported_generation": heartbeat.generation,
                "outbox_n": heartbeat.outbox_n,
            }
            connection.execute(update(devices).where(devices.c.device == device).values(values))
            _mark_online(connection, device, heartbeat.boot, at_ns)
            return True

    def label(self, device: str, key: str, value: str | None) -> None:
        """Give a device a label, or take it away (None).

        Raises:
            UserInputError: no such device.
        """
        with self._database.write() as connection:
            if connection.scalar(select(devices.c.device).where(devices.c.device == device)) is None:
                raise _unknown(connection, device)
            if value is None:
                where = (device_labels.c.device == device) & (device_labels.c.key == key)
                connection.execute(delete(device_labels).where(where))
            else:
                upsert(connection, device_labels, [{"device": device, "key": key, "value": value}])

    def labels(self) -> dict[str, dict[str, str]]:
        """Return the labels operators gave, by device; devices without are left out."""
        with self._database.read() as connection:
            return _labels(connection)

    def device_records(self) -> tuple[DeviceRecord, ...]:
        """Return every device, by name, without its models: one query, cheap."""
        with self._database.read() as connection:
            given = _labels(connection)
            return tuple(_record(row, given.get(row.device, {})) for row in connection.execute(_DEVICES))

    def reported_generations(self) -> dict[str, int]:
        """Return the generation each device says it has taken over."""
        with self._database.read() as connection:
            rows = connection.execute(select(devices.c.device, devices.c.reported_generation))
            return {row.device: row.reported_generation for row in rows}

    def device_profiles(self) -> dict[str, Profile]:
        """Return the profiles of all devices that sent one, with the operator's labels laid over their own."""
        return {record.device: record.profile for record in self.device_records() if record.profile is not None}

    def device_profile(self, device: str) -> Profile | None:
        """Return one device's profile, with the operator's labels, or None."""
        return self.device_profiles().get(device)


_DEVICES = select(
    devices,
    func.coalesce(
        select(func.max(desired.c.generation)).where(desired.c.device == devices.c.device).scalar_subquery(), 0
    ).label("desired_generation"),
).order_by(devices.c.device)


def _record(row: Row[Any], given: dict[str, str]) -> DeviceRecord:
    return DeviceRecord(
        device=row.device,
        site=row.site,
        online=row.online,
        last_seen_ns=row.last_seen_ns,
        desired_generation=row.desired_generation,
        reported_generation=row.reported_generation,
        profile=_profile(row.profile, given),
    )


def _profile(stored: dict[str, Any] | None, given: dict[str, str]) -> Profile | None:
    if stored is None:
        return None
    labels = merged_labels(stored.get("labels", {}), given.items())
    return Profile.model_validate({**stored, "labels": labels})


def _labels(connection: Connection) -> dict[str, dict[str, str]]:
    labels: dict[str, dict[str, str]] = {}
    for row in connection.execute(select(device_labels).order_by(device_labels.c.device, device_labels.c.key)):
        labels.setdefault(row.device, {})[row.key] = row.value
    return labels


def _unknown(connection: Connection, device: str) -> UserInputError:
    known = ", ".join(connection.scalars(select(devices.c.device).order_by(devices.c.device).limit(20)))
    return UserInputError(
        f"there is no device {device!r}; known: {known or 'none'}", next_step="list them with `fleet devices`"
    )


def _ensure_device(connection: Connection, device: str, site: str) -> None:
    row = {"device": device, "site": site, "online": False, "reported_generation": 0}
    connection.execute(insert_into(connection, devices).values(row).on_conflict_do_nothing())


def _standing(connection: Connection, device: str) -> Standing:
    columns = select(devices.c.boot, devices.c.connection, devices.c.online)
    row = connection.execute(columns.where(devices.c.device == device)).one()
    return Standing(row.boot, row.connection or 0, row.online)


def _was_online(connection: Connection, device: str, boot: str) -> bool:
    where = (boots.c.device == device) & (boots.c.boot == boot)
    return connection.scalar(select(boots.c.first_online_ns).where(where)) is not None


def _take_over(connection: Connection, presence: Presence, at_ns: int) -> None:
    values: dict[str, Any] = {
        "site": presence.site,
        "online": presence.online,
        "boot": presence.boot,
        "connection": presence.connection,
        "reported_generation": presence.generation,
    }
    if presence.online:
        # A will is published by the broker: it does not mean that the device was seen.
        values["last_seen_ns"] = at_ns
        _mark_online(connection, presence.device, presence.boot, at_ns)
    connection.execute(update(devices).where(devices.c.device == presence.device).values(values))


def _mark_online(connection: Connection, device: str, boot: str, at_ns: int) -> None:
    row = {"device": device, "boot": boot, "committed_seq": 0, "first_online_ns": at_ns}
    statement = insert_into(connection, boots).values(row)
    first = func.coalesce(boots.c.first_online_ns, at_ns)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["device", "boot"], set_={"first_online_ns": first})
    )
