"""A whole fleet under test in one folder: the real broker, controller and agent as processes, with faults on demand.

::

    with Rig(tmp_path / "fleet") as rig:
        status = rig.apply(Path("manifest.yaml"))
        rig.kill("agent")
        rig.wait_ready()
        assert rig.active("digits") is not None
    assert rig.orphans() == []
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import psutil

from edgefleet_contract.errors import DeviceError, TransportError
from edgefleet_controller.api import (
    ApplyAccepted,
    DeviceModelRow,
    Empty,
    MissingRequest,
    QueryRequest,
    RevisionQuery,
    RevisionStatus,
)
from edgefleet_controller.cli.applying import prepare
from edgefleet_controller.stack.client import HttpApi
from edgefleet_controller.stack.home import FleetHome
from edgefleet_controller.stack.restart import RestartRule
from edgefleet_controller.stack.supervisor import Stack, StackOptions

Target = Literal["broker", "controller", "agent", "worker"]
TARGETS: tuple[Target, ...] = ("broker", "controller", "agent", "worker")

_POLL_S = 0.01
_PATIENT = RestartRule(max_n=100)
"""A rig kills far more often than a healthy machine: its stack must not give up."""
_SLICE_S = 5.0


class Rig:
    """A stack in a folder of its own. Everything goes through the same doors as the command line.

    Args:
        folder: the fleet's home; kept over `stop` and `start`, as a reboot keeps a disk.
        options: what the stack is made of; default: one agent `local`, with the runtimes that fail on demand.
        clock_s: monotonic seconds, for every timeout.
    """

    def __init__(
        self,
        folder: Path,
        options: StackOptions | None = None,
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.home = FleetHome(folder)
        self.options = options or StackOptions(
            command="a test rig", shared=True, test_runtimes=True, rule=_PATIENT, env={"EDGEFLEET_TEST_RUNTIMES": "1"}
        )
        self._clock_s = clock_s
        self._stack: Stack | None = None
        self._api: HttpApi | None = None
        self._seen: dict[int, psutil.Process] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def stack(self) -> Stack:
        """The running stack. Raises DeviceError when the rig is stopped."""
        if self._stack is None:
            raise DeviceError("the rig is stopped", next_step="start it first")
        return self._stack

    @property
    def api(self) -> HttpApi:
        """A client of the controller, which outlives restarts. Raises DeviceError when the rig is stopped."""
        if self._api is None:
            self._api = self.stack.api()
        return self._api

    def start(self, timeout_s: float = 60.0) -> None:
        """Start everything and wait until it is ready. Raises as `Stack.start` and `Stack.wait_ready`."""
        self._stack = Stack(self.home, self.options)
        self._stack.start()
        self.wait_ready(timeout_s)

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the controller answers and the agent is online. Raises as `Stack.wait_ready`."""
        self.stack.wait_ready(timeout_s)
        self._note_processes()

    def stop(self) -> None:
        """Stop everything. Safe to call twice."""
        self._note_processes()
        if self._api is not None:
            self._api.close()
            self._api = None
        if self._stack is not None:
            self._stack.stop()
            self._stack = None

    def set_env(self, **variables: str) -> None:
        """Set variables in the children's environment; they count from the next `start`."""
        self.options = replace(self.options, env={**self.options.env, **variables})

    def kill(self, target: Target, timeout_s: float = 30.0) -> int:
        """Kill one process with SIGKILL, as soon as it runs, and return its pid.

        Args:
            target: `worker` is the agent's child that runs a trial, not the agent.
            timeout_s: how long to wait until there is such a process.

        Raises:
            TransportError: there was none in time.
        """
        deadline_s = self._clock_s() + timeout_s
        while (pid := self.pid(target)) is None or not _killed(pid):
            if self._clock_s() > deadline_s:
                raise TransportError(f"no {target} was running within {timeout_s:g} s")
            time.sleep(_POLL_S)
        return pid

    def pid(self, target: Target) -> int | None:
        """Return the pid of a process of the stack that runs now, or None."""
        self._note_processes()
        pids = self.stack.pids()
        if target != "worker":
            return pids.get(target)
        agent = pids.get("agent")
        return None if agent is None else next((child.pid for child in _children(agent)), None)

    def _note_processes(self) -> None:
        if self._stack is None:
            return
        for pid in self._stack.pids().values():
            for process in (*_process(pid), *_children(pid)):
                self._seen[process.pid] = process

    def orphans(self, timeout_s: float = 5.0) -> list[psutil.Process]:
        """Return processes of the stack that outlived it by more than `timeout_s`; empty is what should be.

        Looked for are all processes ever seen, and any whose environment or command line names this home.
        """
        deadline_s = self._clock_s() + timeout_s
        while (left := [process for process in self._suspects() if _runs(process)]) and self._clock_s() < deadline_s:
            time.sleep(_POLL_S)
        return left

    def _suspects(self) -> list[psutil.Process]:
        home = str(self.home.root.absolute())
        named = [process for process in psutil.process_iter() if process.pid != os.getpid() and _names(process, home)]
        return [*self._seen.values(), *named]

    def begin(self, manifest: Path, *, prune: bool = False) -> ApplyAccepted:
        """Check a manifest, send its files, and start the apply, as `fleet apply` does. Raises EdgefleetError."""
        prepared = prepare(manifest)
        paths = {file.digest: file.path for file in prepared.files.values()}
        for digest in self.api.missing(MissingRequest(digests=tuple(paths))).digests:
            self.api.put_blob(digest, paths[digest])
        return self.api.apply(prepared.request(prune=prune))

    def wait(self, revision: int, timeout_s: float = 120.0) -> RevisionStatus:
        """Wait until an apply is final and return how it ended. Raises TransportError after `timeout_s`."""
        deadline_s = self._clock_s() + timeout_s
        last_event = 0
        while True:
            query = RevisionQuery(revision=revision, after_event=last_event, wait_s=_SLICE_S)
            status = self.api.revision(query)
            if status.phase.final:
                return status
            last_event = max((event.id for event in status.events), default=last_event)
            if self._clock_s() > deadline_s:
                msg = f"revision {revision} is {status.phase.value} after {timeout_s:g} s"
                raise TransportError(msg, next_step=f"read the logs in {self.home.run}")

    def apply(self, manifest: Path, *, prune: bool = False, timeout_s: float = 120.0) -> RevisionStatus:
        """Apply a manifest and wait for its end. Raises as `begin` and `wait`."""
        return self.wait(self.begin(manifest, prune=prune).revision, timeout_s)

    def query(self, query: str) -> list[dict[str, object]]:
        """Return the rows of a named query or a SELECT on the store, by column."""
        result = self.api.query(QueryRequest(query=query, limit=100_000))
        return [dict(zip(result.columns, row, strict=True)) for row in result.rows]

    def model(self, model: str) -> DeviceModelRow | None:
        """Return what the controller knows of a model on this rig's device, or None."""
        rows = (row for row in self.api.devices(Empty()).devices if row.device == self.options.device)
        return next((found for row in rows for found in row.models if found.model == model), None)

    def active(self, model: str) -> Path | None:
        """Return the artifact folder a model's apps see on the device, or None; read from the device's own disk."""
        link = self.home.agent(self.options.device) / "models" / model / "current"
        return link.resolve() if link.exists() else None

    def log(self, name: str) -> str:
        """Return the whole log of a process of the stack; empty when there is none."""
        path = self.home.log(name)
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _killed(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _process(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _names(process: psutil.Process, home: str) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return any(word == home or word.startswith(f"{home}/") for word in words)
