"""The agent's MQTT connection. Its callbacks run on paho's thread and only enqueue; everything is decoded elsewhere."""

from __future__ import annotations

import logging
import queue
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgefleet_agent.config import Broker
from edgefleet_contract.topics import DeviceTopics
from edgefleet_contract.wire import MAX_MESSAGE_BYTES

log = logging.getLogger(__name__)

KEEPALIVE_S = 15
"""A dead connection shows in one and a half of these; a ping is 2 bytes."""
WILL_DELAY_S = 10
"""How long the broker keeps the will back, so that a short break is not told as a death."""
SESSION_EXPIRY_S = 60
RECONNECT_FIRST_S = 0.1
RECONNECT_LONGEST_S = 5.0
"""Waits before connecting again: a local broker's restart is over in half a second."""
MAX_QUEUED = 4096
"""Events that wait for the agent's loop before chunks are dropped; they are asked for again."""
_INFLIGHT = 10
"""Receive Maximum of HiveMQ, the lowest in the field; paho does not read the broker's own."""


@dataclass(frozen=True)
class LinkUp:
    """Connected and subscribed; `connection` counts within this life of the agent."""

    connection: int


@dataclass(frozen=True)
class LinkDown:
    """The connection is gone; paho goes on trying."""

    reason: str


@dataclass(frozen=True)
class Received:
    """A message as it came: nothing of it is decoded or believed yet."""

    topic: str
    payload: bytes
    properties: dict[str, str] = field(default_factory=dict)


LinkEvent = LinkUp | LinkDown | Received


class Link(Protocol):
    """What the agent asks of its connection."""

    def start(self) -> None:
        """Begin to connect; LinkUp follows when it has worked, again after each break."""

    def stop(self, farewell: bytes) -> None:
        """Say a last presence and disconnect; takes at most half a second."""

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        """Send a message; what cannot be sent is dropped, for every message that matters is sent again."""


class MqttLink:
    """A connection by paho.

    Args:
        broker: where to connect.
        topics: this device's topics.
        will: called before each connection with its number; returns the presence the broker tells when we die.
        events: where LinkUp, LinkDown and Received go.
    """

    def __init__(
        self,
        broker: Broker,
        topics: DeviceTopics,
        will: Callable[[int], bytes],
        events: queue.SimpleQueue[Any],
    ) -> None:
        self._broker = broker
        self._topics = topics
        self._will = will
        self._events = events
        self._connection = 0
        self.dropped_n = 0
        """Messages that were too large, or came while the agent was too far behind."""
        self._client = self._make_client()

    def _make_client(self) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"fleet-{self._topics.site}-{self._topics.device}",
            protocol=MQTTProtocolVersion.MQTTv5,
        )
        client.max_inflight_messages_set(_INFLIGHT)
        client.max_queued_messages_set(256)
        jitter = random.uniform(0.8, 1.5)  # noqa: S311 - spreads reconnects of a fleet, guards nothing
        client.reconnect_delay_set(RECONNECT_FIRST_S * jitter, RECONNECT_LONGEST_S * jitter)  # type: ignore[arg-type] # any number works; whole seconds are too coarse for a local broker
        client.on_socket_open = _no_delay
        client.on_pre_connect = self._on_pre_connect
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def start(self) -> None:
        """Begin to connect, and go on for ever."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho leaves it so
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
        self._client.connect_async(
            self._broker.host,
            self._broker.port,
            KEEPALIVE_S,
            clean_start=mqtt.MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
        )
        self._client.loop_start()

    def stop(self, farewell: bytes) -> None:
        """Say a last presence and disconnect."""
        if self._client.is_connected():
            info = self._client.publish(self._topics.state, farewell, qos=1, retain=True)
            try:
                info.wait_for_publish(0.4)
            except (RuntimeError, ValueError) as error:
                log.info("no farewell: %s", error)
        self._client.disconnect()

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        """Send a message if connected."""
        if self._client.is_connected():
            self._client.publish(topic, payload, qos=qos, retain=retain)

    def _on_pre_connect(self, client: mqtt.Client, _: object) -> None:
        self._connection += 1
        properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call] # paho leaves it so
        properties.WillDelayInterval = WILL_DELAY_S
        will = self._will(self._connection)
        client.will_set(self._topics.state, will, qos=1, retain=True, properties=properties)

    def _on_connect(
        self, client: mqtt.Client, _: object, __: mqtt.ConnectFlags, reason: ReasonCode, ___: Properties | None
    ) -> None:
        if reason.is_failure:
            self._events.put(LinkDown(f"the broker refuses the connection: {reason}"))
            return
        topics = self._topics
        wanted = [(topics.desired, 1), (topics.command, 1), (topics.ack, 1), (topics.block_filter, 0)]
        client.subscribe(wanted)

    def _on_connect_fail(self, _: mqtt.Client, __: object) -> None:
        self._events.put(LinkDown("the broker cannot be reached"))

    def _on_subscribe(
        self, _: mqtt.Client, __: object, ___: int, reasons: list[ReasonCode], ____: Properties | None
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            log.error("the broker refuses subscriptions: %s", ", ".join(refused))
        self._events.put(LinkUp(self._connection))

    def _on_disconnect(
        self, _: mqtt.Client, __: object, ___: mqtt.DisconnectFlags, reason: ReasonCode, ____: Properties | None
    ) -> None:
        self._events.put(LinkDown(str(reason)))

    def _on_message(self, _: mqtt.Client, __: object, message: mqtt.MQTTMessage) -> None:
        crowded = message.qos == 0 and self._events.qsize() > MAX_QUEUED
        if crowded or len(message.payload) > MAX_MESSAGE_BYTES:
            self.dropped_n += 1
            return
        self._events.put(Received(message.topic, bytes(message.payload), _user_properties(message)))


def _user_properties(message: mqtt.MQTTMessage) -> dict[str, str]:
    return dict(getattr(message.properties, "UserProperty", [])[:8])


def _no_delay(_: mqtt.Client, __: object, sock: Any) -> None:  # noqa: ANN401 - plain, TLS or websocket
    # Without it a QoS 1 round trip takes 90 ms instead of 0.7 (Nagle against delayed acknowledgements).
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
