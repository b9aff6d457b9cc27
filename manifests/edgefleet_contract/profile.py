"""Profiles: what a device says it is and can do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Annotated, Literal

from pydantic import Field

from edgefleet_contract.base import ByteCount, Name, Reason, Record, digest_bytes
from edgefleet_contract.labels import LabelKey, LabelValue
from edgefleet_contract.variant import Variant


class ProbeStatus(str, Enum):
    """What a probe found."""

    AVAILABLE = "available"
    MISSING = "missing"
    """Not installed, or no such hardware; the reason says what to install or connect."""
    BROKEN = "broken"
    """There, but it does not work; the reason says how it failed."""


class EngineProbe(Record):
    """One `runtime/engine` of a device."""

    target: str = Field(max_length=64)
    """`runtime/engine`, for example `ort/cpu`."""
    status: ProbeStatus
    version: str | None = Field(default=None, max_length=64)
    reason: Reason | None = None


class SensorProbe(Record):
    """One sensor the device offers."""

    name: str = Field(max_length=128)
    kind: Literal["power", "energy", "temperature", "frequency"]
    reason: Reason | None = None


class Profile(Record):
    """What a device is and can do. Everything that can change a build or a verdict stands here."""

    device: Name
    site: Name
    agent_version: str = Field(max_length=64)
    arch: str = Field(max_length=64)
    """`x86_64`, `aarch64`, `armv7l` …, as `uname -m` prints it."""
    os: str = Field(max_length=128)
    kernel: str = Field(max_length=128)
    python_version: str = Field(max_length=32)
    cpu_model: str = Field(max_length=256)
    cpu_count: Annotated[int, Field(ge=1, le=4096)]
    cpu_features: tuple[str, ...] = Field(default=(), max_length=512)
    memory_bytes: ByteCount
    disk_free_bytes: ByteCount
    engines: tuple[EngineProbe, ...] = Field(default=(), max_length=64)
    sensors: tuple[SensorProbe, ...] = Field(default=(), max_length=64)
    energy_unmeasured_reason: Reason | None = None
    """Why energy cannot be measured here; None when it can."""
    labels: dict[LabelKey, LabelValue] = Field(default={}, max_length=64)

    @property
    def digest(self) -> str:
        """Return the digest of what the device is; free disk space, which changes by itself, is left out."""
        return digest_bytes(self.model_copy(update={"disk_free_bytes": 0}).canonical_json())

    @property
    def selectable(self) -> dict[str, str]:
        """Return the labels selectors see: the device's own, and `device`, `site`, `arch`, `os`."""
        implied = {"device": self.device, "site": self.site, "arch": self.arch, "os": self.os}
        return {**self.labels, **implied}

    def engine(self, target: str) -> EngineProbe | None:
        """Return what the device says of `runtime/engine`, or None when it does not mention it."""
        return next((probe for probe in self.engines if probe.target == target), None)


def unsupported_reason(profile: Profile, variant: Variant) -> str | None:
    """Return why a device cannot run a variant, or None when it says it can."""
    probe = profile.engine(variant.target)
    if probe is None:
        return f"the agent on {profile.device} does not know {variant.target}"
    if probe.status is ProbeStatus.AVAILABLE:
        return None
    return probe.reason or f"{variant.target} is {probe.status.value} on {profile.device}"


def merged_labels(own: Mapping[str, str], given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a device's own labels overlaid with those an operator gave it."""
    return {**own, **dict(given)}
