"""Doubles of the controller and the agent, for tests of what starts, stops and talks to them.

`FakeFleetApi` answers every operation from memory::

    api = FakeFleetApi(devices=(online_device("local"),))
    api.errors["apply"] = UserInputError("no such file")

`python -m edgefleet_hil.doubles controller|agent …` are processes that take the options of the real ones: the
controller serves a `FakeFleetApi`, in which the device is online as soon as the agent has marked its folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from edgefleet_contract.base import Record
from edgefleet_contract.child import exit_when_closed
from edgefleet_contract.errors import EdgefleetError, UserInputError
from edgefleet_contract.profile import Profile
from edgefleet_controller import api
from edgefleet_controller.stack.server import create_app, serve

MARK = "online"
SHA256_PREFIX = "sha256:"


def online_device(name: str) -> api.DeviceRow:
    """Return a device that is online, with a profile of a small machine."""
    profile = Profile(
        device=name,
        site="default",
        agent_version="0",
        arch="x86_64",
        os="linux",
        kernel="6",
        python_version="3.11",
        cpu_model="a double",
        cpu_count=1,
        memory_bytes=1024**3,
        disk_free_bytes=1024**3,
    )
    return api.DeviceRow(
        device=name,
        site="default",
        online=True,
        last_seen_ns=0,
        desired_generation=0,
        reported_generation=0,
        profile=profile,
    )


class FakeFleetApi:
    """A `FleetApi` in memory.

    Attributes:
        calls: (operation, request) of every call, in order.
        errors: operation → the error it raises.
        blobs: digest → content.
        news: set it to wake `revision` calls that wait.
    """

    def __init__(self, *, devices: tuple[api.DeviceRow, ...] = (), folder: Path | None = None) -> None:
        self.calls: list[tuple[str, object]] = []
        self.errors: dict[str, Exception] = {}
        self.blobs: dict[str, bytes] = {}
        self.phase = api.Phase.COMPLETE
        self.news = threading.Event()
        self._devices = devices
        self._folder = folder

    def _note(self, operation: str, request: Record | str) -> None:
        self.calls.append((operation, request))
        if operation in self.errors:
            raise self.errors[operation]

    def plan(self, request: api.ApplyRequest) -> api.PlanResult:
        """Plan nothing."""
        self._note("plan", request)
        return api.PlanResult(changed=False, builds=(), devices=())

    def apply(self, request: api.ApplyRequest) -> api.ApplyAccepted:
        """Accept as revision 1."""
        self._note("apply", request)
        return api.ApplyAccepted(revision=1, changed=True)

    def revision(self, request: api.RevisionQuery) -> api.RevisionStatus:
        """Wait for `news`, then answer with `phase`."""
        self._note("revision", request)
        if request.wait_s:
            self.news.wait(request.wait_s)
        return api.RevisionStatus(revision=request.revision or 1, phase=self.phase)

    def status(self, request: api.Empty) -> api.StatusResult:
        """Answer with the devices."""
        self._note("status", request)
        return api.StatusResult(
            version="0", store="memory", running=True, devices=self._rows(), revision=None, findings=0
        )

    def devices(self, request: api.Empty) -> api.DevicesResult:
        """List the devices."""
        self._note("devices", request)
        return api.DevicesResult(devices=self._rows())

    def _rows(self) -> tuple[api.DeviceRow, ...]:
        if self._folder is None:
            return self._devices
        return (*self._devices, *(online_device(path.parent.name) for path in self._folder.glob(f"agents/*/{MARK}")))

    def evidence(self, request: api.EvidenceQuery) -> api.EvidenceResult:
        """List nothing."""
        self._note("evidence", request)
        return api.EvidenceResult(evidence=())

    def health(self, request: api.Empty) -> api.HealthResult:
        """Find nothing."""
        self._note("health", request)
        return api.HealthResult(checks=(), findings=())

    def query(self, request: api.QueryRequest) -> api.QueryResult:
        """Echo the query as the only row."""
        self._note("query", request)
        return api.QueryResult(columns=("query",), rows=((request.query,),))

    def missing(self, request: api.MissingRequest) -> api.MissingResult:
        """Say which digests are not in `blobs`."""
        self._note("missing", request)
        return api.MissingResult(digests=tuple(digest for digest in request.digests if digest not in self.blobs))

    def put_blob(self, digest: str, path: Path, *, on_sent: api.OnSent = api.nobody) -> None:
        """Keep a file's content. Raises UserInputError when it does not match its digest."""
        self._note("put_blob", digest)
        content = path.read_bytes()
        if SHA256_PREFIX + hashlib.sha256(content).hexdigest() != digest:
            raise UserInputError(f"the content does not match {digest}")
        self.blobs[digest] = content
        on_sent(len(content))

    def close(self) -> None:
        """Do nothing."""


def _controller(options: argparse.Namespace) -> None:
    fake = FakeFleetApi(folder=options.home)
    app = create_app(fake, os.environ["FLEET_TOKEN"], options.home / "controller" / "work")
    serve(app, port=options.http_port)


def _agent(options: argparse.Namespace) -> None:
    options.home.mkdir(parents=True, exist_ok=True)
    (options.home / MARK).touch()
    signal.pause()


def main(argv: Sequence[str] | None = None) -> None:
    """Run a double as a process."""
    parser = argparse.ArgumentParser(prog="python -m edgefleet_hil.doubles")
    parser.add_argument("role", choices=["controller", "agent"])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--http-port", type=int)
    parser.add_argument("--device")
    parser.add_argument("--site")
    parser.add_argument("--label", action="append")
    parser.add_argument("--test-runtimes", action="store_true")
    parser.add_argument("--exit-with-stdin", action="store_true")
    options = parser.parse_args(argv)
    if options.exit_with_stdin:
        exit_when_closed(sys.stdin.buffer)
    sys.stderr.write(f"double of the {options.role} started with {sys.argv[1:]}\n")
    sys.stderr.flush()
    try:
        _controller(options) if options.role == "controller" else _agent(options)
    except EdgefleetError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
