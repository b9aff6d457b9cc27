"""What the agent says to its controller: that it is here, what it has reached, its reports, which chunks it lacks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from edgefleet_agent.config import AgentConfig
from edgefleet_agent.link import Link, LinkDown, LinkUp
from edgefleet_agent.outbox import Outbox, Sender
from edgefleet_contract.report import ChunkRequest, Heartbeat, Presence, ReportAck
from edgefleet_contract.topics import DeviceTopics
from edgefleet_contract.wire import encode

log = logging.getLogger(__name__)

_NO_PROFILE = "sha256:" + "0" * 64
"""Stands for the profile of a device that is still being probed."""


class Standing(NamedTuple):
    """What an agent has reached: its generation, and the digest of its profile once the device is probed."""

    generation: int
    profile: str | None


class Uplink:
    """The agent's half of its connection. Only the agent's loop calls it.

    Args:
        config: whose agent this is, and how often its heart beats.
        outbox: reports that wait.
        standing: tells what the agent has reached.
        connect: builds the connection from a function that gives each connection its last will.
        clock_s: monotonic time in seconds.
        now_ns: wall time in nanoseconds since the epoch.
    """

    def __init__(
        self,
        config: AgentConfig,
        outbox: Outbox,
        standing: Callable[[], Standing],
        connect: Callable[[Callable[[int], bytes]], Link],
        *,
        clock_s: Callable[[], float],
        now_ns: Callable[[], int],
    ) -> None:
        self._config = config
        self._outbox = outbox
        self._standing = standing
        self._clock_s = clock_s
        self._now_ns = now_ns
        self._topics = DeviceTopics(config.site, config.device)
        self._sender = Sender(outbox, self._publish_report, clock_s)
        self._connection = 0
        self._trouble = ""
        self._heartbeat_at_s = 0.0
        self._link = connect(lambda connection: self._presence(connection, online=False))

    def start(self) -> None:
        """Begin to connect; what comes of it comes to the loop as an event."""
        self._link.start()

    def stop(self) -> None:
        """Say farewell and close the connection."""
        self._link.stop(self._presence(self._connection, online=False))

    def on_up(self, event: LinkUp) -> None:
        """Say that the agent is here, and every report that is not acknowledged."""
        log.info("connected (%d)", event.connection)
        self._trouble = ""
        self._connection = event.connection
        self.say_presence()
        self._heartbeat_at_s = self._clock_s() + self._config.heartbeat_s
        self._sender.on_connected()

    def on_down(self, event: LinkDown) -> None:
        """Say nothing more; each reason is logged once, however often it comes."""
        if event.reason != self._trouble:
            log.warning("no connection: %s", event.reason)
        self._trouble = event.reason
        self._sender.connected = False

    def on_ack(self, ack: ReportAck) -> None:
        """Delete what the controller has committed and send what waits behind it."""
        self._sender.on_ack(ack)

    def due_s(self) -> float | None:
        """Return when there is something to say next, on the clock; None: not before something happens."""
        due = [self._sender.due_s(), self._heartbeat_at_s if self._sender.connected else None]
        return min((due_s for due_s in due if due_s is not None), default=None)

    def pump(self) -> None:
        """Send the reports and the heartbeat that are due."""
        self._sender.pump()
        now_s = self._clock_s()
        if self._sender.connected and now_s >= self._heartbeat_at_s:
            self._heartbeat_at_s = now_s + self._config.heartbeat_s
            self._link.publish(self._topics.heartbeat, encode(self._heartbeat()), qos=0)

    def say_presence(self) -> None:
        """Say that the agent is here and what it has reached, once it was connected."""
        if self._connection > 0:
            body = self._presence(self._connection, online=True)
            self._link.publish(self._topics.state, body, qos=1, retain=True)

    def request(self, chunks: ChunkRequest) -> None:
        """Ask for chunks of a blob."""
        self._link.publish(self._topics.get, encode(chunks), qos=1)

    def _publish_report(self, body: bytes) -> None:
        self._link.publish(self._topics.event, body, qos=1)

    def _presence(self, connection: int, *, online: bool) -> bytes:
        standing = self._standing()
        presence = Presence(
            device=self._config.device,
            site=self._config.site,
            online=online,
            boot=self._outbox.boot,
            connection=connection,
            generation=standing.generation,
            profile=standing.profile or _NO_PROFILE,
        )
        return encode(presence)

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            boot=self._outbox.boot,
            generation=self._standing().generation,
            outbox_n=self._outbox.count,
            sent_at_ns=self._now_ns(),
        )
