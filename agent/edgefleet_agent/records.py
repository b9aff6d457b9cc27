"""What the agent's rules speak about: its state, the events that change it and the actions that follow.

Values only. The state is written to disk after each step; events and actions live within one process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from edgefleet_contract.accept import Accept
from edgefleet_contract.base import Digest, Generation, Name, Reason, Record
from edgefleet_contract.desired import Candidate, DesiredModel, DesiredState
from edgefleet_contract.evidence import Task, Trial, Verdict
from edgefleet_contract.profile import Profile
from edgefleet_contract.report import DeviceState, ReportBody
from edgefleet_contract.variant import VariantName


class Finding(Record):
    """What is known of one candidate under the present release."""

    artifact: Digest
    variant: VariantName
    verdict: Verdict
    reason: Reason | None = None
    p50_ms: float | None = None
    per_inference_mj: float | None = None
    total_bytes: int = 0
    transient: bool = False
    """Whether trying again later may end otherwise: a full disk, a blob not there yet."""
    probed: bool = False
    """Whether it follows from the profile alone, without a trial."""


class Serving(Record):
    """The artifact a model's `current` link points to."""

    artifact: Digest
    variant: VariantName
    release: Digest


class Settled(str, Enum):
    """How a walk along a chain ended."""

    ACTIVE = "active"
    REFUSED = "refused"
    UNDONE = "undone"
    """Somebody at the device went back to the previous release; nothing is tried until the next one, or until asked."""


class Said(Record):
    """The last transition that was reported, so that nothing is said twice."""

    state: DeviceState
    generation: Generation
    variant: VariantName | None = None


class ModelProgress(Record):
    """How far one model has come. `wish` is None for a model found on disk that nobody asked for."""

    model: Name
    wish: DesiredModel | None = None
    findings: tuple[Finding, ...] = ()
    settled: Settled | None = None
    serving: Serving | None = None
    said: Said | None = None
    retries_n: int = 0
    """Retries of this release after failures that may pass."""

    def finding(self, artifact: str) -> Finding | None:
        """Return what is known of an artifact, or None."""
        return next((finding for finding in self.findings if finding.artifact == artifact), None)

    @property
    def fell_behind(self) -> bool:
        """Whether what serves is of the wished release and could not be proved again."""
        held, wish = self.serving, self.wish
        return (
            self.settled is Settled.REFUSED and held is not None and wish is not None and held.release == wish.release
        )

    @property
    def qualified(self) -> tuple[Finding, ...]:
        """Return the findings that passed every gate, in chain order."""
        return tuple(finding for finding in self.findings if finding.verdict is Verdict.QUALIFIED)


class Stage(str, Enum):
    """What is being done with the one candidate in work."""

    FETCH = "fetch"
    TRIAL = "trial"
    ACTIVATE = "activate"


@dataclass(frozen=True)
class Work:
    """The one thing in hand. Answers carry its token; any other token is of cancelled work."""

    token: int
    model: str
    candidate: Candidate
    stage: Stage


@dataclass(frozen=True)
class AgentState:
    """All the agent's rules remember.

    Attributes:
        generation: the desired generation taken over; 0 before the first.
        models: in the order they are worked on.
        strikes: artifact → how each trial ended that the worker, the agent or the machine did not outlive.
        environment: fingerprint of what proofs here were made under; empty before the first start.
        work: what is in hand; not kept over a restart.
        next_token: the token of the next work.
    """

    generation: int = 0
    models: tuple[ModelProgress, ...] = ()
    strikes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    environment: str = ""
    work: Work | None = None
    next_token: int = 1

    def progress(self, model: str) -> ModelProgress | None:
        """Return how far a model has come, or None."""
        return next((progress for progress in self.models if progress.model == model), None)

    @property
    def wanted(self) -> frozenset[str]:
        """The artifacts that wishes name."""
        wishes = [progress.wish for progress in self.models if progress.wish is not None]
        return frozenset(candidate.artifact for wish in wishes for candidate in wish.chain)


@dataclass(frozen=True)
class Facts:
    """What a step may know of the world: the profile, and wall time in nanoseconds since the epoch."""

    profile: Profile
    now_ns: int


@dataclass(frozen=True)
class Started:
    """The agent has started. `on_disk`: model → what its link points to; `strikes`: artifact → how its trial ended."""

    on_disk: dict[str, Serving] = field(default_factory=dict)
    strikes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EnvironmentSeen:
    """The device was looked at again while the agent ran: its profile may be another."""


@dataclass(frozen=True)
class DesiredReceived:
    """A desired state for this device has arrived."""

    desired: DesiredState


@dataclass(frozen=True)
class ArtifactReady:
    """The artifact lies complete and verified in its folder."""

    token: int


@dataclass(frozen=True)
class FetchFailed:
    """The artifact could not be brought here."""

    token: int
    verdict: Verdict
    reason: str
    transient: bool


@dataclass(frozen=True)
class TrialDone:
    """A trial has ended, in whatever way."""

    token: int
    trial: Trial
    started_at_ns: int
    duration_s: float


@dataclass(frozen=True)
class Activated:
    """The model's link points to the artifact."""

    token: int


@dataclass(frozen=True)
class ActivationFailed:
    """The link could not be switched; what served before still serves."""

    token: int
    reason: str


@dataclass(frozen=True)
class RequalifyAsked:
    """Somebody, or the schedule, wants a model proved again. `forgives`: its strikes too, as only people may."""

    model: str
    forgives: bool = True


@dataclass(frozen=True)
class Undone:
    """Somebody at the device has switched a model's link back; `serving` is what it points to now."""

    model: str
    serving: Serving


@dataclass(frozen=True)
class RetryDue:
    """The wait after failures that may pass is over."""

    model: str


Event = (
    Started
    | DesiredReceived
    | ArtifactReady
    | FetchFailed
    | TrialDone
    | Activated
    | ActivationFailed
    | RequalifyAsked
    | RetryDue
    | Undone
    | EnvironmentSeen
)


@dataclass(frozen=True)
class Fetch:
    """Bring an artifact here, or find it here; answer ArtifactReady or FetchFailed."""

    token: int
    candidate: Candidate


@dataclass(frozen=True)
class StartTrial:
    """Qualify an artifact in a child process; answer TrialDone."""

    token: int
    artifact: str
    accept: Accept
    task: Task | None


@dataclass(frozen=True)
class Activate:
    """Point a model's link at an artifact; answer Activated or ActivationFailed."""

    token: int
    model: str
    serving: Serving
    finding: Finding


@dataclass(frozen=True)
class CancelWork:
    """Stop the fetch or trial with this token; no answer is expected."""

    token: int


@dataclass(frozen=True)
class Deactivate:
    """Take a model's links away."""

    model: str


@dataclass(frozen=True)
class Say:
    """Put a report into the outbox."""

    body: ReportBody


@dataclass(frozen=True)
class RetryLater:
    """Raise RetryDue after a while."""

    model: str
    delay_s: float


@dataclass(frozen=True)
class CollectGarbage:
    """Delete what neither serves nor is named here."""

    keep: frozenset[str]


Action = Fetch | StartTrial | Activate | CancelWork | Deactivate | Say | RetryLater | CollectGarbage
