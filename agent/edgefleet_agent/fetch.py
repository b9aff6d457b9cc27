"""Brings one artifact here: its document first, then each file that is missing, by verified chunks.

Everything is bounded by what the desired state declares. While the link is down the fetch waits, for ever; it gives
up on refusals without progress, on bytes that keep not having their digest, and on a full disk.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgefleet_agent.blobs import DOCUMENT_NAME, Part, Storage
from edgefleet_agent.records import ArtifactReady, Event, Fetch, FetchFailed
from edgefleet_agent.transfer import Transfer
from edgefleet_contract.artifact import ArtifactDocument
from edgefleet_contract.base import hex_of
from edgefleet_contract.errors import WireError
from edgefleet_contract.evidence import Verdict
from edgefleet_contract.report import ChunkRefusal, ChunkRequest
from edgefleet_contract.topics import parse_block
from edgefleet_contract.units import format_bytes

log = logging.getLogger(__name__)

RESERVE_BYTES = 32 * 1024**2
"""Space left free on the disk, so that state and reports can always be written."""
MAX_REFUSALS = 5
"""Refusals without a chunk in between before a fetch gives up: half a minute of a controller that has no such blob."""
MAX_DAMAGED = 3
"""Whole transfers whose digest was wrong before an artifact counts as corrupt."""
_REFUSED_WAIT_S = 1.0


@dataclass(frozen=True)
class Chunk:
    """One chunk as it came in, with what its message says of it; nothing of it is believed yet."""

    index: int
    digest: str
    sha256: str
    data: bytes


def chunk_of(topic: str, payload: bytes, properties: Mapping[str, str]) -> Chunk:
    """Return the chunk a message brings. Raises WireError when its topic or properties are not a chunk's."""
    prefix, index = parse_block(topic)
    digest, sha256 = properties.get("digest", ""), properties.get("sha256", "")
    if not digest.startswith(f"sha256:{prefix}") or not sha256:
        msg = "a chunk without its digests"
        raise WireError(msg)
    return Chunk(index, digest, sha256, payload)


@dataclass(frozen=True)
class BlobHashed:
    """A complete part was read back from disk."""

    token: int
    digest: str
    matches: bool


@dataclass(frozen=True)
class FetchPorts:
    """How the fetch reaches the world.

    Attributes:
        publish: sends a request for chunks; called only while connected.
        emit: hands an event back to the agent's loop.
        submit: runs a function on the agent's background thread and emits what it returns.
        make_room: deletes what is not needed any more, when the disk is short.
        clock_s: monotonic time in seconds.
    """

    publish: Callable[[ChunkRequest], None]
    emit: Callable[[Event | BlobHashed], None]
    submit: Callable[[Callable[[], BlobHashed]], None]
    make_room: Callable[[], None]
    clock_s: Callable[[], float]


@dataclass
class _Job:
    """The fetch in hand."""

    order: Fetch
    document: ArtifactDocument | None = None
    transfer: Transfer | None = None
    part: Part | None = None
    refusals_n: int = 0
    damaged_n: Counter[str] = field(default_factory=Counter)


class Fetcher:
    """Fetches one artifact at a time into the device's storage."""

    def __init__(self, storage: Storage, ports: FetchPorts) -> None:
        self._storage = storage
        self._ports = ports
        self._job: _Job | None = None
        self._connected = False
        self.damaged_n = 0
        """Chunks that did not have their hash, or did not fit."""

    def start(self, order: Fetch) -> None:
        """Begin to fetch, or find the artifact already here."""
        self._job = _Job(order)
        self._guarded(self._next)

    def cancel(self, token: int) -> None:
        """Stop; what has arrived is kept for the next time."""
        job = self._job
        if job is not None and job.order.token == token:
            self._guarded(self._keep_part)
            self._job = None

    def stop(self) -> None:
        """Stop whatever is being fetched; what has arrived is kept for the next time."""
        if self._job is not None:
            self.cancel(self._job.order.token)

    def set_connected(self, connected: bool) -> None:
        """Note whether chunks can be asked for; after a break everything under way is asked for again."""
        self._connected = connected
        if self._job is not None and self._job.transfer is not None:
            self._job.transfer.pause(self._ports.clock_s())
        self.pump()

    def pump(self) -> None:
        """Ask for what is due."""
        job = self._job
        if job is None or job.transfer is None or not self._connected:
            return
        request = job.transfer.request(self._ports.clock_s())
        if request is not None:
            self._ports.publish(request)

    def due_s(self) -> float | None:
        """Return when `pump` is next due on the clock, or None."""
        if self._job is None or self._job.transfer is None or not self._connected:
            return None
        return self._job.transfer.due_s(self._ports.clock_s())

    def on_chunk(self, chunk: Chunk) -> None:
        """Take a chunk in, if it is wanted and whole."""
        job = self._job
        if job is None or job.transfer is None or job.transfer.digest != chunk.digest:
            return
        if len(chunk.data) != job.transfer.length_of(chunk.index) or not _is_whole(chunk):
            self.damaged_n += 1
            log.warning("chunk %d of %s arrived damaged", chunk.index, chunk.digest)
            job.transfer.damaged(chunk.index)
        else:
            self._guarded(lambda: self._take(job, chunk))
        self.pump()

    def on_refusal(self, refusal: ChunkRefusal) -> None:
        """Wait and ask again, or give up after too many refusals without progress."""
        job = self._job
        if job is None or job.transfer is None or job.transfer.digest != refusal.digest:
            return
        job.refusals_n += 1
        if job.refusals_n >= MAX_REFUSALS:
            self._fail(
                Verdict.FAILED, f"the controller does not serve {refusal.digest}: {refusal.reason}", transient=True
            )
            return
        job.transfer.pause(self._ports.clock_s() + _REFUSED_WAIT_S * 2 ** (job.refusals_n - 1))

    def on_hashed(self, hashed: BlobHashed) -> None:
        """Make a part whose digest is right a blob; fetch one whose digest is wrong again, a few times."""
        job = self._job
        if job is None or job.part is None or (job.order.token, job.part.digest) != (hashed.token, hashed.digest):
            return
        self._guarded(lambda: self._settle_part(job, job.part, hashed))

    def _settle_part(self, job: _Job, part: Part | None, hashed: BlobHashed) -> None:
        if part is None:
            return
        job.part = job.transfer = None
        if hashed.matches:
            part.commit(self._storage.blob(hashed.digest))
            self._next()
            return
        part.discard()
        job.damaged_n[hashed.digest] += 1
        if job.damaged_n[hashed.digest] >= MAX_DAMAGED:
            self._fail(Verdict.CORRUPT, f"what was sent as {hashed.digest} does not have that digest", transient=False)
        else:
            self._next()

    def _next(self) -> None:
        """Find out what is missing and fetch it, or report the artifact complete."""
        job = self._job
        if job is None:
            return
        wanted = job.order.candidate
        if self._storage.is_laid_out(wanted.artifact):
            self._finish(ArtifactReady(job.order.token))
        elif not self._storage.blob(wanted.artifact).exists():
            self._begin(job, wanted.artifact, wanted.document_bytes)
        elif self._read_document(job):
            self._next_file(job)

    def _read_document(self, job: _Job) -> bool:
        wanted = job.order.candidate
        problem = None
        try:
            job.document = self._storage.document(wanted.artifact)
        except WireError as error:
            problem = f"its document is malformed: {error}"
        if job.document is not None and job.document.total_bytes != wanted.total_bytes:
            problem = f"it has {job.document.total_bytes} bytes; the desired state says {wanted.total_bytes}"
        if job.document is not None and job.document.variant != wanted.variant:
            problem = f"it is {job.document.variant}; the desired state says {wanted.variant}"
        if job.document is not None and DOCUMENT_NAME in {file.name for file in job.document.files}:
            problem = f"one of its files is called {DOCUMENT_NAME}"
        if problem is not None:
            self._fail(Verdict.CORRUPT, f"artifact {wanted.artifact}: {problem}", transient=False)
        return problem is None and job.document is not None

    def _next_file(self, job: _Job) -> None:
        if job.document is None:
            return
        missing = self._storage.missing(job.document)
        if missing and self._has_room(missing):
            self._begin(job, *next(iter(missing.items())))
        elif not missing:
            self._storage.assemble(job.order.candidate.artifact, job.document)
            self._finish(ArtifactReady(job.order.token))

    def _has_room(self, missing: dict[str, int]) -> bool:
        needed_bytes = sum(missing.values()) + RESERVE_BYTES
        if self._storage.free_bytes() < needed_bytes:
            self._ports.make_room()
        free_bytes = self._storage.free_bytes()
        if free_bytes >= needed_bytes:
            return True
        reason = f"disk full: needs {format_bytes(needed_bytes)} with a reserve, {format_bytes(free_bytes)} are free"
        self._fail(Verdict.FAILED, reason, transient=True)
        return False

    def _begin(self, job: _Job, digest: str, size_bytes: int) -> None:
        job.part = self._storage.part(digest, size_bytes)
        job.transfer = Transfer(digest, size_bytes, job.part.received)
        log.info("fetching %s, %s", digest, format_bytes(size_bytes))
        self._check_complete(job)
        self.pump()

    def _take(self, job: _Job, chunk: Chunk) -> None:
        if job.transfer is None or job.part is None:
            return
        if job.transfer.arrived(chunk.index, self._ports.clock_s()):
            job.refusals_n = 0
            job.part.write(chunk.index, chunk.data, job.transfer.received)
            self._check_complete(job)

    def _check_complete(self, job: _Job) -> None:
        part, token = job.part, job.order.token
        if part is not None and job.transfer is not None and job.transfer.complete:
            self._ports.submit(lambda: _hash(token, part))

    def _keep_part(self) -> None:
        job = self._job
        if job is not None and job.part is not None and job.transfer is not None:
            job.part.keep(job.transfer.received)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do something with the disk; a disk that is full or fails ends this fetch, not the agent."""
        try:
            work()
        except OSError as error:
            log.warning("fetching: %s", error)
            if self._job is not None and self._job.part is not None and self._job.part.received is None:
                self._drop_part(self._job.part)
            self._fail(Verdict.FAILED, f"cannot write to disk: {error.strerror or error}", transient=True)

    def _drop_part(self, part: Part) -> None:
        try:
            part.discard()
        except OSError as error:
            log.warning("a part of %s stays behind: %s", hex_of(part.digest), error)

    def _fail(self, verdict: Verdict, reason: str, *, transient: bool) -> None:
        if self._job is not None:
            self._finish(FetchFailed(self._job.order.token, verdict, reason, transient))

    def _finish(self, event: Event) -> None:
        self._job = None
        self._ports.emit(event)


def _is_whole(chunk: Chunk) -> bool:
    return hashlib.sha256(chunk.data).hexdigest() == chunk.sha256


def _hash(token: int, part: Part) -> BlobHashed:
    try:
        return BlobHashed(token, part.digest, part.holds_its_digest())
    except OSError as error:
        log.warning("reading %s back: %s", part.digest, error)
        return BlobHashed(token, part.digest, matches=False)
