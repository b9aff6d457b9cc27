"""Find the controller a command talks to, or start one for as long as the command runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgefleet_controller.cli import output

if TYPE_CHECKING:
    from edgefleet_controller.api import FleetApi
    from edgefleet_controller.cli.settings import Settings

NOTHING_YET = "nothing here yet: type fleet apply manifest.yaml"


@dataclass(frozen=True)
class Session:
    """A connection to a controller; `lasting` tells whether it goes on when this command ends."""

    api: FleetApi
    lasting: bool


@contextmanager
def session(settings: Settings, manifest: Path, command: str) -> Iterator[Session]:
    """Connect: to `--server`, else to the stack running on this home, else to one started until the block ends.

    Args:
        settings: the global options and ports.
        manifest: the manifest whose home is meant.
        command: what the user runs, shown to whoever finds the home busy.

    Raises:
        EdgefleetError: no controller could be reached or started.
    """
    backend = settings.backend
    if settings.server is not None:
        yield Session(backend.remote(settings.server, settings.token), lasting=True)
        return
    home = settings.home(manifest)
    if (running := backend.running(home, lasting=True)) is not None:
        yield Session(running, lasting=True)
        return
    with backend.stack(home, command, shared=False) as stack:
        output.words(f"started a private stack in {home.root}")
        stack.wait_ready(on_progress=output.words)
        yield Session(stack.api(), lasting=False)


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
