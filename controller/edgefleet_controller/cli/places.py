"""Places results go to, checked before the work whose result goes there."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

from edgefleet_contract.errors import UserInputError


def require_writable(path: Path | None, option: str) -> None:
    """Check that a file can be written; nothing is asked for where there is none. Raises UserInputError."""
    if path is None:
        return
    folder = path.resolve().parent
    if path.is_dir() or not folder.is_dir() or not _holds_files(folder):
        kind = "a folder" if path.is_dir() else "its folder takes no files" if folder.is_dir() else "no such folder"
        msg = f"{option} {path}: cannot be written: {kind}"
        raise UserInputError(msg, next_step=f"name another place: {option} FILE")


def require_writable_folder(path: Path | None, option: str) -> None:
    """Check that files can be written below a folder, which need not exist yet. Raises UserInputError."""
    if path is None:
        return
    above = next(each for each in (path.resolve(), *path.resolve().parents) if each.exists())
    if not above.is_dir() or not _holds_files(above):
        kind = f"nothing can be written in {above}" if above.is_dir() else f"{above} is a file"
        raise UserInputError(f"{option} {path}: {kind}", next_step=f"name another folder: {option} DIR")


def _holds_files(folder: Path) -> bool:
    """Tell whether a folder takes files: some whose permissions say so, such as /proc, do not."""
    try:
        with TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
