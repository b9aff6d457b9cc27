"""A file system that loses power: what was not forced to disk before the cut may be lost, as on a real one.

The model is a journalling file system in ordered mode (ext4's default). Changes of names and folders become durable in
the order they were made, all earlier ones with the next `sync`; the content written into a file becomes durable with
its own `sync`. At a cut, a random number of the last unsynced changes of names is undone, and each unsynced piece of
content is kept or lost by itself.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgefleet_agent.filesystem import Filesystem


class PowerCutError(Exception):
    """The machine is down: no operation succeeds any more."""


@dataclass(frozen=True)
class _Name:
    """A change of names that is not durable yet, and how it is undone."""

    undo: Callable[[], None]


@dataclass(frozen=True)
class _Content:
    """Bytes that are not durable yet: where they lie and what was there before."""

    path: Path
    offset: int
    before: bytes


class PowerCutFilesystem(Filesystem):
    """Real operations on a real folder, until the power goes.

    Args:
        graveyard: an empty folder on the same disk, where what was replaced or removed waits until that is durable.
        cut_after: how many operations still succeed; None: the power stays.
        rng: decides what survives.
    """

    def __init__(self, graveyard: Path, cut_after: int | None, rng: random.Random) -> None:
        self._graveyard = graveyard
        self._left = cut_after
        self._rng = rng
        self._names: list[_Name] = []
        self._contents: list[_Content] = []
        self._lock = threading.RLock()
        self._buried_n = 0
        self.down = False
        """Whether the power is gone."""
        self.operations_n = 0

    def write(self, path: Path, data: bytes) -> None:
        """Write a file and force its content, not its name, to disk."""
        self._operate()
        self._bury(path)
        super().write(path, data)
        self._made(path)

    def allocate(self, path: Path, size_bytes: int) -> None:
        """Make a file of this size."""
        self._operate()
        self._bury(path)
        super().allocate(path, size_bytes)
        self._made(path)

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """Write bytes into an existing file."""
        self._operate()
        with path.open("rb") as file:
            file.seek(offset)
            before = file.read(len(data))
        with self._lock:
            self._contents.append(_Content(path, offset, before))
        super().write_at(path, offset, data)

    def sync(self, path: Path) -> None:
        """Make names durable, and the content of this file."""
        self._operate()
        super().sync(path)
        with self._lock:
            self._names.clear()
            self._contents = [content for content in self._contents if content.path != path]

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it."""
        self._operate()
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        super().make_folder(path)
        for folder in reversed(missing):
            self._note(folder.rmdir)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file, link or folder another name."""
        self._operate()
        with self._lock:
            before_n = len(self._names)
            self._bury(target)
            super().rename(source, target)
            replaced = self._names[before_n:]  # one change: at no moment is there neither the old nor the new
            del self._names[before_n:]
            self._names.append(_Name(lambda: _put_back(target, source, replaced)))
            self._contents = [
                _Content(target, content.offset, content.before) if content.path == source else content
                for content in self._contents
            ]

    def symlink(self, link: Path, target: str) -> None:
        """Make a symbolic link."""
        self._operate()
        super().symlink(link, target)
        self._made(link)

    def link_or_copy(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        self._operate()
        super().link_or_copy(source, target)
        self._made(target)

    def remove(self, path: Path) -> None:
        """Delete a file, a link or a whole folder, if there."""
        self._operate()
        self._bury(path)

    def lose(self) -> None:
        """Undo what the cut lost. The folder is then as the next boot finds it."""
        with self._lock:
            for content in reversed(self._contents):
                if self._rng.random() < 0.5 and content.path.exists():
                    Filesystem().write_at(content.path, content.offset, content.before)
            lost_n = self._rng.randint(0, len(self._names))
            for _ in range(lost_n):
                self._names.pop().undo()
            self._names.clear()
            self._contents.clear()

    def _operate(self) -> None:
        """Count an operation, or find the power gone."""
        with self._lock:
            if self._left is not None and self._left <= self.operations_n:
                self.down = True
            if self.down:
                raise PowerCutError
            self.operations_n += 1

    def _bury(self, path: Path) -> None:
        """Move what stands at a path out of the way, so that a cut can bring it back."""
        if not path.is_symlink() and not path.exists():
            return
        with self._lock:
            self._buried_n += 1
            grave = self._graveyard / str(self._buried_n)
            path.rename(grave)
            self._note(lambda: grave.rename(path))

    def _made(self, path: Path) -> None:
        self._note(lambda: Filesystem().remove(path))

    def _note(self, undo: Callable[[], object]) -> None:
        with self._lock:
            self._names.append(_Name(lambda: (undo(), None)[1]))


def _put_back(target: Path, source: Path, replaced: list[_Name]) -> None:
    target.rename(source)
    for name in replaced:
        name.undo()
