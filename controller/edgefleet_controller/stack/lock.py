"""One stack a home: a file lock the kernel releases at death, `kill -9` included."""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from edgefleet_contract.errors import UserInputError

_TRIES_N = 5
_PAUSE_S = 0.05
_MAX_BYTES = 4096


class HomeBusyError(UserInputError):
    """Another process runs the stack of this home."""


@dataclass(frozen=True)
class LockHolder:
    """Who holds a lock. `pid` is 0 when the file does not say."""

    pid: int
    command: str


class HomeLock:
    """The lock of one home. Held from `acquire` until `release` or the process's death.

    The descriptor is closed on exec, so child processes never hold the lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self, command: str) -> None:
        """Take the lock for this process.

        Args:
            command: what the user runs (`fleet apply m.yaml`), shown to whoever comes second.

        Raises:
            HomeBusyError: another process holds it; nothing was changed.
            UserInputError: the file system cannot lock, or the file cannot be opened.
        """
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            msg = f"cannot open the lock {self._path}: {error.strerror}"
            raise UserInputError(msg, next_step="make it writable, or set FLEET_HOME to another folder") from error
        try:
            self._lock(fd)
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps({"pid": os.getpid(), "command": command[:1000]}).encode(), 0)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _lock(self, fd: int) -> None:
        for attempt in range(_TRIES_N):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Someone who only asks (`holder`) has the file for microseconds; a stack has it for longer.
                if attempt + 1 < _TRIES_N:
                    time.sleep(_PAUSE_S)
            except OSError as error:
                msg = f"the file system of {self._path} cannot lock files: {error.strerror}"
                raise UserInputError(msg, next_step="set FLEET_HOME to a folder on a local disk") from error
            else:
                return
        raise _busy(self._path)

    def release(self) -> None:
        """Give the lock back. Safe to call twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _busy(path: Path) -> HomeBusyError:
    holder = _read(path)
    msg = f"process {holder.pid} (`{holder.command}`) already works on {path.parent.parent}; nothing was changed"
    step = "wait until it ends, or keep one stack running with `fleet up` and apply against it"
    return HomeBusyError(msg, next_step=step)


def holder(path: Path) -> LockHolder | None:
    """Return who holds the lock at `path` now, or None when nobody does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(path)
    except OSError:
        return None
    finally:
        os.close(fd)
    return None


def _read(path: Path) -> LockHolder:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_BYTES))
        return LockHolder(int(content["pid"]), str(content["command"]))
    except (OSError, ValueError, TypeError, KeyError):
        return LockHolder(0, "unknown")
