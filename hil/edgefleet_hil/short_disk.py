"""An agent whose disk fills up while it fetches: `python -m edgefleet_hil.short_disk run …`, the real agent's options.

`EDGEFLEET_HIL_DISK_BYTES` says how many bytes of chunks fit; files that are deleted make room again::

    StackOptions(programs=Programs(agent=AGENT), env={DISK_BYTES: "65536"})
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from edgefleet_agent.__main__ import build_parser
from edgefleet_agent.commands import run
from edgefleet_agent.filesystem import Filesystem

AGENT = (sys.executable, "-m", "edgefleet_hil.short_disk", "run")
"""The command of this agent, for `Programs`."""
DISK_BYTES = "EDGEFLEET_HIL_DISK_BYTES"


class ShortDisk(Filesystem):
    """A file system with room for so many bytes of chunks; beyond it, a write fails as on a full disk."""

    def __init__(self, room_bytes: int) -> None:
        self._room_bytes = room_bytes
        self._used_bytes: dict[Path, int] = {}

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """Write bytes into an existing file. Raises OSError (ENOSPC) when they do not fit."""
        used_bytes = sum(self._used_bytes.values())
        if used_bytes + len(data) > self._room_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self._used_bytes[path] = self._used_bytes.get(path, 0) + len(data)
        super().write_at(path, offset, data)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name; what it takes goes with it."""
        super().rename(source, target)
        if source in self._used_bytes:
            self._used_bytes[target] = self._used_bytes.pop(source)

    def remove(self, path: Path) -> None:
        """Delete a file; its room is free again."""
        super().remove(path)
        self._used_bytes.pop(path, None)


def main() -> None:
    """Run the agent on a short disk."""
    options = build_parser().parse_args()
    sys.exit(run(options, ShortDisk(int(os.environ[DISK_BYTES]))))


if __name__ == "__main__":
    main()
