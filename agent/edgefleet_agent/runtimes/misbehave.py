"""A runtime that misbehaves on purpose, for rigs and tests: the variant's engine names the fault.

It is offered only where a job says `test_runtimes`. Everything but `wrong` happens while loading, which is where a
damaged file or a bad driver usually strikes.
"""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from edgefleet_agent.runtimes.base import Array, Feeds, Session
from edgefleet_contract.artifact import TensorSpec
from edgefleet_contract.evidence import PlacementResult
from edgefleet_contract.profile import EngineProbe, ProbeStatus
from edgefleet_contract.variant import ENGINES, Variant, parse_variant

_EXIT_CODE = 3
_STEP_BYTES = 16 * 1024**2
_GARBAGE = b"\x00\xff not an answer {]"


class MisbehaveRuntime:
    """Faults on demand."""

    @property
    def version(self) -> str:
        """There is one version."""
        return "1"

    def probe(self) -> tuple[EngineProbe, ...]:
        """Return every fault as available."""
        return tuple(
            EngineProbe(target=f"misbehave/{engine}", status=ProbeStatus.AVAILABLE, version=self.version)
            for engine in ENGINES["misbehave"]
        )

    def load(self, path: Path, *, variant: Variant, threads: int, spinning: bool) -> Session:
        """Commit the fault the engine names; `wrong` loads, and computes wrong outputs."""
        if variant.engine == "wrong":
            return WrongSession(_load_truly(path, variant, threads, spinning=spinning))
        return _FAULTS[variant.engine]()


class WrongSession:
    """A sound session whose first output class is dead: the fault a broken delegate shows."""

    def __init__(self, inner: Session) -> None:
        self._inner = inner

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model declares to take."""
        return self._inner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model declares to give."""
        return self._inner.outputs

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return the true outputs with the first entry of the last axis set to zero."""
        altered = {name: value.copy() for name, value in self._inner.run(feeds).items()}
        for value in altered.values():
            if value.ndim:
                value[..., 0] = 0
        return altered

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Return the sound session's call: its timing is not the fault."""
        return self._inner.bind(feeds)

    def placement(self) -> PlacementResult | None:
        """Return the sound session's placement."""
        return self._inner.placement()

    def close(self) -> None:
        """Free the model."""
        self._inner.close()


def _load_truly(path: Path, variant: Variant, threads: int, *, spinning: bool) -> Session:
    from edgefleet_agent.runtimes.ort import RUNTIME as ORT

    return ORT.load(path, variant=parse_variant(f"ort/cpu/{variant.precision}"), threads=threads, spinning=spinning)


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
    for fd in _other_pipes():
        os.write(fd, _GARBAGE)
    os._exit(0)


def _other_pipes() -> list[int]:
    """Return the open pipes that are not standard input, output or error: the answer pipe is one of them."""
    fds = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    return [fd for fd in fds if fd > 2 and _is_pipe(fd)]


def _is_pipe(fd: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False  # the descriptor the listing itself used


def _exit() -> NoReturn:
    os._exit(_EXIT_CODE)


_FAULTS: dict[str, Callable[[], NoReturn]] = {
    "segv": _segv, "hang": _hang, "oom": _oom, "garbage": _garbage, "exit": _exit,
}  # fmt: skip

RUNTIME = MisbehaveRuntime()
