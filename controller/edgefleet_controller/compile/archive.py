"""`.npz` files as plain zip archives whose bytes depend on their content only."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

MAX_ARRAYS = 64
MAX_RAW_BYTES = 1024**3
"""Bounds on the arrays of one `.npz`, read from its directory before anything is unpacked."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_LEVEL = 6
_SUFFIX = ".npy"
ZLIB_VERSION = zlib.ZLIB_RUNTIME_VERSION
"""Another zlib may deflate the same arrays to other bytes, so it is part of each build key."""


class ArchiveError(ValueError):
    """Not an `.npz` file that is safe to read; the message says why, without naming the file."""


def pack(members: Mapping[str, bytes]) -> bytes:
    """Return an `.npz` of `.npy` contents by array name: sorted, deflated, without time or owner."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name + _SUFFIX, date_time=_EPOCH)
            info.create_system = 3  # Unix, whatever this machine is
            info.external_attr = 0o644 << 16
            archive.writestr(info, members[name], compress_type=zipfile.ZIP_DEFLATED, compresslevel=_LEVEL)
    return buffer.getvalue()


def members(path: Path) -> dict[str, int]:
    """Return the arrays of an `.npz` and their sizes in bytes, without unpacking any.

    Raises:
        ArchiveError: not a zip archive, a member that is no array, too many arrays, or too many bytes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ArchiveError(f"not an .npz file: {error}") from error
    strange = next((info.filename for info in infos if not info.filename.endswith(_SUFFIX)), None)
    if strange is not None:
        raise ArchiveError(f"not an .npz file: it holds {strange[:100]!r}, which is no array")
    if len(infos) > MAX_ARRAYS:
        raise ArchiveError(f"it holds {len(infos)} arrays; allowed: {MAX_ARRAYS}")
    sizes = {info.filename.removesuffix(_SUFFIX): info.file_size for info in infos}
    if len(sizes) != len(infos):
        raise ArchiveError("two of its arrays have one name")
    if (total_bytes := sum(sizes.values())) > MAX_RAW_BYTES:
        raise ArchiveError(f"its arrays have {total_bytes} bytes unpacked; allowed: {MAX_RAW_BYTES}")
    return sizes


def unpack(path: Path, names: frozenset[str] | None = None) -> dict[str, bytes]:
    """Return the `.npy` content of each array, or of those named.

    Raises:
        ArchiveError: as `members`, or a member is damaged.
    """
    wanted = members(path).keys() if names is None else names
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name + _SUFFIX) for name in wanted}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArchiveError(f"damaged .npz file: {error}") from error


def repack(path: Path) -> bytes:
    """Return the canonical bytes of an `.npz` written by whatever wrote it. Raises ArchiveError as `unpack`."""
    return pack(unpack(path))
