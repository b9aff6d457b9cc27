"""Profiles: what a device says it is and can do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Annotated, Literal

from pydantic import Field

from edgefleet_contract.base import ByteCount, Name, Reason, Record, canonical_json, digest_bytes
from edgefleet_contract.labels import LabelKey, LabelValue
from edgefleet_contract.variant import Variant

SensorName = Annotated[str, Field(max_length=128)]


class RailKind(str, Enum):
    """What one reading of a power rail is."""

    COUNTER = "counter"
    """Energy since some moment; two readings give the energy between them, whatever happened there."""
    AVERAGE = "average"
    """Power averaged by the sensor over a window."""
    INSTANT = "instant"
    """Power at one moment; what happens between readings is not seen."""


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

    name: SensorName
    kind: Literal["power", "energy", "temperature", "frequency"]
    reason: Reason | None = None
    """Why it cannot be read; None when it can."""
    reading: RailKind | None = None
    """What one reading of a rail is; None for sensors that are no rails."""
    scope: SensorName | None = None
    """What a rail feeds."""
    includes: tuple[SensorName, ...] = Field(default=(), max_length=64)
    """Other rails whose draw a rail already contains, so that they are not added to it."""
    in_total: bool = False
    """Whether a rail is one of those that add up to the device's total."""


class RailReading(Record):
    """One rail, read once."""

    name: SensorName
    scope: SensorName
    kind: RailKind
    watts: float | None = None
    """Power now, or over `window_s`; None for counters: one reading of a counter gives no watts."""
    joules: float | None = None
    """A counter's reading; only the difference of two means anything."""
    includes: tuple[SensorName, ...] = Field(default=(), max_length=64)
    feeds: Reason | None = None
    """What hangs on the rail, in words."""
    sensor: SensorName
    in_total: bool = False
    window_s: float | None = None
    """Time an averaging sensor averages over; None when it does not average or does not tell."""
    reason: Reason | None = None
    """Why there is no figure."""
    proven_on: Reason | None = None


class TotalReading(Record):
    """What the device draws, from rails that add up; or why no total can be given."""

    status: Literal["available", "modelled", "none"]
    rails: tuple[SensorName, ...] = Field(default=(), max_length=64)
    scope: SensorName | None = None
    kind: Literal["counter", "average", "instant", "mixed"] | None = None
    watts: float | None = None
    joules: float | None = None
    rule: Reason | None = None
    """Why these rails and no others."""
    leaves_out: Reason | None = None
    reason: Reason | None = None
    """Why there is no total, or no figure, or why it is only modelled."""


class TemperatureReading(Record):
    """One thermal zone."""

    name: SensorName
    celsius: float | None = None
    passive_trip_c: float | None = None
    """The lowest temperature at which the kernel begins to slow the device down, where it tells."""
    reason: Reason | None = None


class CoolingReading(Record):
    """One cooling device: a fan, or a brake."""

    name: SensorName
    state: int | None = None
    max_state: int | None = None
    brakes: bool
    """Whether a state above 0 slows the device down; a spinning fan does not."""


class FrequencyReading(Record):
    """One clock."""

    name: SensorName
    mhz: float | None = None
    max_mhz: float | None = None


class ThrottleFlag(Record):
    """One sign that the device was slowed down."""

    name: SensorName
    source: SensorName
    active: bool | None = None
    """Whether it holds now; None when the source only counts events."""
    since_boot: bool | None = None
    """Whether it held at any time since boot."""
    events_n: Annotated[int, Field(ge=0, le=2**53 - 1)] | None = None
    """Events since boot: only a change says something."""


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
    power_mode: str = Field(default="", max_length=256)
    """What caps or chooses clocks, such as `nvpmodel 2, governor schedutil`; empty where the system does not tell."""

    @property
    def digest(self) -> str:
        """Return the digest of what the device is; free disk space, which changes by itself, is left out."""
        return digest_bytes(self.model_copy(update={"disk_free_bytes": 0}).canonical_json())

    @property
    def environment(self) -> str:
        """Return a digest of what a proof on this device holds under: machine, kernel, runtimes and their versions.

        When it changes (a driver, a runtime, a power mode), what was proved before is proved again.
        """
        machine = (self.arch, self.os, self.kernel, self.cpu_model, self.cpu_count, self.memory_bytes)
        engines = sorted((probe.target, probe.status.value, probe.version or "") for probe in self.engines)
        mode = [self.power_mode] if self.power_mode else []
        return digest_bytes(canonical_json([machine, engines, *mode]))

    @property
    def selectable(self) -> dict[str, str]:
        """Return the labels selectors see: the device's own, and `device`, `site`, `arch`, `os`."""
        implied = {"device": self.device, "site": self.site, "arch": self.arch, "os": self.os}
        return {**self.labels, **implied}

    def engine(self, target: str) -> EngineProbe | None:
        """Return what the device says of `runtime/engine`, or None when it does not mention it."""
        return next((probe for probe in self.engines if probe.target == target), None)


class ProbedProfile(Profile):
    """A profile with what the sensors read just now: `edgefleet-agent probe -o json` prints this."""

    sysfs_root: str = Field(max_length=4096)
    rails: tuple[RailReading, ...] = Field(default=(), max_length=64)
    total: TotalReading
    temperatures: tuple[TemperatureReading, ...] = Field(default=(), max_length=64)
    cooling: tuple[CoolingReading, ...] = Field(default=(), max_length=256)
    frequencies: tuple[FrequencyReading, ...] = Field(default=(), max_length=64)
    throttle: tuple[ThrottleFlag, ...] = Field(default=(), max_length=128)
    notes: tuple[Reason, ...] = Field(default=(), max_length=32)
    """What was found and left out, and why."""


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
