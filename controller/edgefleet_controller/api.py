"""What can be asked of a controller: one record in, one record out for each use case.

The service implements `FleetApi`; the HTTP client implements it too. The command line knows only this.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_contract.base import ByteCount, Digest, Generation, Name, Reason, Record
from edgefleet_contract.evidence import (
    EnergyResult,
    Evidence,
    LatencyResult,
    MemoryResult,
    ParityResult,
    PlacementResult,
)
from edgefleet_contract.manifest import Manifest
from edgefleet_contract.profile import Profile
from edgefleet_contract.report import DeviceState, Tried
from edgefleet_contract.tuning import Recipe
from edgefleet_contract.variant import VariantName

MAX_ROWS = 100_000


Stage = Literal["check", "build", "deliver", "qualify", "device", "message"]
"""What an event of an apply is about."""

Unit = Literal["bytes", "steps"]
"""What an event counts."""


class Phase(str, Enum):
    """How far an apply has come. `complete`, `failed`, `aborted` and `error` are final."""

    PENDING = "pending"
    BUILDING = "building"
    ROLLING_OUT = "rolling-out"
    COMPLETE = "complete"
    FAILED = "failed"
    """At least one device refused: no variant of the chain qualified there."""
    ABORTED = "aborted"
    """A newer apply took its place before every device had answered."""
    ERROR = "error"
    """The apply itself could not go on; nothing was sent to devices after the error."""

    @property
    def final(self) -> bool:
        """Tell whether nothing more happens by itself."""
        return self in {Phase.COMPLETE, Phase.FAILED, Phase.ABORTED, Phase.ERROR}


class ExitCode(int, Enum):
    """Exit codes of `fleet apply`, documented in docs/cli.md."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    GATE_FAILED = 3
    PARTIAL = 4
    PAUSED = 5
    DETACHED = 130


class FileRef(Record):
    """A file of the user's, by content."""

    digest: Digest
    size_bytes: ByteCount


class ApplyRequest(Record):
    """A manifest with the content of every file it names (path as written → content)."""

    manifest: Manifest
    files: dict[str, FileRef]
    recipes: dict[Name, dict[VariantName, Recipe]] = Field(default={}, max_length=64)
    """Model → variant → how it is to be made, where `fleet tune` has found that out."""
    prune: bool = False
    """Remove models from devices that no deployment names any more."""


class BuildPlan(Record):
    """One artifact an apply needs."""

    model: Name
    variant: VariantName
    cached: bool
    artifact: Digest | None = None


class DeviceModelPlan(Record):
    """What one device would do for one model."""

    device: Name
    model: Name
    chain: tuple[VariantName, ...]
    skipped: tuple[Tried, ...] = ()
    bytes_to_move: ByteCount | None = None
    """None when an artifact is still to be built."""
    action: Literal["deploy", "update", "no-change", "remove"]


class PlanResult(Record):
    """What an apply would do."""

    api: Literal["fleet/v1"] = "fleet/v1"
    changed: bool
    builds: tuple[BuildPlan, ...]
    devices: tuple[DeviceModelPlan, ...]


class ApplyAccepted(Record):
    """The apply was taken; `changed` False means there is nothing to do."""

    revision: Generation
    changed: bool


class ProgressEvent(Record):
    """One step of an apply, for progress bars. `done` of `total` in `unit`, where they are known."""

    id: Generation
    at_ns: int
    stage: Stage
    key: str = Field(max_length=256)
    """What moves: `digits ort/cpu/int8`, `local/digits` …; later events with the same stage and key replace it."""
    text: str = Field(max_length=500)
    done: float | None = None
    total: float | None = None
    unit: Unit | None = None


class DeviceModelRow(Record):
    """One row of `fleet apply -o json`: a model on a device, with its evidence."""

    device: Name
    model: Name
    state: DeviceState
    variant: VariantName | None = None
    artifact: Digest | None = None
    tried: tuple[Tried, ...] = ()
    reason: Reason | None = None
    parity: ParityResult | None = None
    latency: LatencyResult | None = None
    memory: MemoryResult | None = None
    energy: EnergyResult | None = None
    placement: PlacementResult | None = None
    evidence: EvidenceLevel | None = None


class RevisionQuery(Record):
    """Ask how an apply is going. Waits up to `wait_s` for something newer than `after_event`."""

    revision: Generation | None = None
    """Default: the newest."""
    after_event: Generation = 0
    wait_s: Annotated[float, Field(ge=0, le=30)] = 0.0


class RevisionStatus(Record):
    """How an apply is going, or how it went."""

    api: Literal["fleet/v1"] = "fleet/v1"
    revision: Generation
    phase: Phase
    exit_code: int | None = None
    """None until the phase is final."""
    changed: bool = True
    reason: Reason | None = None
    devices: tuple[DeviceModelRow, ...] = ()
    """What the manifest brings to devices: these rows decide the phase."""
    left_over: tuple[DeviceModelRow, ...] = ()
    """What devices keep of earlier manifests and this one does not name: decides nothing."""
    events: tuple[ProgressEvent, ...] = ()


class DeviceRow(Record):
    """A device as the controller knows it."""

    device: Name
    site: Name
    online: bool
    last_seen_ns: int | None
    desired_generation: Generation
    reported_generation: Generation
    profile: Profile | None
    models: tuple[DeviceModelRow, ...] = ()


class StatusResult(Record):
    """One-screen state."""

    api: Literal["fleet/v1"] = "fleet/v1"
    version: str
    store: str
    running: bool
    """Whether a controller is running, or the store was read as it lies."""
    devices: tuple[DeviceRow, ...]
    revision: RevisionStatus | None
    findings: int
    """How many health findings there are."""


class DevicesResult(Record):
    """All devices."""

    api: Literal["fleet/v1"] = "fleet/v1"
    devices: tuple[DeviceRow, ...]


class EvidenceQuery(Record):
    """Which evidence to list, newest first."""

    device: Name | None = None
    model: Name | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 100


class EvidenceRow(Record):
    """Evidence with the device it is from."""

    device: Name
    received_at_ns: int
    evidence: Evidence


class EvidenceResult(Record):
    """Evidence, newest first."""

    api: Literal["fleet/v1"] = "fleet/v1"
    evidence: tuple[EvidenceRow, ...]


class Severity(str, Enum):
    """How bad a finding is, worst last."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class HealthFinding(Record):
    """One row a health query returned."""

    check: str
    title: str
    severity: Severity
    device: str | None
    model: str | None
    detail: str
    value: float | None = None
    threshold: float | None = None
    unit: str | None = None


class HealthResult(Record):
    """All findings of all health queries."""

    api: Literal["fleet/v1"] = "fleet/v1"
    checks: tuple[str, ...]
    findings: tuple[HealthFinding, ...]


class QueryRequest(Record):
    """A named query, or one read-only SELECT."""

    query: str = Field(min_length=1, max_length=65_536)
    limit: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 1000


class QueryResult(Record):
    """Rows of a query. `truncated` when there were more than the limit."""

    api: Literal["fleet/v1"] = "fleet/v1"
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool = False


class MissingRequest(Record):
    """Which of these blobs the controller lacks."""

    digests: tuple[Digest, ...] = Field(max_length=4096)


class MissingResult(Record):
    """The blobs the controller lacks."""

    digests: tuple[Digest, ...]


class Empty(Record):
    """Nothing to say."""


OnSent = Callable[[int], None]
"""Called with how many bytes of a file were sent so far; may start again from the beginning."""


def nobody(_sent_bytes: int) -> None:
    """Tell nobody."""


class FleetApi(Protocol):
    """Everything the command line can ask. Errors are `EdgefleetError`s of the fitting family."""

    def plan(self, request: ApplyRequest) -> PlanResult:
        """Say what an apply would do; change nothing."""

    def apply(self, request: ApplyRequest) -> ApplyAccepted:
        """Check everything, then start the apply. Raises UserInputError with nothing changed."""

    def revision(self, request: RevisionQuery) -> RevisionStatus:
        """Say how an apply is going."""

    def status(self, request: Empty) -> StatusResult:
        """Say how everything is."""

    def devices(self, request: Empty) -> DevicesResult:
        """List devices."""

    def evidence(self, request: EvidenceQuery) -> EvidenceResult:
        """List evidence, newest first."""

    def health(self, request: Empty) -> HealthResult:
        """Run every health query."""

    def query(self, request: QueryRequest) -> QueryResult:
        """Run a named query or a read-only SELECT."""

    def missing(self, request: MissingRequest) -> MissingResult:
        """Say which blobs are lacking."""

    def put_blob(self, digest: str, path: Path, *, on_sent: OnSent = nobody) -> None:
        """Bring a file's content to the controller, telling `on_sent` how far it is.

        Raises:
            UserInputError: it does not match its digest.
        """

    def close(self) -> None:
        """Let go of connections; nothing is asked afterwards."""
