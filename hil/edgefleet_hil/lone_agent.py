"""An agent alone: link, worker, files and clock in the hands of a test, everything else as it runs on a device."""

from __future__ import annotations

import base64
import queue
import sqlite3
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from edgefleet_agent.config import AgentConfig, Broker
from edgefleet_agent.filesystem import Filesystem
from edgefleet_agent.jobs import JobDeath
from edgefleet_agent.link import LinkUp, Received
from edgefleet_agent.resident import Ports, Resident
from edgefleet_agent.state import Opened, open_database
from edgefleet_contract.base import Record
from edgefleet_contract.child import ChildEnd, ChildLimits, ChildOutcome
from edgefleet_contract.desired import DesiredState
from edgefleet_contract.evidence import Trial, Verdict
from edgefleet_contract.job import QualifyAnswer, QualifyJob
from edgefleet_contract.profile import Profile
from edgefleet_contract.report import ChunkRefusal, ChunkRequest, DeviceState, Presence, Report, Transition
from edgefleet_contract.topics import DeviceTopics
from edgefleet_contract.wire import decode, encode

TOPICS = DeviceTopics("lab", "one")
R = TypeVar("R", bound=Record)
Worker = Callable[[QualifyJob, ChildLimits, threading.Event], QualifyAnswer | JobDeath]


class LoopbackLink:
    """A connection whose other end is the test: keeps what is published, serves the chunks it knows.

    Args:
        will: the last will of a connection, by its number.
        events: where the agent's loop takes its events from.
    """

    def __init__(self, will: Callable[[int], bytes], events: queue.SimpleQueue[Any]) -> None:
        self.will = will
        self.events = events
        self.blobs: dict[str, bytes] = {}
        self.sent: list[tuple[str, bytes]] = []
        self.retained: dict[str, bytes] = {}
        self.started = False
        self.farewell = b""

    def start(self) -> None:
        """Note that the agent wants to be connected; the test says when it is."""
        self.started = True

    def stop(self, farewell: bytes) -> None:
        """Keep the farewell."""
        self.farewell = farewell

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:  # noqa: ARG002 - all arrive
        """Keep what is said; answer requests for chunks."""
        self.sent.append((topic, payload))
        if retain:
            self.retained[topic] = payload
        if topic == TOPICS.get:
            self.serve(decode(ChunkRequest, payload))

    def serve(self, request: ChunkRequest) -> None:
        """Send every chunk the request lacks, or refuse."""
        blob = self.blobs.get(request.digest)
        if blob is None:
            refusal = ChunkRefusal(digest=request.digest, reason="no such blob")
            self.events.put(Received(TOPICS.command, encode(refusal)))
            return
        have = int.from_bytes(base64.b64decode(request.have), "little")
        for n in range(request.offset, -(-len(blob) // request.chunk_bytes)):
            if not have >> (n - request.offset) & 1:
                data = blob[n * request.chunk_bytes : (n + 1) * request.chunk_bytes]
                properties = {"digest": request.digest, "sha256": sha256(data).hexdigest()}
                self.events.put(Received(TOPICS.block(request.digest, n), data, properties))

    def said(self, topic: str, kind: type[R]) -> list[R]:
        """Return all that was published on a topic."""
        return [decode(kind, payload) for sent_on, payload in self.sent if sent_on == topic]


class LoneAgent:
    """An agent on a home folder, and everything around it. `boot` starts a life.

    Args:
        home: the agent's folder.
        profile: what probing finds.
        worker: what runs a qualification.
        filesystem: file operations of the present life; change it before `boot` for the next.
    """

    def __init__(self, home: Path, profile: Profile, worker: Worker, filesystem: Filesystem | None = None) -> None:
        self.config = AgentConfig(home=home, broker=Broker("127.0.0.1", 1), device="one", site="lab")
        self.profile = profile
        self.worker = worker
        self.filesystem = filesystem or Filesystem()
        self.now_s = 1000.0
        self.machine_boot = "boot-1"
        self.power_mode = profile.power_mode
        self.links: list[LoopbackLink] = []
        self.blobs: dict[str, bytes] = {}
        self._agent: Resident | None = None
        self._connection: sqlite3.Connection | None = None

    @property
    def agent(self) -> Resident:
        """Return the present life."""
        assert self._agent is not None, "boot it first"  # noqa: S101 - a rig's misuse
        return self._agent

    @property
    def connection(self) -> sqlite3.Connection:
        """Return the present life's database."""
        assert self._connection is not None, "boot it first"  # noqa: S101 - a rig's misuse
        return self._connection

    def die(self) -> None:
        """End the present life at once, as a power cut does: SQLite keeps what it had committed."""
        if self._agent is not None:
            self._agent.end_background(5.0)
        if self._connection is not None:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._connection.close()
        self._agent = self._connection = None

    @property
    def link(self) -> LoopbackLink:
        """Return the present life's connection."""
        return self.links[-1]

    def make_link(self, will: Callable[[int], bytes], events: queue.SimpleQueue[Any]) -> LoopbackLink:
        """Return the connection of a new life; it serves `blobs`."""
        self.links.append(LoopbackLink(will, events))
        self.link.blobs = self.blobs
        return self.link

    def run_job(self, job: QualifyJob, limits: ChildLimits, cancelled: threading.Event) -> QualifyAnswer | JobDeath:
        """Run a qualification in the present worker."""
        return self.worker(job, limits, cancelled)

    def boot(self) -> Resident:
        """Start a new life of the agent on the same home, connected."""
        self._connection = open_database(self.config.home / "agent.db").connection
        ports = Ports(
            make_link=self.make_link,
            probe=lambda: self.profile,
            filesystem=self.filesystem,
            run_job=self.run_job,
            clock_s=lambda: self.now_s,
            now_ns=lambda: int(self.now_s * 1e9),
            machine_boot=lambda: self.machine_boot,
            power_mode=lambda: self.power_mode,
        )
        self._agent = Resident(self.config, Opened(self.connection), ports)
        self.agent.start()
        self.until(lambda: self.link.started)
        self.link.events.put(LinkUp(1))
        self.until(lambda: TOPICS.state in self.link.retained)
        return self.agent

    def until(self, holds: Callable[[], bool], *, idle_s: float = 5.0) -> None:
        """Let the loop turn until something holds. Raises AssertionError when nothing happens any more."""
        for _ in range(500):
            if holds():
                return
            if not self.agent.turn(idle_s):
                msg = "nothing happens any more"
                raise AssertionError(msg)
        raise AssertionError

    def settle(self) -> None:
        """Let everything that is on its way happen."""
        while self.agent.turn(0.0):
            pass

    def receive(self, topic: str, record: Record) -> None:
        """Let a message arrive."""
        self.link.events.put(Received(topic, encode(record)))

    def wish(self, desired: DesiredState) -> None:
        """Let a desired state arrive."""
        self.receive(TOPICS.desired, desired)

    def bodies(self, kind: type[R]) -> list[R]:
        """Return the bodies of all reports of this life's connection, each once however often it was sent."""
        reports = {(report.boot, report.seq): report.body for report in self.link.said(TOPICS.event, Report)}
        return [body for body in reports.values() if isinstance(body, kind)]

    def until_said(self, state: DeviceState) -> Transition:
        """Let the loop turn until a model has come this far; return the report."""
        self.until(lambda: any(body.state is state for body in self.bodies(Transition)))
        return next(body for body in reversed(self.bodies(Transition)) if body.state is state)

    @property
    def presence(self) -> Presence:
        """Return the presence that is retained."""
        return decode(Presence, self.link.retained[TOPICS.state])


def qualifies(_: QualifyJob, __: ChildLimits, ___: threading.Event) -> QualifyAnswer:
    """Find everything good."""
    return QualifyAnswer(trial=Trial(verdict=Verdict.QUALIFIED))


def dies_of(end: ChildEnd) -> Worker:
    """Return a worker that ends so."""
    outcome = ChildOutcome(end, None, "killed by signal 11 (SIGSEGV)", "last line", 0.1)
    return lambda _, __, ___: JobDeath(outcome)


def waits_for_its_end(_: QualifyJob, __: ChildLimits, cancelled: threading.Event) -> JobDeath:
    """Answer only when cancelled."""
    cancelled.wait(10.0)
    return JobDeath(ChildOutcome(ChildEnd.CANCELLED, None, "cancelled", "", 0.1))
