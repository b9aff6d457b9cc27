"""Which artifact the bytes sent to a device belong to: chunks are named by digest, people think in models."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from edgefleet_contract.artifact import ArtifactDocument
from edgefleet_contract.desired import Candidate, DesiredState

_KNOWN_MAX_N = 4096
"""Artifacts whose files are remembered; beyond, they are looked up again."""

DocumentOf = Callable[[str], ArtifactDocument | None]
"""Gives the document of an artifact by its digest, or None where it cannot be read."""


@dataclass(frozen=True)
class Moved:
    """How far one artifact has come on its way to one device."""

    model: str
    variant: str
    device: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class _Parcel:
    """One artifact on its way: what it is, and the size of each of its blobs, the document's included."""

    model: str
    variant: str
    artifact: str
    sizes_bytes: Mapping[str, int]


@dataclass
class _Route:
    """One device: what it is to get, what was sent to it, and what it fetches now."""

    parcels: list[_Parcel] = field(default_factory=list)
    sent_bytes: dict[str, int] = field(default_factory=dict)
    current: _Parcel | None = None
    open: dict[str, Moved] = field(default_factory=dict)
    """Artifact → the last that was told of it, until it is complete."""


class Deliveries:
    """Adds up what was sent to each device, by artifact. Safe for threads.

    Blobs two artifacts share (samples, usually) count for the one the device fetches now: it asks for an artifact's
    document before its files. A device may hold blobs from earlier days, which are never sent: `arrived` fills the gap.

    Args:
        document_of: looks up which blobs an artifact has.
    """

    def __init__(self, document_of: DocumentOf) -> None:
        self._document_of = document_of
        self._routes: dict[str, _Route] = {}
        self._known: dict[str, _Parcel | None] = {}
        self._guard = threading.Lock()

    def expect(self, desired: DesiredState) -> None:
        """Note what a device has been told to fetch; it takes the place of what it was told before."""
        with self._guard:
            route = self._routes.setdefault(desired.device, _Route())
            route.parcels = [
                parcel
                for wish in desired.models
                for candidate in wish.chain
                if (parcel := self._parcel(wish.model, candidate)) is not None
            ]
            route.current, route.open = None, {}
            wanted = {digest for parcel in route.parcels for digest in parcel.sizes_bytes}
            route.sent_bytes = {digest: size for digest, size in route.sent_bytes.items() if digest in wanted}

    def _parcel(self, model: str, candidate: Candidate) -> _Parcel | None:
        artifact = candidate.artifact
        if artifact not in self._known:
            if len(self._known) >= _KNOWN_MAX_N:
                self._known.clear()
            document = self._document_of(artifact)
            self._known[artifact] = None if document is None else _parcel_of(model, candidate, document)
        return self._known[artifact]

    def sent(self, device: str, digest: str, end_bytes: int) -> Moved | None:
        """Take in that a blob was sent up to `end_bytes`; None when it belongs to nothing this device was told."""
        with self._guard:
            route = self._routes.get(device)
            if route is None:
                return None
            parcel = next(_candidates(route, digest), None)
            if parcel is None:
                return None
            route.sent_bytes[digest] = max(end_bytes, route.sent_bytes.get(digest, 0))
            route.current = parcel
            moved = _moved(device, parcel, route)
            route.open[parcel.artifact] = moved
            return moved

    def arrived(self, device: str, model: str, variant: str | None) -> Moved | None:
        """Take in that a device has a whole artifact; None when no part of it was sent, or all of it was told."""
        with self._guard:
            route = self._routes.get(device)
            artifacts = [moved for moved in route.open.items() if moved[1].variant == variant] if route else []
            found = next((artifact for artifact, moved in artifacts if moved.model == model), None)
            if route is None or found is None:
                return None
            last = route.open.pop(found)
            if last.done_bytes >= last.total_bytes:
                return None
            return Moved(model, last.variant, device, last.total_bytes, last.total_bytes)


def _parcel_of(model: str, candidate: Candidate, document: ArtifactDocument) -> _Parcel:
    files = {file.digest: file.size_bytes for file in document.files}
    return _Parcel(
        model, candidate.variant, candidate.artifact, {**files, candidate.artifact: candidate.document_bytes}
    )


def _candidates(route: _Route, digest: str) -> Iterator[_Parcel]:
    """Yield the parcels a blob may belong to, likeliest first."""
    if route.current is not None and digest in route.current.sizes_bytes:
        yield route.current
    yield from (parcel for parcel in route.parcels if digest in parcel.sizes_bytes)


def _moved(device: str, parcel: _Parcel, route: _Route) -> Moved:
    sent = {digest: min(size, route.sent_bytes.get(digest, 0)) for digest, size in parcel.sizes_bytes.items()}
    return Moved(parcel.model, parcel.variant, device, sum(sent.values()), sum(parcel.sizes_bytes.values()))
