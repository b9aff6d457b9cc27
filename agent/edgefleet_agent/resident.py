"""The resident agent: one loop that takes one event at a time and decides everything.

paho's thread and the background thread only enqueue. This process imports neither numpy nor a model runtime: all
that touches a model happens in worker processes.
"""

from __future__ import annotations

import heapq
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from edgefleet_agent.activate import Activator, NoPreviousError
from edgefleet_agent.background import Background
from edgefleet_agent.blobs import Storage
from edgefleet_agent.config import AgentConfig
from edgefleet_agent.control import Order, OrderAnswer, answer, waiting
from edgefleet_agent.fetch import BlobHashed, Fetcher, FetchPorts, chunk_of
from edgefleet_agent.filesystem import Filesystem
from edgefleet_agent.host import power_mode
from edgefleet_agent.link import Link, LinkDown, LinkUp, Received
from edgefleet_agent.loop_events import LoopEvent, OrdersWaiting, PowerModeDue, ProfileReady, RequalifyDue, Stop
from edgefleet_agent.outbox import Outbox
from edgefleet_agent.reconcile import step
from edgefleet_agent.records import (
    Action,
    Activate,
    Activated,
    ActivationFailed,
    AgentState,
    CancelWork,
    CollectGarbage,
    Deactivate,
    DesiredReceived,
    EnvironmentSeen,
    Event,
    Facts,
    Fetch,
    RequalifyAsked,
    RetryDue,
    RetryLater,
    Say,
    Settled,
    Started,
    StartTrial,
    TrialDone,
    Undone,
)
from edgefleet_agent.state import Opened, StateStore, machine_boot_id
from edgefleet_agent.trial import RunTrialJob, TrialPorts, run_in_worker, run_trial, trial_limits
from edgefleet_agent.turn import not_wished, release_words
from edgefleet_agent.uplink import Standing, Uplink
from edgefleet_contract.desired import DesiredState
from edgefleet_contract.errors import WireError
from edgefleet_contract.profile import Profile
from edgefleet_contract.report import ChunkRefusal, Command, ProfileReport, ReportAck
from edgefleet_contract.topics import DeviceTopics
from edgefleet_contract.wire import decode, decode_as

log = logging.getLogger(__name__)

_COMMAND: TypeAdapter[ChunkRefusal | Any] = TypeAdapter(Command)
_DISK_RETRY_S = 5.0
"""Wait before an event is tried again whose outcome could not be written down."""
_STOP_WAIT_S = 0.5
_IDLE_S = 60.0
_POWER_MODE_EVERY_S = 60.0
"""Three small files each time; another mode is proved under before long."""


@dataclass(frozen=True)
class Ports:
    """What the agent reaches the world through.

    Attributes:
        make_link: builds the connection from a will and the queue its events go to.
        probe: finds out what this device is; runs on the background thread.
        filesystem: file operations.
        run_job: runs a qualification in a worker.
        clock_s: monotonic time in seconds.
        now_ns: wall time in nanoseconds since the epoch.
        machine_boot: identity of this boot of the machine.
        power_mode: what caps or chooses clocks now, as the profile says it.
    """

    make_link: Callable[[Callable[[int], bytes], queue.SimpleQueue[Any]], Link]
    probe: Callable[[], Profile]
    filesystem: Filesystem = field(default_factory=Filesystem)
    run_job: RunTrialJob = run_in_worker
    clock_s: Callable[[], float] = time.monotonic
    now_ns: Callable[[], int] = time.time_ns
    machine_boot: Callable[[], str] = machine_boot_id
    power_mode: Callable[[], str] = power_mode


class Resident:
    """The agent on one home. Call `start`, then `run` until it returns.

    Args:
        config: what the agent was started with.
        opened: its database.
        ports: the world.
    """

    def __init__(self, config: AgentConfig, opened: Opened, ports: Ports) -> None:
        self._config = config
        self._ports = ports
        self._topics = DeviceTopics(config.site, config.device)
        self._store = StateStore(opened.connection)
        self._state: AgentState = self._store.load()
        self._outbox = Outbox(opened.connection, config.device, config.site)
        self._storage = Storage(config.home, ports.filesystem)
        self._activator = Activator(config.home, self._storage, ports.filesystem)
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._background = Background()
        self._profile: Profile | None = None
        self._uplink = Uplink(
            config,
            self._outbox,
            self._standing,
            lambda will: ports.make_link(will, self.events),
            clock_s=ports.clock_s,
            now_ns=ports.now_ns,
        )
        self._fetcher = Fetcher(self._storage, self._fetch_ports())
        self._timers: list[tuple[float, int, LoopEvent]] = []
        self._deferred: list[Event] = []
        self._stopping = False
        self.malformed_n = 0
        """Messages that did not follow the contract, or were not for this device."""

    def _fetch_ports(self) -> FetchPorts:
        return FetchPorts(
            publish=self._uplink.request,
            emit=self.events.put,
            submit=lambda task: self._background.submit(lambda _: self.events.put(task())),
            make_room=self._make_room,
            clock_s=self._ports.clock_s,
        )

    def _standing(self) -> Standing:
        return Standing(self._state.generation, self._profile.digest if self._profile else None)

    def start(self) -> None:
        """Probe the device in the background; the rest follows when that is done."""
        self._background.submit(lambda _: self.events.put(ProfileReady(self._ports.probe())))

    def stop(self) -> None:
        """Ask the loop to end. Safe to call from a signal handler."""
        self.events.put(Stop())

    def look_for_orders(self) -> None:
        """Take the orders that wait. Safe to call from a signal handler."""
        self.events.put(OrdersWaiting())

    def run(self) -> None:
        """Take events until told to stop, then end within a second: worker killed, farewell said."""
        while not self._stopping:
            self.turn(self._wait_s())
        self._fetcher.stop()
        self._store.end_attempts()  # however long the worker takes to end: that it was stopped is no artifact's doing
        self.end_background(_STOP_WAIT_S)
        self._uplink.stop()
        log.info("stopped")

    def end_background(self, wait_s: float) -> bool:
        """Ask the worker to end, wait at most this long, and return whether it has."""
        self._background.cancel()
        return self._background.wait_idle(wait_s)

    def turn(self, wait_s: float) -> bool:
        """Take one event, waiting at most this long, and do what is due; return whether there was one."""
        try:
            event = self.events.get(timeout=max(wait_s, 0.0))
        except queue.Empty:
            event = None
        if event is not None:
            self._take(event)
        self._do_due()
        return event is not None

    def _wait_s(self) -> float:
        now_s = self._ports.clock_s()
        due = [now_s + _IDLE_S, self._uplink.due_s(), self._fetcher.due_s()]
        if self._timers:
            due.append(self._timers[0][0])
        return min(due_s for due_s in due if due_s is not None) - now_s

    def _take(self, event: LoopEvent) -> None:
        try:
            self._dispatch(event)
        except sqlite3.OperationalError as error:
            self._try_later(event, error)

    def _dispatch(self, event: LoopEvent) -> None:
        if isinstance(event, Received):
            self._on_received(event)
        elif isinstance(event, LinkUp):
            self._uplink.on_up(event)
            self._fetcher.set_connected(True)
        elif isinstance(event, LinkDown):
            self._uplink.on_down(event)
            self._fetcher.set_connected(False)
        elif isinstance(event, BlobHashed):
            self._fetcher.on_hashed(event)
        elif isinstance(event, ProfileReady):
            self._on_profile(event.profile)
        elif isinstance(event, OrdersWaiting):
            self._take_orders()
        elif isinstance(event, RequalifyDue):
            self._requalify_all()
        elif isinstance(event, PowerModeDue):
            self._look_at_power_mode()
        elif isinstance(event, Stop):
            self._stopping = True
        else:
            self._decide(event)

    def _do_due(self) -> None:
        now_s = self._ports.clock_s()
        while self._timers and self._timers[0][0] <= now_s:
            self._take(heapq.heappop(self._timers)[2])
        self._fetcher.pump()
        self._uplink.pump()

    def _on_profile(self, profile: Profile) -> None:
        log.info("this is %s at %s, profile %s", profile.device, profile.site, profile.digest)
        self._profile = profile
        with self._committed():
            self._outbox.add(ProfileReport(profile=profile), self._ports.now_ns())
        strikes = self._store.open_strikes(self._ports.machine_boot())
        self._decide(Started(self._activator.on_disk(), strikes))
        self._schedule_requalification()
        self._at(_POWER_MODE_EVERY_S, PowerModeDue())
        self._uplink.start()
        self._take_orders()

    def _on_received(self, message: Received) -> None:
        try:
            self._read(message)
        except WireError as error:
            self.malformed_n += 1
            log.warning("a message on %s is refused: %s", message.topic, error)

    def _read(self, message: Received) -> None:
        if message.topic == self._topics.desired:
            if message.payload:  # an empty one only says that nothing is retained any more
                self._on_desired(decode(DesiredState, message.payload))
        elif message.topic == self._topics.ack:
            self._uplink.on_ack(decode(ReportAck, message.payload))
        elif message.topic == self._topics.command:
            self._on_command(decode_as(_COMMAND, message.payload))
        else:
            self._fetcher.on_chunk(chunk_of(message.topic, message.payload, message.properties))

    def _on_desired(self, desired: DesiredState) -> None:
        if (desired.site, desired.device) != (self._config.site, self._config.device):
            msg = f"desired state for {desired.site}/{desired.device} sent to {self._config.site}/{self._config.device}"
            raise WireError(msg)
        log.info("desired state, generation %d (have %d)", desired.generation, self._state.generation)
        self._decide(DesiredReceived(desired))

    def _on_command(self, command: Command) -> None:
        if isinstance(command, ChunkRefusal):
            self._fetcher.on_refusal(command)
        else:
            self._decide(RequalifyAsked(command.model))

    def _schedule_requalification(self) -> None:
        if self._config.requalify_every_s is not None:
            self._at(self._config.requalify_every_s, RequalifyDue())

    def _requalify_all(self) -> None:
        for progress in self._state.models:
            if progress.settled is Settled.ACTIVE or progress.fell_behind:
                self._decide(RequalifyAsked(progress.model, forgives=False))
        self._schedule_requalification()

    def _look_at_power_mode(self) -> None:
        self._at(_POWER_MODE_EVERY_S, PowerModeDue())
        mode = self._ports.power_mode()
        if self._profile is None or mode == self._profile.power_mode:
            return
        log.info("the power mode is now %r", mode)
        self._profile = self._profile.model_copy(update={"power_mode": mode})
        with self._committed():
            self._outbox.add(ProfileReport(profile=self._profile), self._ports.now_ns())
        self._decide(EnvironmentSeen())

    def _take_orders(self) -> None:
        if self._profile is None:
            return  # they are looked for again once the device is probed
        for path, order in waiting(self._config.home):
            told = OrderAnswer(ok=False, told="this is no order an agent knows") if order is None else self._obey(order)
            log.info("order %s: %s", order, told.told)
            try:
                answer(path, told, self._ports.filesystem)
            except OSError as error:
                log.warning("an order cannot be answered: %s", error)

    def _obey(self, order: Order) -> OrderAnswer:
        if order.do == "requalify":
            progress = self._state.progress(order.model)
            if progress is None or progress.wish is None:
                return OrderAnswer(ok=False, told=not_wished(order.model))
            self._decide(RequalifyAsked(order.model))
            return OrderAnswer(ok=True, told=f"{order.model} is being proved again; what serves goes on serving")
        try:
            serving = self._activator.undo(order.model, self._ports.now_ns())
        except (NoPreviousError, OSError) as error:
            return OrderAnswer(ok=False, told=str(error))
        progress = self._state.progress(order.model)
        words = release_words(serving, progress.wish if progress else None)
        self._decide(Undone(order.model, serving))
        return OrderAnswer(ok=True, told=f"{order.model} serves {words}")

    def _decide(self, event: Event) -> None:
        """Let the rules take an event; what they decide is written down before it is done."""
        if self._profile is None:
            log.warning("%s came before the device was probed", type(event).__name__)
            return
        if self._deferred and event is not self._deferred[0]:
            self._deferred.append(event)
            return
        before = self._state
        after, actions = step(before, event, Facts(self._profile, self._ports.now_ns()))
        try:
            self._write_down(event, before, after, actions)
        except sqlite3.OperationalError as error:
            # Events behind it wait too: the rules must see them in the order they came.
            self._deferred = self._deferred or [event]
            self._try_later(event, error)
            return
        self._state = after
        if after.generation != before.generation:
            self._uplink.say_presence()
        for action in actions:
            self._carry_out(action)
        self._undefer(event)

    def _write_down(self, event: Event, before: AgentState, after: AgentState, actions: tuple[Action, ...]) -> None:
        now_ns = self._ports.now_ns()
        is_verdict = isinstance(event, TrialDone) and before.work is not None and before.work.token == event.token
        with self._committed():
            if is_verdict or isinstance(event, Started) or any(isinstance(act, CancelWork) for act in actions):
                self._store.end_attempts()
            for action in actions:
                if isinstance(action, Say):
                    self._outbox.add(action.body, now_ns)
                elif isinstance(action, StartTrial):
                    self._store.begin_attempt(action.artifact, self._ports.machine_boot(), now_ns)
            self._store.save(before, after)

    @contextmanager
    def _committed(self) -> Iterator[None]:
        """Commit state and reports together; a report that was not committed gives its number back."""
        mark = self._outbox.last_seq
        try:
            with self._store.transaction():
                yield
        except BaseException:
            self._outbox.rewind(mark)
            raise

    def _try_later(self, event: LoopEvent, error: sqlite3.OperationalError) -> None:
        log.warning("state cannot be written (%s); trying again in %g s", error, _DISK_RETRY_S)
        self._make_room()
        self._at(_DISK_RETRY_S, event)

    def _undefer(self, event: Event) -> None:
        if not self._deferred or event is not self._deferred[0]:
            return
        waiting, self._deferred = self._deferred[1:], []
        for later in waiting:
            self._decide(later)

    def _at(self, delay_s: float, event: LoopEvent) -> None:
        order = time.monotonic_ns()  # only tells two timers of one instant apart
        heapq.heappush(self._timers, (self._ports.clock_s() + delay_s, order, event))

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, Fetch):
            self._fetcher.start(action)
        elif isinstance(action, StartTrial):
            self._start_trial(action)
        elif isinstance(action, CancelWork):
            self._fetcher.cancel(action.token)
            self._background.cancel()
        elif isinstance(action, Activate):
            self._activate(action)
        elif isinstance(action, RetryLater):
            self._at(action.delay_s, RetryDue(action.model))
        elif isinstance(action, (Deactivate, CollectGarbage)):
            self._tidy(action)

    def _start_trial(self, order: StartTrial) -> None:
        ports = TrialPorts(
            storage=self._storage,
            limits=trial_limits(self._config.trial_timeout_s, self._config.worker_memory_bytes),
            test_runtimes=self._config.test_runtimes,
            run_job=self._ports.run_job,
        )

        def task(cancelled: threading.Event) -> None:
            done = run_trial(order, ports, cancelled)
            if done is not None:
                self.events.put(done)

        log.info("qualifying %s", order.artifact)
        self._background.submit(task)

    def _activate(self, order: Activate) -> None:
        try:
            self._activator.activate(order.model, order.serving, order.finding, self._ports.now_ns())
        except OSError as error:
            log.exception("%s could not be switched", order.model)
            self.events.put(ActivationFailed(order.token, str(error)))
            return
        log.info("%s serves %s, %s", order.model, order.serving.variant, order.serving.artifact)
        self.events.put(Activated(order.token))

    def _tidy(self, action: Deactivate | CollectGarbage) -> None:
        try:
            if isinstance(action, Deactivate):
                self._activator.deactivate(action.model)
            else:
                self._activator.collect_garbage(action.keep)
        except OSError as error:
            log.warning("tidying up: %s", error)

    def _make_room(self) -> None:
        try:
            freed_bytes = self._activator.collect_garbage(self._state.wanted, keep_unused_bytes=0)
            log.info("made room: %d bytes", freed_bytes)
        except OSError as error:
            log.warning("making room: %s", error)
