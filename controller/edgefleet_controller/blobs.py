"""Blobs: bytes kept under their own digest, in any object store that obstore speaks to; a folder by default.

A blob is written under a name of its own, checked, made durable, and only then renamed to `sha256/ab/cdef…`, so
nothing half-written is ever visible and two writers of one digest cannot hurt each other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from edgefleet_contract.base import digest_bytes, hex_of
from edgefleet_contract.errors import EdgefleetError, InternalError, UserInputError

if TYPE_CHECKING:
    from obstore.store import LocalStore

READ_LIMIT_BYTES = 512 * 1024**2
"""The longest blob `read` brings into memory unless told otherwise: larger ones are read by range or as files."""
_CHUNK_BYTES = 1024**2
_NO_SPACE = ("No space left on device", "os error 28", "quota exceeded", "os error 122")


class StorageError(EdgefleetError):
    """The blob store cannot be written or read."""


class BlobMissingError(UserInputError):
    """The blob store has no blob of this digest."""


class BlobStore:
    """Content-addressed blobs under one folder.

    Safe for threads and for several processes. Reads go through obstore, so another object store needs another
    constructor and no other change here but `materialise`, which may then copy instead of linking.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._opened: LocalStore | None = None

    @property
    def _store(self) -> LocalStore:
        with self._lock:
            if self._opened is None:
                from obstore.store import LocalStore

                self._opened = LocalStore(prefix=self._root, mkdir=True)
            return self._opened

    def path_of(self, digest: str) -> Path:
        """Return where a blob lies or would lie in the folder."""
        return self._root / _key(digest)

    def has(self, digest: str) -> bool:
        """Tell whether the blob is here, complete."""
        return self.path_of(digest).is_file()

    def size_bytes(self, digest: str) -> int:
        """Return a blob's size in bytes.

        Raises:
            BlobMissingError: it is not here.
        """
        try:
            return self.path_of(digest).stat().st_size
        except FileNotFoundError:
            raise _missing(digest) from None

    def put_bytes(self, data: bytes) -> str:
        """Keep `data` and return its digest.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        digest = digest_bytes(data)
        if not self.has(digest):
            with self._incoming() as incoming:
                _put(self._store, incoming, data)
                self._settle(incoming, digest)
        return digest

    def put_file(self, path: Path, expected: str | None = None) -> str:
        """Keep a file's content and return its digest; the file is read once, in pieces.

        Args:
            path: the file.
            expected: the digest it is said to have.

        Raises:
            UserInputError: the file cannot be read, or its content is not `expected`; nothing is kept.
            StorageError: the disk is full or the folder cannot be written.
        """
        if expected is not None and self.has(expected):
            return _require_same(path, _digest_of(path), expected)
        with _opened(path) as stream, self._incoming() as incoming:
            hashing = _Hashing(stream)
            _put(self._store, incoming, hashing)
            digest = _require_same(path, hashing.digest, expected)
            self._settle(incoming, digest)
        return digest

    def read(self, digest: str, *, limit_bytes: int = READ_LIMIT_BYTES) -> bytes:
        """Return a whole blob.

        Raises:
            BlobMissingError: it is not here.
            InternalError: it is longer than `limit_bytes`, or its bytes do not match its digest.
        """
        size_bytes = self.size_bytes(digest)
        if size_bytes > limit_bytes:
            raise InternalError(f"blob {digest} has {size_bytes} bytes; at most {limit_bytes} are read into memory")
        data = self.read_range(digest, 0, size_bytes) if size_bytes else b""
        if digest_bytes(data) != digest:
            raise _damaged(digest)
        return data

    def read_range(self, digest: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes of a blob from `offset`: fewer at its end, none beyond it.

        The bytes are not verified; whoever puts ranges together checks the digest of the whole.

        Raises:
            BlobMissingError: it is not here.
        """
        import obstore

        length = min(length, self.size_bytes(digest) - offset)
        if length <= 0 or offset < 0:
            return b""
        try:
            return bytes(obstore.get_range(self._store, _key(digest), start=offset, length=length))
        except FileNotFoundError:
            raise _missing(digest) from None

    def materialise(self, digest: str, dest: Path) -> None:
        """Put a blob's content at `dest`: a hard link where the file system allows, else a copy. Verified.

        The file must not be written to: it may share its bytes with the store.

        Raises:
            BlobMissingError: it is not here.
            InternalError: its bytes do not match its digest.
            StorageError: `dest` cannot be written.
        """
        source = self.path_of(digest)
        if not source.is_file():
            raise _missing(digest)
        with _storage_errors():
            dest.unlink(missing_ok=True)
            try:
                os.link(source, dest)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(source, dest)
        if _digest_of(dest) != digest:
            dest.unlink(missing_ok=True)
            raise _damaged(digest)

    @contextmanager
    def _incoming(self) -> Iterator[str]:
        key = f"incoming/{uuid.uuid4().hex}"
        try:
            yield key
        finally:
            with suppress(OSError):
                (self._root / key).unlink(missing_ok=True)

    def _settle(self, incoming: str, digest: str) -> None:
        # The content must be on disk before its name is, and the name before anyone is told of it.
        target = self.path_of(digest)
        with _storage_errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            staged = self._root / incoming
            staged.chmod(0o444)
            _fsync(staged)
            staged.replace(target)
            _fsync(target.parent)


class _Hashing:
    """Bytes of a stream in pieces, hashed on their way."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self._stream.read(_CHUNK_BYTES):
            self._sha256.update(chunk)
            yield chunk

    @property
    def digest(self) -> str:
        return "sha256:" + self._sha256.hexdigest()


def _key(digest: str) -> str:
    name = hex_of(digest)
    return f"sha256/{name[:2]}/{name[2:]}"


def _put(store: LocalStore, key: str, data: bytes | _Hashing) -> None:
    import obstore

    with _storage_errors():
        obstore.put(store, key, data if isinstance(data, bytes) else iter(data))


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Turn what the object store or the disk says into a `StorageError`."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (OSError, BaseError) as error:
        full = any(sign in str(error) for sign in _NO_SPACE)
        what = "no space left for blobs" if full else f"cannot write blobs: {str(error)[:300]}"
        step = "free space on the disk that holds $FLEET_HOME" if full else "check the rights of $FLEET_HOME"
        raise StorageError(what, next_step=step) from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        stream = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    with stream:
        yield stream


def _unreadable(path: Path, error: OSError) -> UserInputError:
    return UserInputError(f"cannot read {path}: {error.strerror or error}")


def _digest_of(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _require_same(path: Path, got: str, expected: str | None) -> str:
    if expected is not None and got != expected:
        raise UserInputError(
            f"{path} is not what it was said to be: got {got}, expected {expected}",
            next_step="run the command again; the file changed while it was read, or was damaged on its way",
        )
    return got


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _missing(digest: str) -> BlobMissingError:
    return BlobMissingError(f"no blob {digest} here", next_step="run `fleet apply` with the files that make it")


def _damaged(digest: str) -> InternalError:
    return InternalError(f"blob {digest} is damaged on disk", next_step="delete its file and run `fleet apply` again")
