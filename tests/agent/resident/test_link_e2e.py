"""The connection against a real broker that comes and goes."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from edgefleet_agent.config import Broker
from edgefleet_agent.link import LinkDown, LinkUp, MqttLink, Received
from edgefleet_contract.topics import DeviceTopics
from edgefleet_contract.wire import MAX_MESSAGE_BYTES

pytestmark = pytest.mark.e2e

TOPICS = DeviceTopics("lab", "one")
E = TypeVar("E")
Connect = Callable[[], tuple[MqttLink, "queue.SimpleQueue[Any]"]]


def until(events: queue.SimpleQueue[Any], kind: type[E]) -> E:
    end_s = time.monotonic() + 10.0
    while True:
        event = events.get(timeout=end_s - time.monotonic())
        if isinstance(event, kind):
            return event


@pytest.fixture
def connect(free_port: int) -> Iterator[Connect]:
    links: list[MqttLink] = []

    def make() -> tuple[MqttLink, queue.SimpleQueue[Any]]:
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        link = MqttLink(Broker("127.0.0.1", free_port), TOPICS, lambda connection: b"will %d" % connection, events)
        links.append(link)
        link.start()
        return link, events

    yield make
    for link in links:
        link.stop(b"bye")


def test_it_connects_when_the_broker_comes_and_again_after_the_broker_was_killed(
    connect: Connect, start_broker: Callable[[], Any]
) -> None:
    link, events = connect()
    until(events, LinkDown)
    broker = start_broker()
    assert until(events, LinkUp).connection >= 1
    broker.stop()
    until(events, LinkDown)
    start_broker()
    began_s = time.monotonic()
    assert until(events, LinkUp).connection >= 2
    assert time.monotonic() - began_s < 5.0
    link.publish(TOPICS.desired, b"hello", qos=1)
    assert until(events, Received).payload == b"hello"


def test_what_is_too_large_or_comes_while_too_much_waits_is_dropped_and_counted(
    connect: Connect, start_broker: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_broker()
    link, events = connect()
    until(events, LinkUp)
    link.publish(TOPICS.desired, b"x" * (MAX_MESSAGE_BYTES + 1), qos=1)
    link.publish(TOPICS.desired, b"small", qos=1)
    assert until(events, Received).payload == b"small"
    monkeypatch.setattr("edgefleet_agent.link.MAX_QUEUED", -1)
    link.publish(TOPICS.block("sha256:" + "a" * 64, 0), b"chunk", qos=0)
    link.publish(TOPICS.command, b"command", qos=1)
    assert until(events, Received).payload == b"command"
    assert link.dropped_n == 2


def test_what_is_published_while_disconnected_is_dropped(connect: Connect, tmp_path: Path) -> None:
    link, _ = connect()
    link.publish(TOPICS.heartbeat, b"x", qos=0)
