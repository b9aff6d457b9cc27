"""The real backend: HTTP to a controller, the embedded stack, the store on disk, the agent's worker."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from edgefleet_contract.errors import UserInputError

if TYPE_CHECKING:
    from edgefleet_contract.child import ChildOutcome
    from edgefleet_controller.api import FleetApi
    from edgefleet_controller.cli.settings import StackHandle
    from edgefleet_controller.stack.home import FleetHome

_SCHEMES = ("http://", "https://")
_WORKER = (sys.executable, "-m", "edgefleet_agent.worker")


class RealBackend:
    """Everything outside the CLI, as it is. Methods as in `settings.Backend`; imports are inside, for a quick start."""

    def remote(self, url: str, token: str | None) -> FleetApi:
        """Return the API of a controller elsewhere. Raises UserInputError for what is not a URL."""
        from edgefleet_controller.stack.client import HttpApi

        if not url.startswith(_SCHEMES):
            msg = f"--server {url[:200]!r}: not a URL; allowed: http:// or https://"
            raise UserInputError(msg, next_step="write it as http://host:port")
        return HttpApi(url, token or "")

    def running(self, home: FleetHome, *, lasting: bool) -> FleetApi | None:
        """Return the API of the stack that runs on this home, or None; `lasting` wants one of `fleet up`."""
        from edgefleet_controller.stack.client import HttpApi
        from edgefleet_controller.stack.info import find_running

        info = find_running(home)
        if info is None or (lasting and not info.shared):
            return None
        return HttpApi(info.url, info.token)

    def starting(self, home: FleetHome) -> bool:
        """Tell whether another process is about to run, or to stop, a lasting stack on this home."""
        from edgefleet_controller.stack.info import is_starting

        return is_starting(home)

    def stack(
        self, home: FleetHome, command: str, *, shared: bool, broker_port: int | None = None
    ) -> AbstractContextManager[StackHandle]:
        """Run a stack on this home for as long as the block. Raises UserInputError when that cannot be."""
        from edgefleet_controller.stack.supervisor import Stack, StackOptions

        return Stack(home, StackOptions(command=command, shared=shared, broker_port=broker_port))

    def stop_running(self, home: FleetHome) -> str | None:
        """Stop the stack another process runs on this home; return who it was, or None when there is none."""
        from edgefleet_controller.stack.info import stop_running

        owner = stop_running(home)
        return None if owner is None else f"process {owner.pid} (`{owner.command}`)"

    def stored(self, home: FleetHome) -> FleetApi | None:
        """Return a read-only API on the store as it lies, or None when there is no store."""
        if not home.database.is_file():
            return None
        from edgefleet_controller.service import open_readonly

        return open_readonly(home)

    def run_worker(self, request: bytes, timeout_s: float) -> ChildOutcome:
        """Run one job in the agent's worker, as a child process."""
        from edgefleet_contract.child import ChildLimits, run_child

        return run_child(_WORKER, request, ChildLimits(timeout_s=timeout_s))
