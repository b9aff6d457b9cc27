"""Presence, old wills, heartbeats, labels."""

from __future__ import annotations

from typing import Any

import pytest

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.store import Store


def online(store: Store) -> bool:
    row = store.device("local")
    assert row is not None
    return row.online


def test_a_will_of_the_same_connection_takes_the_device_offline(store: Store, make: Any) -> None:
    assert store.presence(make.presence(), 1)
    assert store.presence(make.presence(online=False), 2)
    row = store.device("local")
    assert row is not None
    assert (row.online, row.last_seen_ns) == (False, 1)


def test_an_old_will_of_an_earlier_connection_is_ignored(store: Store, make: Any) -> None:
    store.presence(make.presence(connection=2), 1)
    assert not store.presence(make.presence(online=False, connection=1), 2)
    assert online(store)


def test_an_old_will_of_an_earlier_boot_is_ignored(store: Store, make: Any) -> None:
    store.presence(make.presence(boot=1), 1)
    store.presence(make.presence(boot=2), 2)
    assert not store.presence(make.presence(online=False, boot=1), 3)
    assert not store.presence(make.presence(boot=1), 4)
    assert online(store)


def test_a_will_of_a_boot_never_seen_does_not_take_a_live_device_offline(store: Store, make: Any) -> None:
    store.presence(make.presence(boot=2), 1)
    assert not store.presence(make.presence(online=False, boot=1), 2)
    assert online(store)


def test_a_retained_will_alone_makes_the_device_known_and_offline(store: Store, make: Any) -> None:
    assert store.presence(make.presence(online=False), 1)
    row = store.device("local")
    assert row is not None
    assert (row.online, row.last_seen_ns) == (False, None)


def test_a_heartbeat_brings_a_device_back_and_one_of_an_old_boot_does_not(store: Store, make: Any) -> None:
    store.presence(make.presence(boot=1), 1)
    store.presence(make.presence(boot=2), 2)
    store.presence(make.presence(boot=2, online=False), 3)
    assert not store.heartbeat("home", "local", make.heartbeat(boot=1), 4)
    assert not online(store)
    assert store.heartbeat("home", "local", make.heartbeat(boot=2, generation=5), 5)
    assert online(store)
    assert store.reported_generations() == {"local": 5}


def test_an_operators_labels_lie_over_the_devices_own(store: Store, make: Any) -> None:
    store.ingest([make.report(make.said(labels={"room": "lab", "board": "pi"}))], 1)
    store.label("local", "room", "lobby")
    profile = store.device_profile("local")
    assert profile is not None
    assert profile.labels == {"room": "lobby", "board": "pi"}
    assert store.labels() == {"local": {"room": "lobby"}}
    store.label("local", "room", None)
    assert store.labels() == {}


def test_a_label_for_a_device_nobody_knows_is_refused_and_says_who_is_known(store: Store, make: Any) -> None:
    store.presence(make.presence(), 1)
    with pytest.raises(UserInputError, match="known: local"):
        store.label("loco", "room", "lobby")


def test_an_unknown_device_is_none(store: Store) -> None:
    assert store.device("nobody") is None
    assert store.devices() == ()
