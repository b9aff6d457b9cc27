"""Reports: what an agent says has happened. Each leaves the device's outbox only after it was committed."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from edgefleet_contract.base import Digest, Generation, Name, Reason, Record
from edgefleet_contract.evidence import Evidence, Verdict
from edgefleet_contract.profile import Profile
from edgefleet_contract.variant import VariantName

BootId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""One life of an agent's outbox: a new one each time the agent starts."""

SentAt = Annotated[int, Field(ge=0, le=2**63 - 1)]


class DeviceState(str, Enum):
    """How far a device has come with one model."""

    PENDING = "pending"
    """Known to the controller only; the device has not said anything yet."""
    FETCHING = "fetching"
    QUALIFYING = "qualifying"
    ACTIVE = "active"
    REFUSED = "refused"
    """No candidate qualified; what served before, if anything, still serves."""
    REMOVED = "removed"


class Tried(Record):
    """A variant that was not taken, and why."""

    variant: VariantName
    verdict: Verdict
    reason: Reason


class Transition(Record):
    """A model's state on a device has changed."""

    kind: Literal["transition"] = "transition"
    model: Name
    state: DeviceState
    generation: Generation
    release: Digest | None = None
    variant: VariantName | None = None
    artifact: Digest | None = None
    tried: tuple[Tried, ...] = Field(default=(), max_length=16)
    reason: Reason | None = None


class EvidenceReport(Record):
    """A qualification has ended."""

    kind: Literal["evidence"] = "evidence"
    evidence: Evidence


class ProfileReport(Record):
    """What the device is, said at each start and whenever it changes."""

    kind: Literal["profile"] = "profile"
    profile: Profile


ReportBody = Annotated[Transition | EvidenceReport | ProfileReport, Field(discriminator="kind")]


class Report(Record):
    """One report with its place in the device's outbox. (device, boot, seq) is unique for ever."""

    v: Literal[1] = 1
    device: Name
    site: Name
    boot: BootId
    seq: Annotated[int, Field(ge=1, le=2**53 - 1)]
    sent_at_ns: SentAt
    body: ReportBody


class ReportAck(Record):
    """What the controller has committed of one boot: all up to `committed`, and `also` above that."""

    v: Literal[1] = 1
    boot: BootId
    committed: Annotated[int, Field(ge=0, le=2**53 - 1)]
    """Highest number with nothing missing below it."""
    also: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(), max_length=1024)
    """Numbers above `committed` that are committed too."""


class Presence(Record):
    """Retained on `up/state`: whether a device is here, and how far it has come. Also its last will."""

    v: Literal[1] = 1
    device: Name
    site: Name
    online: bool
    boot: BootId
    connection: Annotated[int, Field(ge=0, le=2**53 - 1)]
    """Counts connections within a boot, so an old will is told from a new life."""
    generation: Generation
    """The desired generation the device has taken over."""
    profile: Digest


class Heartbeat(Record):
    """Sent at a fixed period while connected."""

    v: Literal[1] = 1
    boot: BootId
    generation: Generation
    outbox_n: Annotated[int, Field(ge=0)]
    sent_at_ns: SentAt


class ChunkRequest(Record):
    """Which chunks of a blob a device still lacks.

    Bit i (least significant first) of `have`, base64, stands for chunk `offset + i`; a set bit is not sent again.
    """

    v: Literal[1] = 1
    digest: Digest
    chunk_bytes: Annotated[int, Field(ge=1024, le=256 * 1024)]
    offset: Annotated[int, Field(ge=0, le=2**31)]
    have: str = Field(default="", max_length=4096, pattern=r"^[A-Za-z0-9+/=]*$")
    window: Annotated[int, Field(ge=1, le=64)]


class ChunkRefusal(Record):
    """Sent on `down/cmd` when a wanted blob cannot be served."""

    kind: Literal["chunk-refusal"] = "chunk-refusal"
    digest: Digest
    reason: Reason


class Requalify(Record):
    """Sent on `down/cmd`: prove a model again."""

    kind: Literal["requalify"] = "requalify"
    model: Name


Command = Annotated[ChunkRefusal | Requalify, Field(discriminator="kind")]
