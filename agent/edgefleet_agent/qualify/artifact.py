"""An artifact in its folder: checked file by file before anything of it is used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgefleet_agent.feeding import without
from edgefleet_agent.runtimes.base import Array
from edgefleet_agent.samples import Samples, load_arrays, load_samples
from edgefleet_contract.artifact import MAX_DOCUMENT_BYTES, ArtifactDocument, ArtifactFile, FileRole
from edgefleet_contract.errors import DeviceError, UserInputError, WireError
from edgefleet_contract.wire import decode

DOCUMENT_NAME = "artifact.json"
_READ_BYTES = 1024**2


class CorruptArtifactError(DeviceError):
    """An artifact's files do not match its document."""


class UnprovableArtifactError(DeviceError):
    """An artifact lacks the golden data by which it could be proven."""


@dataclass(frozen=True)
class Golden:
    """What an artifact is proven with.

    Attributes:
        samples: raw samples, and labels where there are any.
        source: outputs of the fp32 source on them, on the builder.
        artifact: outputs of this artifact on them, on the builder; None when it could not run there.
    """

    samples: Samples
    source: dict[str, Array]
    artifact: dict[str, Array] | None


def verified_document(folder: Path) -> ArtifactDocument:
    """Return the artifact's document after checking every file it names by size and digest.

    Raises:
        CorruptArtifactError: the document or a file is missing, unreadable, or not what it should be.
    """
    try:
        document = _read_document(folder / DOCUMENT_NAME)
        for file in document.files:
            _verify_file(folder / file.name, file)
    except OSError as error:
        msg = f"a file cannot be read: {error}"
        raise CorruptArtifactError(msg) from error
    return document


def _read_document(path: Path) -> ArtifactDocument:
    if not path.is_file() or path.stat().st_size > MAX_DOCUMENT_BYTES:
        msg = f"{path.name} is missing or larger than {MAX_DOCUMENT_BYTES} bytes"
        raise CorruptArtifactError(msg)
    try:
        return decode(ArtifactDocument, path.read_bytes())
    except WireError as error:
        msg = f"{path.name}: {error}"
        raise CorruptArtifactError(msg) from error


def _verify_file(path: Path, file: ArtifactFile) -> None:
    if not path.is_file():
        msg = f"{file.name} is missing"
        raise CorruptArtifactError(msg)
    if (size_bytes := path.stat().st_size) != file.size_bytes:
        msg = f"{file.name} has {size_bytes} bytes; its document says {file.size_bytes}"
        raise CorruptArtifactError(msg)
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
    if (got := "sha256:" + digest.hexdigest()) != file.digest:
        msg = f"{file.name} is {got}; its document says {file.digest}"
        raise CorruptArtifactError(msg)


def load_golden(folder: Path, document: ArtifactDocument) -> Golden:
    """Return the golden data of a verified artifact.

    Raises:
        UnprovableArtifactError: there are no samples or no outputs of the source.
        CorruptArtifactError: a file is not what its role says.
    """
    samples, source = document.file(FileRole.SAMPLES), document.file(FileRole.SOURCE_OUTPUTS)
    if samples is None or source is None:
        msg = "the artifact holds no golden samples or no outputs of its source, so nothing can be proven"
        raise UnprovableArtifactError(msg)
    own = document.file(FileRole.ARTIFACT_OUTPUTS)
    try:
        return Golden(
            samples=without(load_samples(folder / samples.name), document.io.bound),
            source=load_arrays(folder / source.name),
            artifact=None if own is None else load_arrays(folder / own.name),
        )
    except UserInputError as error:
        raise CorruptArtifactError(str(error)) from error
