"""ONNX sources that keep weights in other files: joined into one file, which has one digest and travels as one.

`plain` is safe in any process; the joining itself happens in a compile child.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from edgefleet_contract.errors import DeviceError, UserInputError
from edgefleet_controller.compile.protocol import JoinRequest
from edgefleet_controller.compile.steps import ChildSteps, StepError

_MARK = b"\n\x08location"
"""How protobuf writes the key of an external tensor's file: field 1 of StringStringEntryProto, 8 bytes."""
_BLOCK_BYTES = 1024**2


def plain(source: Path, root: Path, shown_as: str) -> Path:
    """Return a source in one file: itself, or a joined copy that lies in a scratch folder until this process ends.

    Args:
        source: an ONNX model, or anything else, which is returned as it is.
        root: the folder its other files must lie in.
        shown_as: the source's name for messages.

    Raises:
        UserInputError: a file it names is missing, leaves the folder, is too short, or the whole is too large.
        DeviceError: the child that joins it died.
    """
    if not _has_mark(source):
        return source
    out = _scratch() / f"{abs(hash(source))}-{source.name}"
    try:
        ChildSteps().join(JoinRequest(source=str(source.resolve()), root=str(root.resolve()), out=str(out)))
    except StepError as error:
        if error.fault is None:
            raise DeviceError(f"{shown_as}: {error.message}") from error
        raise UserInputError(f"{shown_as} {error.message}", next_step=error.fault.next_step) from error
    return out


def _has_mark(path: Path) -> bool:
    kept = b""
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            if _MARK in kept + block:
                return True
            kept = block[-len(_MARK) :]
    return False


@functools.cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="edgefleet-joined-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
