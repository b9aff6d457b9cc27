"""Target `misbehave`, for rigs: fp32 ships the source to the agent's test runtime; int8 is a converter that commits the
fault itself, while it builds."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from edgefleet_contract.variant import parse_variant
from edgefleet_controller.compile import onnx_check
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest

_EXIT_CODE = 3
_STEP_BYTES = 64 * 1024**2
_GARBAGE = b"\x00\xff not an answer {]"


def build(request: BuildRequest) -> BuildAnswer:
    """Copy the source, or commit the fault the engine names. Raises CompileFaultError as `onnx_check.load`."""
    inputs, outputs = onnx_check.io_specs(onnx_check.load(Path(request.source)))
    variant = parse_variant(request.variant)
    if variant.precision == "int8":
        _FAULTS[variant.engine]()
    shutil.copyfile(request.source, request.out)
    return BuildAnswer(inputs=inputs, outputs=outputs)


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
    for entry in Path("/proc/self/fd").iterdir():
        descriptor = int(entry.name)
        if descriptor > 2 and _is_pipe(descriptor):
            os.write(descriptor, _GARBAGE)
    os._exit(0)


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False  # the descriptor the listing itself used


def _exit() -> NoReturn:
    os._exit(_EXIT_CODE)


_FAULTS: Mapping[str, Callable[[], NoReturn]] = {
    "segv": _segv, "hang": _hang, "oom": _oom, "garbage": _garbage, "exit": _exit,
}  # fmt: skip
