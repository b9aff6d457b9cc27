"""The embedded stack, started and kept running by this process: broker, controller and one agent."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Self

from edgefleet_contract.errors import DeviceError, EdgefleetError, TransportError
from edgefleet_controller.api import Empty
from edgefleet_controller.stack.client import HttpApi, is_healthy
from edgefleet_controller.stack.home import FleetHome
from edgefleet_controller.stack.info import StackInfo, find_running, stop_running, write_info
from edgefleet_controller.stack.lock import HomeBusyError, HomeLock
from edgefleet_controller.stack.ports import LOOPBACK, accepts, free_port, require_port
from edgefleet_controller.stack.process import BoundedLog, ChildSpec, ManagedProcess
from edgefleet_controller.stack.restart import RestartRule

__all__ = ["HomeBusyError", "Programs", "Stack", "StackInfo", "StackOptions", "find_running", "stop_running"]

_BROKER_START_S = 20.0
_POLL_S = 0.05
TERMINATED_EXIT = 128 + signal.SIGTERM


@dataclass(frozen=True)
class Programs:
    """The commands of the children, without their options; tests put stubs here."""

    broker: tuple[str, ...] = (sys.executable, "-m", "edgefleet_controller.stack.broker")
    controller: tuple[str, ...] = (sys.executable, "-m", "edgefleet_controller.daemon")
    agent: tuple[str, ...] = (sys.executable, "-m", "edgefleet_agent", "run")


@dataclass(frozen=True)
class StackOptions:
    """What a stack is made of.

    Attributes:
        command: what the user runs, shown to whoever finds the home busy.
        shared: other commands may work against it (`fleet up`).
        device: name of the agent on this machine.
        site: its site.
        labels: its labels.
        with_agent: start an agent at all.
        test_runtimes: let the agent offer runtimes that fail on demand.
        env: additions to the children's environment.
        broker_port: port the user chose for the broker; None takes a free one.
        rule: how often dead children are restarted.
        programs: the commands of the children.
    """

    command: str = "fleet apply"
    shared: bool = False
    device: str = "local"
    site: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    with_agent: bool = True
    test_runtimes: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    broker_port: int | None = None
    rule: RestartRule = field(default_factory=RestartRule)
    programs: Programs = field(default_factory=Programs)


class Stack:
    """A running stack: `with Stack(home) as stack: stack.wait_ready(); stack.api().status(…)`.

    Inside the `with`, SIGTERM raises SystemExit in the main thread, so that `fleet down` ends a stack as cleanly as
    Ctrl-C does. However this process ends, its children end with it: their standard input closes.
    """

    def __init__(self, home: FleetHome, options: StackOptions | None = None) -> None:
        self.home = home
        self.options = options or StackOptions()
        self.token = secrets.token_urlsafe(32)
        self._lock = HomeLock(home.lock)
        self._children: list[ManagedProcess] = []
        self._info: StackInfo | None = None
        self._info_guard = threading.Lock()
        self._failure: EdgefleetError | None = None
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.enter_context(_sigterm_exits())
            undo.callback(self.stop)
            self.start()
            self._exit = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def start(self) -> None:
        """Take the home's lock and start everything. What was started is stopped again by `stop`, also after an error.

        Raises:
            HomeBusyError: another process has a stack on this home; nothing was changed.
            UserInputError: the home cannot be written, its disk is full, or the broker's port is in use.
            DeviceError: the broker does not start.
        """
        self.home.create()
        self._lock.acquire(self.options.command)
        self.home.require_free()
        chosen = self.options.broker_port
        broker_port = free_port() if chosen is None else require_port(chosen, "--broker-port")
        http_port = free_port()
        self._publish(self._first_info(broker_port, http_port))
        broker, *others = [self._child(spec) for spec in self._specs(broker_port, http_port)]
        broker.start()
        self._await_broker(broker_port)
        for child in others:
            child.start()

    def _first_info(self, broker_port: int, http_port: int) -> StackInfo:
        return StackInfo(
            pid=os.getpid(),
            command=self.options.command,
            shared=self.options.shared,
            url=f"http://{LOOPBACK}:{http_port}",
            token=self.token,
            broker=f"mqtt://{LOOPBACK}:{broker_port}",
            pids={},
        )

    def _specs(self, broker_port: int, http_port: int) -> Iterator[ChildSpec]:
        options, home, env = self.options, self.home, self.options.env
        url = f"mqtt://{LOOPBACK}:{broker_port}"
        serve = ("--port", str(broker_port), "--config-dir", str(home.run))
        yield ChildSpec("broker", (*options.programs.broker, *serve), env)
        control = ("--home", str(home.root), "--broker", url, "--http-port", str(http_port), "--exit-with-stdin")
        yield ChildSpec("controller", (*options.programs.controller, *control), {**env, "FLEET_TOKEN": self.token})
        if options.with_agent:
            folder = home.agent(options.device)
            where = ("--home", str(folder), "--broker", url, "--device", options.device, "--site", options.site)
            labels = tuple(part for key, value in options.labels.items() for part in ("--label", f"{key}={value}"))
            extra = ("--test-runtimes",) if options.test_runtimes else ()
            yield ChildSpec("agent", (*options.programs.agent, *where, "--exit-with-stdin", *labels, *extra), env)

    def _child(self, spec: ChildSpec) -> ManagedProcess:
        child = ManagedProcess(
            spec,
            BoundedLog(self.home.log(spec.name)),
            rule=self.options.rule,
            on_started=self._on_started,
            on_gave_up=self._on_gave_up,
        )
        self._children.append(child)
        return child

    def _on_started(self, name: str, pid: int) -> None:
        with self._info_guard:
            info = self._info
            if info is not None:
                # On a full disk the file keeps an older process id; this thread must go on to watch the child.
                with contextlib.suppress(OSError):
                    self._publish(info.model_copy(update={"pids": {**info.pids, name: pid}}))

    def _publish(self, info: StackInfo) -> None:
        self._info = info
        write_info(self.home.stack, info)

    def _on_gave_up(self, name: str, end: str) -> None:
        child = next(child for child in self._children if child.name == name)
        rule = self.options.rule
        msg = f"the {name} {end}, more than {rule.max_n} times within {rule.window_s:g} s{_quoted(child.log)}"
        self._failure = self._failure or DeviceError(msg, next_step=f"read {self.home.log(name)}")

    def _await_broker(self, port: int) -> None:
        deadline_s = time.monotonic() + _BROKER_START_S
        while not accepts(port):
            self.check()
            if time.monotonic() > deadline_s:
                msg = f"the broker does not accept connections after {_BROKER_START_S:g} s{self._tails('broker')}"
                raise DeviceError(msg, next_step=f"read {self.home.log('broker')}")
            time.sleep(_POLL_S)

    def _tails(self, *names: str) -> str:
        return "".join(_quoted(child.log, child.name) for child in self._children if not names or child.name in names)

    def check(self) -> None:
        """Raise the error by which the stack failed, if it did: a child that cannot be kept running."""
        if self._failure is not None:
            raise self._failure

    @property
    def url(self) -> str:
        """The controller's address; it stays the same when the controller is restarted."""
        return self.info().url

    @property
    def broker_url(self) -> str:
        """The broker's address; it stays the same when the broker is restarted."""
        return self.info().broker

    def info(self) -> StackInfo:
        """Return what `stack.json` says. Raises DeviceError before `start` and after `stop`."""
        info = self._info
        if info is None:
            raise DeviceError("the stack is not running", next_step="start it first")
        return info

    def pids(self) -> dict[str, int]:
        """Return the pids of the children that run now, by name."""
        found = ((child.name, child.pid) for child in self._children)
        return {name: pid for name, pid in found if pid is not None}

    def api(self) -> HttpApi:
        """Return a client of the stack's controller. Its retries end early when the stack has failed."""
        return HttpApi(self.url, self.token, still_there=self.check)

    def wait_ready(self, timeout_s: float = 60.0, *, on_progress: Callable[[str], None] = lambda _: None) -> None:
        """Wait until the controller answers and the agent is online with its profile.

        Args:
            timeout_s: how long to wait for all of it.
            on_progress: called with what is waited for, each time that changes.

        Raises:
            DeviceError: a child cannot be kept running.
            TransportError: not ready in time; the message ends with the tails of the logs.
        """
        deadline_s = time.monotonic() + timeout_s
        told = ""
        while missing := self._missing():
            self.check()
            if missing != told:
                on_progress(told := missing)
            if time.monotonic() > deadline_s:
                msg = f"not ready after {timeout_s:g} s: {missing}{self._tails()}"
                raise TransportError(msg, next_step=f"read the logs in {self.home.run}")
            time.sleep(_POLL_S)

    def _missing(self) -> str:
        """Return what is still waited for; empty when ready."""
        if not is_healthy(self.url, self.token):
            return "waiting for the controller"
        if not self.options.with_agent:
            return ""
        name = self.options.device
        with HttpApi(self.url, self.token, patience_s=0.0) as client:
            try:
                rows = client.devices(Empty()).devices
            except TransportError:
                return "waiting for the controller"
        here = any(row.device == name and row.online and row.profile is not None for row in rows)
        return "" if here else f"waiting for the agent of device {name!r}"

    def stop(self) -> None:
        """Stop the agent, the controller and the broker, in that order, and free the home. Safe to call twice."""
        for child in reversed(self._children):
            child.stop()
        with self._info_guard:
            if self._info is not None:
                self.home.stack.unlink(missing_ok=True)
            self._info = None
        self._lock.release()


def _quoted(log: BoundedLog, name: str = "") -> str:
    tail = log.tail()
    title = f"its log ends:\n{tail}" if not name else f"the log of the {name} ends:\n{tail}"
    return f"; {title}" if tail else ""


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Turn SIGTERM into SystemExit while inside, where this thread may set handlers and nobody else has."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(_: int, __: FrameType | None) -> None:
        raise SystemExit(TERMINATED_EXIT)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
