"""Reads sysfs attributes so that no file, whatever stands in its place, hangs or floods the agent.

A FIFO blocks `open()` for ever, a folder may hold thousands of entries, an attribute may hold megabytes or garbage, and
`int()` takes `5_000`. So: only regular files are opened, without blocking; reads, entries and digits are bounded;
numbers are parsed strictly.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

MAX_ATTRIBUTE_BYTES = 256
"""The longest attribute read here is a name; the kernel's own limit is one page."""
MAX_ENTRIES = 8192
"""Entries of a folder that are looked at; a large server has some hundred."""
MAX_MATCHES = 2048
"""Entries of a folder that are used; each costs some file reads: this bounds a probe to about a second."""
MAX_NAME_CHARS = 64
_NUMBER = re.compile(rb"-?[0-9]{1,20}")
"""A 64-bit number has at most 20 digits."""
MAX_PLAIN_DIGITS = 18
"""So many digits need no check of their size."""
_PADDING = b" \t\n\r\x00"


class SensorFileError(Exception):
    """An attribute that cannot be read or holds no number; the message says which and why, without its folder."""


def parse_int(raw: bytes) -> int:
    """Return the whole number an attribute holds: an optional minus and digits, padded with white space; 64 bits.

    Raises:
        SensorFileError: anything else, such as `5_000`, `0x10`, `1.5`, `+3` or nothing.
    """
    text = raw.strip(_PADDING)
    if not _NUMBER.fullmatch(text) or abs(number := int(text)) >= 2**64:
        shown = text[:24].decode("ascii", "replace")
        msg = f"holds {shown!r}, not a whole number of 64 bits"
        raise SensorFileError(msg)
    return number


def open_attribute(path: Path) -> int:
    """Return a descriptor of a regular file, opened without blocking.

    Raises:
        SensorFileError: not there, not readable, or not a regular file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            msg = f"{path.name} is not a regular file"
            raise SensorFileError(msg)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise SensorFileError(_words(path, error)) from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)  # swapped between the two calls
    msg = f"{path.name} is not a regular file"
    raise SensorFileError(msg)


def _words(path: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"{path.name} may be read by root only"
    return f"{path.name}: {error.strerror or 'cannot be read'}"


def read_bytes(path: Path, limit_bytes: int = MAX_ATTRIBUTE_BYTES) -> bytes:
    """Return the first `limit_bytes` of an attribute.

    Raises:
        SensorFileError: it cannot be read.
    """
    descriptor = open_attribute(path)
    try:
        return os.read(descriptor, limit_bytes)
    except OSError as error:
        raise SensorFileError(_words(path, error)) from error
    finally:
        os.close(descriptor)


def read_int(path: Path) -> int:
    """Return the number an attribute holds.

    Raises:
        SensorFileError: it cannot be read or holds no number.
    """
    try:
        return parse_int(read_bytes(path))
    except SensorFileError as error:
        text = str(error)
        raise SensorFileError(text if text.startswith(path.name) else f"{path.name} {text}") from error


def try_int(path: Path) -> int | None:
    """Return the number an attribute holds, or None."""
    try:
        return read_int(path)
    except SensorFileError:
        return None


def exists(path: Path) -> bool:
    """Tell whether something is there; what may not be looked at is not."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def printable(text: str) -> str:
    """Return a name from outside with everything odd shown as `?`, at most 64 characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:MAX_NAME_CHARS]


def read_word(path: Path) -> str:
    """Return a name or word as printable text of at most 64 characters, or "" when there is none."""
    try:
        text = read_bytes(path).split(b"\x00", 1)[0].decode("utf-8", "replace").strip()
    except SensorFileError:
        return ""
    return printable(text)


@dataclass(frozen=True)
class Listing:
    """Entries of a folder whose name matched, by their number; `cut` when there were more than are looked at."""

    entries: tuple[tuple[int, Path], ...] = field(default=())
    cut: bool = False


def list_numbered(folder: Path, pattern: re.Pattern[str], *, limit_n: int = MAX_MATCHES) -> Listing:
    """Return a folder's entries whose whole name matches, ordered by the number in the pattern's first group.

    A folder that is not there has none.
    """
    found: list[tuple[int, Path]] = []
    looked_n = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                looked_n += 1
                if looked_n > MAX_ENTRIES:
                    break
                match = pattern.fullmatch(entry.name)
                if match is not None:
                    found.append((int(match[1]) if match.groups() and match[1] else 0, folder / entry.name))
    except OSError:
        return Listing()
    found.sort(key=lambda item: (item[0], item[1].name))
    return Listing(tuple(found[:limit_n]), cut=looked_n > MAX_ENTRIES or len(found) > limit_n)


def is_folder(path: Path) -> bool:
    """Tell whether a folder is there; a symbolic link in a loop is none."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def real(path: Path) -> str:
    """Return the path with links resolved, or as it is when that fails: the identity of a folder seen twice."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)
