"""Doubles of what the command line works with: a controller that answers as written down, a stack, a worker.

Example::

    api = ScriptedApi(clock)
    api.revisions = [RevisionStatus(revision=1, phase=Phase.COMPLETE)]
    CliRunner().invoke(app, ["apply", "m.yaml"], obj=Settings(FakeBackend(api), clock_s=clock, sleep_s=clock.sleep))
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from edgefleet_contract.base import Record
from edgefleet_contract.child import ChildEnd, ChildOutcome
from edgefleet_controller import api
from edgefleet_controller.stack.home import FleetHome
from edgefleet_hil.doubles import FakeFleetApi, online_device

R = TypeVar("R", bound=Record)


class Clock:
    """Seconds that pass only when someone waits."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        """Let time pass."""
        self.now_s += duration_s


class ScriptedApi(FakeFleetApi):
    """A controller whose answers a test writes down.

    Attributes:
        accepted: what `apply` answers.
        revisions: one for each poll of `revision`, which takes as long as it may wait; the last one stays.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.accepted = api.ApplyAccepted(revision=3, changed=True)
        self.revisions: list[api.RevisionStatus | BaseException] = []
        self._clock = clock
        self._answers: dict[type[Record], Record] = {
            api.DevicesResult: api.DevicesResult(devices=(online_device("local"),))
        }

    def script(self, *answers: Record) -> None:
        """Let the operation that gives such a record answer with it from now on."""
        self._answers.update((type(answer), answer) for answer in answers)

    def scripted(self, kind: type[R]) -> R:
        """Return what was written down."""
        answer = self._answers[kind]
        if not isinstance(answer, kind):
            raise TypeError(kind)
        return answer

    def asked(self, operation: str) -> list[Any]:
        """Return the requests of one operation, in order."""
        return [request for name, request in self.calls if name == operation]

    def plan(self, request: api.ApplyRequest) -> api.PlanResult:
        """Answer as scripted."""
        self._note("plan", request)
        return self.scripted(api.PlanResult)

    def apply(self, request: api.ApplyRequest) -> api.ApplyAccepted:
        """Answer with `accepted`."""
        self._note("apply", request)
        return self.accepted

    def revision(self, request: api.RevisionQuery) -> api.RevisionStatus:
        """Answer with the next of `revisions`."""
        self._note("revision", request)
        self._clock.sleep(request.wait_s)
        answer = self.revisions.pop(0) if len(self.revisions) > 1 else self.revisions[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def status(self, request: api.Empty) -> api.StatusResult:
        """Answer as scripted."""
        self._note("status", request)
        return self.scripted(api.StatusResult)

    def devices(self, request: api.Empty) -> api.DevicesResult:
        """Answer as scripted."""
        self._note("devices", request)
        return self.scripted(api.DevicesResult)

    def evidence(self, request: api.EvidenceQuery) -> api.EvidenceResult:
        """Answer as scripted."""
        self._note("evidence", request)
        return self.scripted(api.EvidenceResult)

    def health(self, request: api.Empty) -> api.HealthResult:
        """Answer as scripted."""
        self._note("health", request)
        return self.scripted(api.HealthResult)

    def query(self, request: api.QueryRequest) -> api.QueryResult:
        """Answer as scripted."""
        self._note("query", request)
        return self.scripted(api.QueryResult)


@dataclass
class FakeStack:
    """A stack that is ready at once. Set `failure` to let it fail."""

    controller: ScriptedApi
    failure: Exception | None = None
    url: str = "http://127.0.0.1:20001"
    broker_url: str = "mqtt://127.0.0.1:20002"

    def pids(self) -> dict[str, int]:
        """Return made-up process ids."""
        return {"broker": 11, "controller": 12, "agent": 13}

    def wait_ready(self, timeout_s: float = 60.0, *, on_progress: Callable[[str], None] = lambda _: None) -> None:
        """Be ready at once."""
        on_progress(f"waiting for the controller, {timeout_s:g} s at most")

    def api(self) -> ScriptedApi:
        """Return the scripted controller."""
        return self.controller

    def check(self) -> None:
        """Raise `failure`, if there is one."""
        if self.failure is not None:
            raise self.failure


@dataclass
class FakeBackend:
    """The world outside the CLI.

    Attributes:
        controller: answers whatever is asked, wherever.
        stack_runs: whether `fleet up` runs.
        starting_polls_n: how often it is still starting before it runs.
        store_exists: whether there is a store to read.
        outcome: how the worker ends.
        failure: by which the stack fails once it is ready.
        log: what was started and stopped.
        jobs: what the worker was asked, with its `timeout_s`.
    """

    controller: ScriptedApi
    stack_runs: bool = False
    starting_polls_n: int = 0
    store_exists: bool = False
    outcome: ChildOutcome | None = None
    failure: Exception | None = None
    log: list[str] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, record: Record) -> None:
        """Let the worker answer with this record."""
        self.outcome = ChildOutcome(ChildEnd.ANSWERED, record.model_dump_json().encode(), "answered", "", 1.0)

    def remote(self, url: str, token: str | None) -> ScriptedApi:
        """Note the address; return the scripted controller."""
        self.log.append(f"remote {url} {token}")
        return self.controller

    def running(self, home: FleetHome, *, lasting: bool) -> ScriptedApi | None:  # noqa: ARG002 - the port's
        """Return the scripted controller if `stack_runs`."""
        if self.starting_polls_n > 0:
            self.starting_polls_n -= 1
            return None
        return self.controller if self.stack_runs else None

    def starting(self, home: FleetHome) -> bool:  # noqa: ARG002 - the port's
        """Say yes if `stack_runs`."""
        return self.stack_runs

    @contextmanager
    def stack(
        self,
        home: FleetHome,  # noqa: ARG002 - the port's
        command: str,
        *,
        shared: bool,
        broker_port: int | None = None,
    ) -> Iterator[FakeStack]:
        """Note start and stop."""
        self.log.append(f"start {command} shared={shared} port={broker_port}")
        try:
            yield FakeStack(self.controller, self.failure)
        finally:
            self.log.append("stop")

    def stop_running(self, home: FleetHome) -> str | None:  # noqa: ARG002 - the port's
        """Say that one was stopped if `stack_runs`."""
        return "process 7 (`fleet up`)" if self.stack_runs else None

    def stored(self, home: FleetHome) -> ScriptedApi | None:  # noqa: ARG002 - the port's
        """Return the scripted controller if `store_exists`."""
        return self.controller if self.store_exists else None

    def run_worker(self, request: bytes, timeout_s: float) -> ChildOutcome:
        """Note the job; return `outcome`."""
        self.jobs.append({**json.loads(request), "timeout_s": timeout_s})
        if self.outcome is None:
            raise AssertionError("the test did not say what the worker does")
        return self.outcome


class Ended(Protocol):
    """How a command line ended; `typer.testing.Result` is one."""

    exit_code: int
    exception: BaseException | None

    @property
    def stdout(self) -> str:
        """What went to stdout."""

    @property
    def stderr(self) -> str:
        """What went to stderr."""

    @property
    def output(self) -> str:
        """Both, in order."""


class Cli(Protocol):
    """Runs one command line against the doubles."""

    def __call__(self, *args: str, columns: int = 100, env: Mapping[str, str] | None = None) -> Ended:
        """Run it on a screen of that width, with these environment variables."""
