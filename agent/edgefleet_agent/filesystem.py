"""The few file operations the agent's safety rests on, as a port: a test lets any of them fail or be the last."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


class Filesystem:
    """The operating system's own file operations. Each either happens as a whole or not at all, or says so."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a file and force it to disk."""
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def allocate(self, path: Path, size_bytes: int) -> None:
        """Make a file of this size with its blocks reserved, so that a full disk shows now and not half-way."""
        with path.open("wb") as file:
            if size_bytes > 0 and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            else:
                file.truncate(size_bytes)

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """Write bytes into an existing file."""
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def sync(self, path: Path) -> None:
        """Force a file or a folder's entries to disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it, where they do not exist, and force their names to disk."""
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            Filesystem.sync(self, folder.parent)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file, link or folder another name at once; a file or link of that name is replaced."""
        source.rename(target)

    def symlink(self, link: Path, target: str) -> None:
        """Make a symbolic link."""
        link.symlink_to(target)

    def link_or_copy(self, source: Path, target: Path) -> None:
        """Give a file a second name; where the file system knows no hard links, copy it and force the copy to disk."""
        try:
            target.hardlink_to(source)
        except FileExistsError:
            raise
        except OSError:
            shutil.copyfile(source, target)
            Filesystem.sync(self, target)

    def remove(self, path: Path) -> None:
        """Delete a file, a link or a whole folder, if there."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def free_bytes(self, path: Path) -> int:
        """Return the free space of the disk that holds a folder."""
        return shutil.disk_usage(path).free
