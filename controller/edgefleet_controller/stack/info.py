"""What a running stack tells other commands on this machine: `run/stack.json`."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from edgefleet_contract.base import Record
from edgefleet_contract.errors import DeviceError
from edgefleet_controller.stack.home import FleetHome
from edgefleet_controller.stack.lock import LockHolder, holder

_MAX_BYTES = 65_536


class StackInfo(Record):
    """A running stack. The token opens its controller: the file is for its owner only (0600)."""

    pid: int
    """The supervisor."""
    command: str
    """What the user ran to start it."""
    shared: bool
    """True for `fleet up`: other commands may work against it. False: it ends with the apply it was started for."""
    url: str
    token: str
    broker: str
    pids: dict[str, int]
    """The children: broker, controller, agent."""


def write_info(path: Path, info: StackInfo) -> None:
    """Write `info` in one step, readable by its owner only."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(json.dumps(info.model_dump(mode="json"), indent=2).encode() + b"\n")
    partial.replace(path)


def read_info(path: Path) -> StackInfo | None:
    """Return what the file says, or None when it is missing or not ours."""
    try:
        with path.open("rb") as file:
            return StackInfo.model_validate_json(file.read(_MAX_BYTES))
    except (OSError, ValidationError):
        return None


def pid_alive(pid: int) -> bool:
    """Tell whether a process with this id exists."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def find_running(home: FleetHome, *, answers: Callable[[StackInfo], bool] | None = None) -> StackInfo | None:
    """Return the running stack of a home, or None.

    Running means: the lock is held, by the process the file names, and the controller answers to the file's token. A
    file that a killed stack left behind is ignored.

    Args:
        home: the home to look at; nothing is written there.
        answers: asks the controller whether it is there; default: over HTTP.
    """
    owner = holder(home.lock)
    info = read_info(home.stack)
    if owner is None or info is None or info.pid != owner.pid or not pid_alive(info.pid):
        return None
    return info if (answers or _answers)(info) else None


def is_starting(home: FleetHome) -> bool:
    """Tell whether a stack others may use holds this home's lock, whether or not its controller answers yet.

    A stack that has not yet written its file counts too: what it will be is known a moment later.
    """
    owner = holder(home.lock)
    if owner is None:
        return False
    info = read_info(home.stack)
    return info is None or info.pid != owner.pid or info.shared


def _answers(info: StackInfo) -> bool:
    from edgefleet_controller.stack.client import is_healthy

    return is_healthy(info.url, info.token)


def stop_running(
    home: FleetHome,
    *,
    timeout_s: float = 20.0,
    clock_s: Callable[[], float] = time.monotonic,
    sleep_s: Callable[[float], None] = time.sleep,
) -> LockHolder | None:
    """End the process that runs this home's stack, and wait until it and its children are gone.

    Returns:
        Who was stopped, or None when nothing was running.

    Raises:
        DeviceError: it did not end within `timeout_s`, or belongs to someone else.
    """
    owner = holder(home.lock)
    if owner is None:
        return None
    _terminate(owner)
    deadline_s = clock_s() + timeout_s
    while holder(home.lock) is not None:
        if clock_s() > deadline_s:
            msg = f"process {owner.pid} (`{owner.command}`) did not stop within {timeout_s:g} s"
            raise DeviceError(msg, next_step=f"run `kill -9 {owner.pid}`; its children end by themselves")
        sleep_s(0.05)
    return owner


def _terminate(owner: LockHolder) -> None:
    if owner.pid <= 0:
        raise DeviceError("the lock is held, but its file does not say by whom", next_step="find it with `lsof`")
    try:
        os.kill(owner.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        msg = f"process {owner.pid} (`{owner.command}`) belongs to another user"
        raise DeviceError(msg, next_step="stop it as that user") from error
