"""Find the controller a command talks to, or start one for as long as the command runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgefleet_contract.errors import TransportError, UserInputError
from edgefleet_controller.cli import output

if TYPE_CHECKING:
    from edgefleet_controller.api import FleetApi
    from edgefleet_controller.cli.settings import Settings
    from edgefleet_controller.stack.home import FleetHome

READY_TIMEOUT_S = 60.0
"""How long a stack that another terminal just started may take: as long as one of our own (`Stack.wait_ready`)."""
_POLL_S = 0.1

NOTHING_YET = "nothing here yet: type fleet apply manifest.yaml"


@dataclass(frozen=True)
class Session:
    """A connection to a controller; `lasting` tells whether it goes on when this command ends."""

    api: FleetApi
    lasting: bool


@contextmanager
def session(settings: Settings, manifest: Path, command: str, *, private: bool = True) -> Iterator[Session]:
    """Connect: to `--server`, else to the stack running on this home, else to one started until the block ends.

    Args:
        settings: the global options and ports.
        manifest: the manifest whose home is meant.
        command: what the user runs, shown to whoever finds the home busy.
        private: whether a stack that ends with the command will do.

    Raises:
        UserInputError: only a stack of one's own could be had, and none is wanted.
        EdgefleetError: no controller could be reached or started.
    """
    backend = settings.backend
    if settings.server is not None:
        with closing(backend.remote(settings.server, settings.token)) as api:
            yield Session(api, lasting=True)
        return
    home = settings.home(manifest)
    if (running := _shared(settings, home)) is not None:
        with closing(running) as api:
            yield Session(api, lasting=True)
        return
    if not private:
        msg = "--no-wait needs a controller that stays: the private stack ends with this command"
        raise UserInputError(msg, next_step="type fleet up in another terminal, or leave --no-wait out")
    with backend.stack(home, command, shared=False) as stack:
        output.words(f"started a private stack in {home.root}")
        stack.wait_ready(on_progress=output.words)
        with closing(stack.api()) as api:
            yield Session(api, lasting=False)


def _shared(settings: Settings, home: FleetHome) -> FleetApi | None:
    """Return the API of the stack of `fleet up` on this home once it is ready, or None when there is none.

    Raises:
        TransportError: it is there, but not ready within `READY_TIMEOUT_S`.
    """
    deadline_s = settings.clock_s() + READY_TIMEOUT_S
    told = ""
    while True:
        running = settings.backend.running(home, lasting=True)
        if running is not None:
            if _knows_a_device(running):
                return running
            running.close()
        if running is None and not settings.backend.starting(home):
            return None
        missing = "the controller" if running is None else "the first agent"
        if settings.clock_s() > deadline_s:
            msg = f"fleet up runs on {home.root}, but {missing} is not ready after {READY_TIMEOUT_S:g} s"
            raise TransportError(msg, next_step=f"read the logs in {home.run}")
        if missing != told:
            output.words(f"fleet up is starting; waiting for {missing}")
            told = missing
        settings.sleep_s(_POLL_S)


def _knows_a_device(api: FleetApi) -> bool:
    """Tell whether some device has said what it is: before that there is nothing to plan for."""
    from edgefleet_controller.api import Empty

    return any(row.profile is not None for row in api.devices(Empty()).devices)


def reader(settings: Settings) -> FleetApi | None:
    """Return the API to read from: `--server`, the running stack, or the store as it lies; None without any."""
    backend = settings.backend
    if settings.server is not None:
        return backend.remote(settings.server, settings.token)
    home = settings.home()
    return backend.running(home, lasting=False) or backend.stored(home)


def require_reader(settings: Settings) -> FleetApi:
    """Return the API to read from. Exits with code 1 and a friendly word when there is nothing to read."""
    if (api := reader(settings)) is None:
        output.words(NOTHING_YET)
        raise typer.Exit(1)
    return api
