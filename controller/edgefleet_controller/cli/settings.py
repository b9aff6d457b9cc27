"""What every command works with: where the controller is, and the ports to the world outside the CLI."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgefleet_contract.child import ChildOutcome
    from edgefleet_controller.api import FleetApi
    from edgefleet_controller.stack.home import FleetHome


class StackHandle(Protocol):
    """A stack this process supervises; `stack.supervisor.Stack` is one."""

    @property
    def url(self) -> str:
        """Where its controller listens."""

    @property
    def broker_url(self) -> str:
        """Where its broker listens."""

    def pids(self) -> Mapping[str, int]:
        """Return the process ids of its children, by name."""

    def wait_ready(self, timeout_s: float = ..., *, on_progress: Callable[[str], None] = ...) -> None:
        """Wait until the controller answers and the agent is online. Raises EdgefleetError when they do not."""

    def api(self) -> FleetApi:
        """Return a client of its controller."""

    def check(self) -> None:
        """Raise the error by which the stack failed, if it did."""


class Backend(Protocol):
    """Everything outside the CLI. The real one is `backend.RealBackend`; tests bring their own."""

    def remote(self, url: str, token: str | None) -> FleetApi:
        """Return the API of a controller elsewhere. Raises UserInputError for what is not a URL."""

    def running(self, home: FleetHome, *, lasting: bool) -> FleetApi | None:
        """Return the API of the stack that runs on this home, or None; `lasting` wants one of `fleet up`."""

    def starting(self, home: FleetHome) -> bool:
        """Tell whether another process is about to run, or to stop, a lasting stack on this home."""

    def stack(
        self, home: FleetHome, command: str, *, shared: bool, broker_port: int | None = None
    ) -> AbstractContextManager[StackHandle]:
        """Run a stack on this home for as long as the block. Raises UserInputError when that cannot be."""

    def stop_running(self, home: FleetHome) -> str | None:
        """Stop the stack another process runs on this home; return who it was, or None when there is none."""

    def stored(self, home: FleetHome) -> FleetApi | None:
        """Return a read-only API on the store as it lies, or None when there is no store."""

    def run_worker(self, request: bytes, timeout_s: float) -> ChildOutcome:
        """Run one job in the agent's worker, as a child process."""


@dataclass(frozen=True)
class Settings:
    """The global options, and the ports.

    Attributes:
        server: URL of a controller elsewhere; None means this machine's.
        token: sent to that controller.
        clock_s: monotonic seconds.
        sleep_s: waits that many seconds.
    """

    backend: Backend
    server: str | None = None
    token: str | None = None
    clock_s: Callable[[], float] = time.monotonic
    sleep_s: Callable[[float], None] = time.sleep

    @staticmethod
    def from_environment() -> Settings:
        """Return the settings of a real run."""
        from edgefleet_controller.cli.backend import RealBackend

        return Settings(backend=RealBackend(), token=os.environ.get("FLEET_TOKEN") or None)

    def with_server(self, server: str | None) -> Settings:
        """Return the same settings with `--server` applied; nothing given changes nothing."""
        return replace(self, server=server or self.server)

    def home(self, manifest: Path | None = None) -> FleetHome:
        """Return the home this command means; see `find_home`."""
        from edgefleet_controller.stack.home import find_home

        return find_home(manifest)
