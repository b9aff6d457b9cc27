"""The use cases: what the command line and later the web page can ask, over the store, the builder and the wire."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from edgefleet_contract.artifact import ArtifactDocument
from edgefleet_contract.desired import DesiredState
from edgefleet_contract.errors import EdgefleetError, UserInputError
from edgefleet_contract.report import Report
from edgefleet_controller.api import (
    ApplyAccepted,
    ApplyRequest,
    DevicesResult,
    Empty,
    EvidenceQuery,
    EvidenceResult,
    FleetApi,
    HealthResult,
    MissingRequest,
    MissingResult,
    OnSent,
    PlanResult,
    QueryRequest,
    QueryResult,
    RevisionQuery,
    RevisionStatus,
    StatusResult,
    nobody,
)
from edgefleet_controller.applying import Applier, revision_rows
from edgefleet_controller.blobs import BlobStore
from edgefleet_controller.build import Builder
from edgefleet_controller.deliveries import Deliveries
from edgefleet_controller.link import ControllerLink
from edgefleet_controller.progress import Bell
from edgefleet_controller.stack.home import FleetHome
from edgefleet_controller.store import Store


class Reading:
    """The use cases that only read a store; all there is when no controller runs."""

    running = False

    def __init__(self, store: Store, home: FleetHome, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._home = home
        self._clock_ns = clock_ns

    def status(self, request: Empty) -> StatusResult:
        """Say how everything is."""
        return StatusResult(
            version=version("edgefleet"),
            store=str(self._home.database),
            running=self.running,
            devices=self.devices(request).devices,
            revision=self._newest(),
            findings=len(self.health(request).findings),
        )

    def _newest(self) -> RevisionStatus | None:
        record = self._store.revision(None)
        return None if record is None else self.revision(RevisionQuery(revision=record.revision))

    def devices(self, _request: Empty) -> DevicesResult:
        """List devices."""
        return DevicesResult(devices=self._store.devices())

    def evidence(self, request: EvidenceQuery) -> EvidenceResult:
        """List evidence, newest first."""
        return EvidenceResult(evidence=self._store.evidence(request))

    def health(self, _request: Empty) -> HealthResult:
        """Run every health query."""
        return self._store.health(self._clock_ns())

    def query(self, request: QueryRequest) -> QueryResult:
        """Run a named query or a read-only SELECT."""
        return self._store.query(request)

    def revision(self, request: RevisionQuery) -> RevisionStatus:
        """Say how an apply went.

        Raises:
            UserInputError: there is no such revision.
        """
        record = self._store.revision(request.revision)
        if record is None:
            asked = "nothing was applied yet" if request.revision is None else f"no revision {request.revision}"
            raise UserInputError(asked, next_step="fleet apply manifest.yaml")
        rows, left_over = revision_rows(self._store, record)
        return RevisionStatus(
            revision=record.revision,
            phase=record.phase,
            exit_code=record.exit_code,
            changed=record.changed,
            reason=record.reason,
            devices=rows,
            left_over=left_over,
            events=self._store.events_after(record.revision, request.after_event),
        )

    def plan(self, _request: ApplyRequest) -> PlanResult:
        """Refuse: planning needs a running controller."""
        raise _not_running()

    def apply(self, _request: ApplyRequest) -> ApplyAccepted:
        """Refuse: applying needs a running controller."""
        raise _not_running()

    def missing(self, _request: MissingRequest) -> MissingResult:
        """Refuse: blobs are taken by a running controller."""
        raise _not_running()

    def put_blob(self, _digest: str, _path: Path, *, on_sent: OnSent = nobody) -> None:  # noqa: ARG002 - the port's
        """Refuse: blobs are taken by a running controller."""
        raise _not_running()

    def close(self) -> None:
        """Do nothing: the store belongs to whoever opened it."""


class Service(Reading):
    """All use cases, over a store, a builder and the wire."""

    running = True

    def __init__(
        self, store: Store, blobs: BlobStore, home: FleetHome, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        super().__init__(store, home, clock_ns)
        self._blobs = blobs
        self._bell = Bell()
        self._link: ControllerLink | None = None
        builder = Builder(blobs, store, home.work)
        deliveries = Deliveries(self._document_of)
        self._applier = Applier(store, builder, deliveries, self._publish, self._bell, clock_ns)

    def connect(self, link: ControllerLink) -> None:
        """Say over which link desired states go out."""
        self._link = link

    def resume(self) -> None:
        """Go on with applies a killed controller left unfinished."""
        self._applier.resume()

    def stop(self) -> None:
        """Wake everyone who waits; a build that runs is left to its child's own end and made again next time."""
        self._bell.ring()
        self._applier.join(timeout_s=1.0)

    def plan(self, request: ApplyRequest) -> PlanResult:
        """Say what an apply would do; change nothing."""
        return self._applier.plan(request)

    def apply(self, request: ApplyRequest) -> ApplyAccepted:
        """Check everything, then start the apply."""
        return self._applier.apply(request)

    def revision(self, request: RevisionQuery) -> RevisionStatus:
        """Say how an apply is going; waits up to `wait_s` for something new."""
        deadline_s = time.monotonic() + request.wait_s
        while True:
            seen_n = self._bell.count()
            status = super().revision(request)
            left_s = deadline_s - time.monotonic()
            if status.events or status.phase.final or left_s <= 0:
                return status
            self._bell.wait(seen_n, left_s)

    def missing(self, request: MissingRequest) -> MissingResult:
        """Say which blobs are lacking."""
        return MissingResult(digests=tuple(digest for digest in request.digests if not self._blobs.has(digest)))

    def put_blob(self, digest: str, path: Path, *, on_sent: OnSent = nobody) -> None:
        """Take a file's content. Raises UserInputError when it does not match its digest."""
        self._blobs.put_file(path, digest)
        on_sent(path.stat().st_size)

    # -- told by the link -------------------------------------------------------------------------------------

    def reports_committed(self, reports: Sequence[Report]) -> None:
        """Reports were committed."""
        self._applier.reports_committed(reports)
        self._bell.ring()

    def devices_changed(self) -> None:
        """A device came, went, or reached another generation."""
        self._applier.settle()
        self._bell.ring()

    def chunks_sent(self, device: str, digest: str, end_bytes: int, size_bytes: int) -> None:  # noqa: ARG002 - the port's
        """A device was sent a part of a blob."""
        self._applier.chunks_sent(device, digest, end_bytes)

    def _document_of(self, artifact: str) -> ArtifactDocument | None:
        """Return an artifact's document for the progress bars, which do without what cannot be read."""
        try:
            return ArtifactDocument.model_validate_json(self._blobs.read(artifact))
        except (EdgefleetError, ValidationError):
            return None

    def _publish(self, desired: DesiredState) -> None:
        if self._link is not None:
            self._link.publish_desired(desired)


def _not_running() -> UserInputError:
    return UserInputError("no controller is running here", next_step="fleet up, or fleet apply manifest.yaml")


def open_readonly(home: FleetHome) -> FleetApi:
    """Open a home's store for reading, with no controller running; it is closed with the process.

    Raises:
        UserInputError: there is no store yet.
    """
    if not home.database.exists():
        msg = f"there is no fleet in {home.root} yet"
        raise UserInputError(msg, next_step="fleet apply manifest.yaml")
    return Reading(Store.open(home.database, read_only=True), home)
