"""Where a fleet keeps its data on this machine: `$FLEET_HOME`, and the layout below it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgefleet_contract.errors import UserInputError
from edgefleet_contract.units import format_bytes

FOLDER = ".fleet"
MIN_FREE_BYTES = 64 * 1024**2
"""Below this, a stack does not start: SQLite, its write-ahead log and the process logs need room to say why."""


@dataclass(frozen=True)
class FleetHome:
    """The folder of one fleet. Nothing is created before `create`."""

    root: Path

    @property
    def controller(self) -> Path:
        """The controller's folder: store, blobs, work."""
        return self.root / "controller"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.controller / "fleet.db"

    @property
    def blobs(self) -> Path:
        """Content-addressed files."""
        return self.controller / "blobs"

    @property
    def work(self) -> Path:
        """Scratch space of the controller: uploads, builds."""
        return self.controller / "work"

    def agent(self, device: str) -> Path:
        """Return the folder of the agent for `device` on this machine."""
        return self.root / "agents" / device

    @property
    def run(self) -> Path:
        """What only a running stack needs: lock, `stack.json`, logs."""
        return self.root / "run"

    @property
    def lock(self) -> Path:
        """The file a running stack holds locked."""
        return self.run / "lock"

    @property
    def stack(self) -> Path:
        """Address, token and process ids of the running stack."""
        return self.run / "stack.json"

    def log(self, name: str) -> Path:
        """Return the log file of the child process `name`."""
        return self.run / f"{name}.log"

    def create(self) -> FleetHome:
        """Make the folders (0700) where they are missing, and check that they can be written.

        Raises:
            UserInputError: the folder cannot be made or written.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.controller, self.blobs, self.work, self.root / "agents", self.run):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._keep_out_of_git()
            with tempfile.TemporaryFile(dir=self.run):
                pass
        except OSError as error:
            msg = f"cannot write to the fleet's home {self.root}: {error.strerror or error}"
            step = "make that folder writable, or set FLEET_HOME to a folder you can write to"
            raise UserInputError(msg, next_step=step) from error
        return self

    def _keep_out_of_git(self) -> None:
        # The default home lies beside the manifest, which usually is in a repository.
        ignore = self.root / ".gitignore"
        if self.root.name == FOLDER and not ignore.exists():
            ignore.write_text("*\n", encoding="ascii")

    def free_bytes(self) -> int:
        """Return how many bytes can still be written below the home."""
        return shutil.disk_usage(self.root).free

    def require_free(self, needed_bytes: int = MIN_FREE_BYTES) -> None:
        """Check that `needed_bytes` can still be written. Raises UserInputError."""
        free_bytes = self.free_bytes()
        if free_bytes < needed_bytes:
            msg = (
                f"only {format_bytes(free_bytes)} are free on the disk of {self.root}; "
                f"needed: {format_bytes(needed_bytes)}"
            )
            raise UserInputError(msg, next_step="free some space, or set FLEET_HOME to a folder on another disk")


def find_home(
    manifest: Path | None = None, *, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> FleetHome:
    """Say which home a command means: `$FLEET_HOME`, else beside the manifest, else the nearest one above.

    Without a manifest the current folder and its parents are searched; when none has a home, the
    current folder's is meant. Nothing is created.

    Args:
        manifest: the manifest the command was given.
        environ: environment; default: this process's.
        cwd: current folder; default: this process's.
    """
    variables = os.environ if environ is None else environ
    here = (Path.cwd() if cwd is None else cwd).absolute()
    if named := variables.get("FLEET_HOME"):
        return FleetHome((here / Path(named).expanduser()).resolve())
    if manifest is not None:
        return FleetHome((here / manifest).resolve().parent / FOLDER)
    nearest = next((folder for folder in (here, *here.parents) if (folder / FOLDER).is_dir()), here)
    return FleetHome(nearest / FOLDER)
