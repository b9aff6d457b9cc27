"""Blobs and artifacts on the device's disk: parts that survive a restart, whole blobs by digest, artifact folders.

`blobs/<hex>` and `artifacts/<hex>/` only ever appear whole: they are made beside under another name, forced to disk
and renamed. An artifact's files are hard links to its blobs, so samples that variants share lie on disk once.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from edgefleet_agent.filesystem import Filesystem
from edgefleet_agent.transfer import bitmap_bytes
from edgefleet_contract.artifact import MAX_DOCUMENT_BYTES, ArtifactDocument
from edgefleet_contract.base import hex_of
from edgefleet_contract.errors import WireError
from edgefleet_contract.wire import CHUNK_BYTES, decode

log = logging.getLogger(__name__)

DOCUMENT_NAME = "artifact.json"
_MAP_EVERY_CHUNKS = 64
"""How often the bitmap of received chunks is written: a killed agent fetches at most 4 MiB twice."""


def digest_file(path: Path) -> str:
    """Return the digest of a file's content. Raises OSError."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 18):
            state.update(block)
    return "sha256:" + state.hexdigest()


class Part:
    """A blob that is arriving: `<hex>.part`, full size from the start, and `<hex>.map`, the chunks it holds.

    Raises:
        OSError: the disk is full or fails; from every method.
    """

    def __init__(self, folder: Path, digest: str, size_bytes: int, filesystem: Filesystem) -> None:
        self.digest = digest
        self._filesystem = filesystem
        self._path = folder / f"{hex_of(digest)}.part"
        self._map = folder / f"{hex_of(digest)}.map"
        self._head = json.dumps({"size_bytes": size_bytes, "chunk_bytes": CHUNK_BYTES}).encode()
        self._unmapped_n = 0
        self.received = self._resumed(size_bytes)
        if self.received is None:
            self._map.unlink(missing_ok=True)
            self._allocate(size_bytes)

    def _allocate(self, size_bytes: int) -> None:
        try:
            self._filesystem.allocate(self._path, size_bytes)
        except OSError:
            self._path.unlink(missing_ok=True)
            raise

    def _resumed(self, size_bytes: int) -> bytes | None:
        try:
            head, _, bits = self._map.read_bytes().partition(b"\n")
            fits = head == self._head and self._path.stat().st_size == size_bytes
        except OSError:
            return None
        return bits if fits and len(bits) == bitmap_bytes(size_bytes) else None

    def write(self, index: int, data: bytes, received: bytes) -> None:
        """Write one chunk; `received` is the bitmap with it."""
        self._filesystem.write_at(self._path, index * CHUNK_BYTES, data)
        self._unmapped_n += 1
        if self._unmapped_n >= _MAP_EVERY_CHUNKS:
            self.keep(received)

    def keep(self, received: bytes) -> None:
        """Write down which chunks are here, after forcing them to disk."""
        self._filesystem.sync(self._path)
        beside = self._map.with_suffix(".map-new")
        self._filesystem.write(beside, self._head + b"\n" + received)
        self._filesystem.rename(beside, self._map)
        self._unmapped_n = 0

    def holds_its_digest(self) -> bool:
        """Tell whether the content, read back from disk, has the digest it is named by."""
        return digest_file(self._path) == self.digest

    def commit(self, target: Path) -> None:
        """Make it a blob."""
        self._filesystem.sync(self._path)
        self._filesystem.rename(self._path, target)
        self._filesystem.sync(target.parent)
        self._map.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete it."""
        self._path.unlink(missing_ok=True)
        self._map.unlink(missing_ok=True)


class Storage:
    """The `blobs/` and `artifacts/` folders of an agent's home."""

    def __init__(self, home: Path, filesystem: Filesystem) -> None:
        self._filesystem = filesystem
        self.blobs = home / "blobs"
        self.artifacts = home / "artifacts"
        for folder in (self.blobs, self.artifacts):
            filesystem.make_folder(folder)

    def blob(self, digest: str) -> Path:
        """Return where a blob lies, or would lie."""
        return self.blobs / hex_of(digest)

    def folder(self, artifact: str) -> Path:
        """Return where an artifact lies, or would lie."""
        return self.artifacts / hex_of(artifact)

    def free_bytes(self) -> int:
        """Return the free space of the disk."""
        return self._filesystem.free_bytes(self.blobs)

    def part(self, digest: str, size_bytes: int) -> Part:
        """Begin a blob, or go on with one begun before. Raises OSError."""
        return Part(self.blobs, digest, size_bytes, self._filesystem)

    def document(self, artifact: str) -> ArtifactDocument | None:
        """Return an artifact's document from its folder or its blob, or None when it is not here.

        Raises:
            WireError: what lies there is no artifact document.
        """
        for path in (self.folder(artifact) / DOCUMENT_NAME, self.blob(artifact)):
            try:
                with path.open("rb") as file:
                    return decode(ArtifactDocument, file.read(MAX_DOCUMENT_BYTES + 1))
            except OSError:
                continue
        return None

    def readable_document(self, artifact: str) -> ArtifactDocument | None:
        """Return an artifact's document, or None when it is not here or malformed."""
        try:
            return self.document(artifact)
        except WireError:
            return None

    def missing(self, document: ArtifactDocument) -> dict[str, int]:
        """Return digest → size in bytes of the files' blobs that are not here."""
        return {file.digest: file.size_bytes for file in document.files if not self.blob(file.digest).exists()}

    def assemble(self, artifact: str, document: ArtifactDocument) -> None:
        """Lay an artifact's folder out from its blobs. Raises OSError."""
        beside = self.artifacts / f"{hex_of(artifact)}.new"
        self._filesystem.remove(beside)
        self._filesystem.make_folder(beside)
        for file in document.files:
            self._filesystem.link_or_copy(self.blob(file.digest), beside / file.name)
        self._filesystem.link_or_copy(self.blob(artifact), beside / DOCUMENT_NAME)
        self._filesystem.sync(beside)
        self._filesystem.remove(self.folder(artifact))
        self._filesystem.rename(beside, self.folder(artifact))
        self._filesystem.sync(self.artifacts)

    def is_laid_out(self, artifact: str) -> bool:
        """Tell whether an artifact's folder is here with every file at its size; digests are not read."""
        try:
            document = self.document(artifact)
            if document is None or not (self.folder(artifact) / DOCUMENT_NAME).exists():
                return False
            return all((self.folder(artifact) / file.name).stat().st_size == file.size_bytes for file in document.files)
        except (OSError, WireError):
            return False

    def problem(self, artifact: str) -> str | None:
        """Read an artifact's every byte; return what does not fit its digest, or None."""
        try:
            if digest_file(self.folder(artifact) / DOCUMENT_NAME) != artifact:
                return f"{DOCUMENT_NAME} does not have the artifact's digest"
            document = self.document(artifact)
            for file in document.files if document else ():
                found = digest_file(self.folder(artifact) / file.name)
                if found != file.digest:
                    return f"{file.name} has digest {found}; its document says {file.digest}"
        except (OSError, WireError) as error:
            return f"cannot be read: {error}"
        return None

    def discard(self, artifact: str) -> None:
        """Delete an artifact's folder and those of its blobs that do not have their digest. Raises OSError."""
        document = self.readable_document(artifact)
        self._filesystem.remove(self.folder(artifact))
        for digest in [artifact, *(file.digest for file in document.files)] if document else [artifact]:
            if self.blob(digest).exists() and digest_file(self.blob(digest)) != digest:
                self._filesystem.remove(self.blob(digest))

    def blobs_of(self, artifacts: Iterable[str]) -> set[str]:
        """Return the digests of all blobs of the given artifacts, as far as their documents are here."""
        digests: set[str] = set()
        for artifact in artifacts:
            digests.add(artifact)
            document = self.readable_document(artifact)
            if document is not None:
                digests.update(file.digest for file in document.files)
        return digests
