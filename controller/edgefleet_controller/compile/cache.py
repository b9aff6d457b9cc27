"""Builds remembered in a folder: for builds without a fleet, over restarts and several processes."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from edgefleet_contract.artifact import ArtifactDocument
from edgefleet_contract.base import hex_of
from edgefleet_controller.compile.records import BuildRecord


class FolderBuildCache:
    """One file a build key, written beside and renamed; the artifacts themselves are blobs.

    Args:
        root: the folder; made when the first build is remembered.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def find_build(self, key: str) -> BuildRecord | None:
        """Return what a build with this key came to, or None; a damaged record counts as none."""
        try:
            return BuildRecord.model_validate_json(self._path(key).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def record_build(self, record: BuildRecord) -> None:
        """Remember a build. Raises OSError when the folder cannot be written."""
        self._root.mkdir(parents=True, exist_ok=True)
        partial = self._root / f"{hex_of(record.key)}.{os.getpid()}.partial"
        with partial.open("wb") as stream:
            stream.write(record.canonical_json())
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(self._path(record.key))

    def put_artifact(self, document: ArtifactDocument, at_ns: int) -> None:
        """Do nothing: the document is a blob, and its digest stands in the build's record."""

    def _path(self, key: str) -> Path:
        return self._root / f"{hex_of(key)}.json"
