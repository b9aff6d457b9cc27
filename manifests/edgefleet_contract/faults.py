"""Faults a child process commits on purpose, for rigs: what `child.run_child` must contain. Standard library only."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

_EXIT_CODE = 3
_STEP_BYTES = 16 * 1024**2
_GARBAGE = b"\x00\xff not an answer {]"


def _segv() -> NoReturn:
    os.kill(os.getpid(), signal.SIGSEGV)
    _hang()


def _hang() -> NoReturn:
    while True:
        time.sleep(3600)


def _oom() -> NoReturn:
    hoard = []
    while True:
        hoard.append(b"\x01" * _STEP_BYTES)  # not zeros: untouched zero pages cost no memory


def _garbage() -> NoReturn:
    for descriptor in _other_pipes():
        os.write(descriptor, _GARBAGE)
    os._exit(0)


def _other_pipes() -> list[int]:
    """Return the open pipes that are not standard input, output or error: the answer pipe is one of them."""
    descriptors = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    return [descriptor for descriptor in descriptors if descriptor > 2 and _is_pipe(descriptor)]


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False  # the descriptor the listing itself used


def _exit() -> NoReturn:
    os._exit(_EXIT_CODE)


FAULTS: Mapping[str, Callable[[], NoReturn]] = {
    "segv": _segv, "hang": _hang, "oom": _oom, "garbage": _garbage, "exit": _exit,
}  # fmt: skip
"""The engine of a `misbehave` variant → what it does to its process."""
