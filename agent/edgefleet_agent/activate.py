"""Switches what a model's link points to, keeps the previous artifact, and deletes what nobody needs.

`models/<name>/current` is a relative link into `artifacts/`, replaced by one rename: a reader sees the old artifact
or the new one, and a crash at any point leaves one of the two. The link is the truth; `active.json` describes it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from edgefleet_agent.blobs import Storage
from edgefleet_agent.filesystem import Filesystem
from edgefleet_agent.records import Finding, Serving
from edgefleet_contract.base import Record, hex_of
from edgefleet_contract.errors import UserInputError, WireError
from edgefleet_contract.wire import MAX_MESSAGE_BYTES, decode

log = logging.getLogger(__name__)

CURRENT = "current"
PREVIOUS = "previous"
RECORD = "active.json"
PREVIOUS_RECORD = "previous.json"
UNKNOWN_RELEASE = "sha256:" + "0" * 64
"""Stands for the release of an artifact that serves without a record of how it came to."""

KEEP_UNUSED_BYTES = 1024**3
"""Artifacts nobody wishes for are kept up to this size, oldest deleted first: going back to one needs no transfer."""


class NoPreviousError(UserInputError):
    """There is nothing to go back to."""


class ActiveRecord(Record):
    """`active.json`: what serves and what proved it."""

    serving: Serving
    evidence: Finding | None = None
    activated_at_ns: int


class Activator:
    """The `models/` folder of an agent's home."""

    def __init__(self, home: Path, storage: Storage, filesystem: Filesystem) -> None:
        self._models = home / "models"
        self._storage = storage
        self._filesystem = filesystem
        filesystem.make_folder(self._models)

    def activate(self, model: str, serving: Serving, evidence: Finding | None, now_ns: int) -> None:
        """Let a model's link point to an artifact; doing so twice is as doing it once.

        Raises:
            OSError: the disk fails; the link points to the old artifact or to the new one.
        """
        folder = self._models / model
        self._filesystem.make_folder(folder)
        target = f"../../artifacts/{hex_of(serving.artifact)}"
        if not (folder / target / "artifact.json").exists():
            raise FileNotFoundError(2, f"artifact {serving.artifact} is not on disk")
        old = _target(folder / CURRENT)
        if old is not None and old != target:
            self._keep_as_previous(folder, old, self.record(model))
        if old != target:
            self._point(folder, CURRENT, target)
        record = ActiveRecord(serving=serving, evidence=evidence, activated_at_ns=now_ns)
        self._describe(folder, RECORD, record)

    def undo(self, model: str, now_ns: int) -> Serving:
        """Let a model's link point to its previous artifact again, and keep the present one as previous.

        Raises:
            NoPreviousError: there is none, or it is not whole any more.
            OSError: the disk fails; the link points to the one artifact or to the other.
        """
        folder = self._models / model
        target, now = _target(folder / PREVIOUS), _target(folder / CURRENT)
        artifact = self._artifact_of(folder / PREVIOUS)
        if target is None or artifact is None or target == now:
            msg = f"{model} has no previous release on this device"
            raise NoPreviousError(msg, next_step="edgefleet-agent status shows what there is")
        present, before = self.record(model), self._read_record(folder / PREVIOUS_RECORD)
        serving = self._serving_of(artifact, before)
        if serving is None:
            msg = f"the previous release of {model} is not whole any more"
            raise NoPreviousError(msg)
        self._point(folder, CURRENT, target)
        if now is not None:
            self._keep_as_previous(folder, now, present)
        evidence = before.evidence if before is not None and before.serving == serving else None
        self._describe(folder, RECORD, ActiveRecord(serving=serving, evidence=evidence, activated_at_ns=now_ns))
        return serving

    def previous(self, model: str) -> Serving | None:
        """Return what `undo` would bring back, or None."""
        folder = self._models / model
        artifact = self._artifact_of(folder / PREVIOUS)
        if artifact is None or _target(folder / PREVIOUS) == _target(folder / CURRENT):
            return None
        return self._serving_of(artifact, self._read_record(folder / PREVIOUS_RECORD))

    def _keep_as_previous(self, folder: Path, target: str, record: ActiveRecord | None) -> None:
        self._point(folder, PREVIOUS, target)
        if record is not None:
            self._describe(folder, PREVIOUS_RECORD, record)

    def _describe(self, folder: Path, name: str, record: ActiveRecord) -> None:
        beside = folder / f".{name}.new"
        self._filesystem.write(beside, record.canonical_json() + b"\n")
        self._filesystem.rename(beside, folder / name)
        self._filesystem.sync(folder)

    def _point(self, folder: Path, name: str, target: str) -> None:
        beside = folder / f".{name}.new"
        self._filesystem.remove(beside)
        self._filesystem.symlink(beside, target)
        self._filesystem.rename(beside, folder / name)
        self._filesystem.sync(folder)

    def deactivate(self, model: str) -> None:
        """Take a model's links away. Raises OSError."""
        self._filesystem.remove(self._models / model / CURRENT)
        self._filesystem.remove(self._models / model)

    def on_disk(self) -> dict[str, Serving]:
        """Return what each model's link points to; a link into nothing serves nothing."""
        found = {}
        for folder in sorted(self._models.iterdir()):
            artifact = self._artifact_of(folder / CURRENT)
            serving = self._serving_of(artifact, self.record(folder.name)) if artifact is not None else None
            if serving is not None:
                found[folder.name] = serving
        return found

    def _artifact_of(self, link: Path) -> str | None:
        target = _target(link)
        if target is None:
            return None
        artifact = f"sha256:{Path(target).name}"
        return artifact if self._storage.is_laid_out(artifact) else None

    def _serving_of(self, artifact: str, record: ActiveRecord | None) -> Serving | None:
        if record is not None and record.serving.artifact == artifact:
            return record.serving
        document = self._storage.readable_document(artifact)
        if document is None:
            return None
        return Serving(artifact=artifact, variant=document.variant, release=UNKNOWN_RELEASE)

    def record(self, model: str) -> ActiveRecord | None:
        """Return what `active.json` says of a model, or None when it says nothing readable."""
        return self._read_record(self._models / model / RECORD)

    def _read_record(self, path: Path) -> ActiveRecord | None:
        try:
            with path.open("rb") as file:
                return decode(ActiveRecord, file.read(MAX_MESSAGE_BYTES))
        except OSError:
            return None
        except WireError as error:
            log.warning("%s is unreadable: %s", path, error)
            return None

    def in_use(self) -> set[str]:
        """Return the artifacts that current and previous links point to."""
        links = [folder / name for folder in self._models.iterdir() for name in (CURRENT, PREVIOUS)]
        return {f"sha256:{Path(target).name}" for target in map(_target, links) if target is not None}

    def collect_garbage(self, wanted: frozenset[str], *, keep_unused_bytes: int = KEEP_UNUSED_BYTES) -> int:
        """Delete artifacts, blobs and parts that neither serve nor are wanted; return how many bytes of blobs went.

        Args:
            wanted: artifacts of the desired chains.
            keep_unused_bytes: how much of the rest may stay, newest first.

        Raises:
            OSError: the disk fails.
        """
        kept = self.in_use() | wanted
        spare_bytes = keep_unused_bytes
        for artifact in self._unused(kept):
            document = self._storage.readable_document(artifact)
            size_bytes = document.total_bytes if document is not None else spare_bytes + 1  # unreadable: no use
            if size_bytes <= spare_bytes:
                spare_bytes -= size_bytes
                kept.add(artifact)
            else:
                self._filesystem.remove(self._storage.folder(artifact))
        return self._sweep_blobs(self._storage.blobs_of(kept))

    def _unused(self, kept: set[str]) -> Iterator[str]:
        """Yield artifacts on disk that are not kept, newest first; leftovers of a crash are removed."""
        folders = sorted(self._storage.artifacts.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for folder in folders:
            if folder.suffix == ".new":
                self._filesystem.remove(folder)
            elif f"sha256:{folder.name}" not in kept:
                yield f"sha256:{folder.name}"

    def _sweep_blobs(self, kept: set[str]) -> int:
        deleted_bytes = 0
        for path in list(self._storage.blobs.iterdir()):
            if f"sha256:{path.name.partition('.')[0]}" not in kept:
                deleted_bytes += path.stat().st_size
                self._filesystem.remove(path)
        return deleted_bytes


def _target(link: Path) -> str | None:
    try:
        return str(link.readlink())
    except OSError:
        return None
