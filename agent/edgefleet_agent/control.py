"""Orders from this device's own command line: files in `requests/`, taken when the agent is told to look.

With an agent running, an order lies in the folder until the agent has answered beside it; SIGUSR1 tells it to look.
No socket: its path would be too long in deep homes, and no port can be mistaken for somebody else's.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from edgefleet_agent.filesystem import Filesystem
from edgefleet_contract.base import Name, Reason, Record
from edgefleet_contract.errors import DeviceError, WireError
from edgefleet_contract.wire import MAX_MESSAGE_BYTES, decode

FOLDER = "requests"
SIGNAL = signal.SIGUSR1
ANSWER_TIMEOUT_S = 30.0
MAX_ORDERS = 64
_POLL_S = 0.05


class Order(Record):
    """What somebody at the device wants."""

    do: Literal["undo", "requalify"]
    model: Name


class OrderAnswer(Record):
    """What became of an order."""

    ok: bool
    told: Reason


def waiting(home: Path) -> Iterator[tuple[Path, Order | None]]:
    """Yield orders that wait, oldest first, with their files; None for one that cannot be read."""
    folder = home / FOLDER
    if not folder.is_dir():
        return
    files = sorted(folder.glob("*.json"), key=lambda path: path.name)
    for path in files[:MAX_ORDERS]:
        yield path, _read(path)


def _read(path: Path) -> Order | None:
    try:
        with path.open("rb") as file:
            return decode(Order, file.read(MAX_MESSAGE_BYTES))
    except (OSError, WireError):
        return None


def answer(path: Path, told: OrderAnswer, filesystem: Filesystem) -> None:
    """Answer an order and take it off the pile. Raises OSError."""
    beside = path.with_suffix(".new")
    filesystem.write(beside, told.canonical_json())
    filesystem.rename(beside, path.with_suffix(".answer"))
    filesystem.remove(path)


def agent_that_runs(lock: Path) -> int | None:
    """Return the process that a home's lock names, where it is an agent that serves; None for anything else."""
    try:
        with lock.open("rb") as file:
            pid = int(file.read(32))
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if pid > 1 and b"run" in argv and any(b"edgefleet" in word for word in argv) else None


def submit(
    home: Path,
    order: Order,
    agent_pid: int,
    *,
    clock_s: Callable[[], float] = time.monotonic,
    sleep_s: Callable[[float], None] = time.sleep,
) -> OrderAnswer:
    """Hand an order to the agent that runs on a home, and wait for its answer.

    Raises:
        DeviceError: the agent does not answer in time.
    """
    filesystem = Filesystem()
    filesystem.make_folder(home / FOLDER)
    path = home / FOLDER / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.json"
    filesystem.write(path.with_suffix(".new"), order.canonical_json())
    filesystem.rename(path.with_suffix(".new"), path)
    os.kill(agent_pid, SIGNAL)
    until_s = clock_s() + ANSWER_TIMEOUT_S
    told = path.with_suffix(".answer")
    while not told.exists():
        if clock_s() > until_s:
            filesystem.remove(path)
            msg = f"the agent (process {agent_pid}) gave no answer in {ANSWER_TIMEOUT_S:g} s"
            raise DeviceError(msg, next_step="see its log; stop it and try again")
        sleep_s(_POLL_S)
    try:
        with told.open("rb") as file:
            return decode(OrderAnswer, file.read(MAX_MESSAGE_BYTES))
    finally:
        filesystem.remove(told)
