"""The manifest: what people write. Small things are small, and everything can be said.

Paths are text here; the controller resolves and checks them. Quantities are written with units.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from edgefleet_contract.accept import (
    DEFAULT_LOAD_SHARE,
    Accept,
    Choose,
    EnergyAccept,
    FallbackPolicy,
    IfUnmeasured,
    LatencyAccept,
    MemoryAccept,
    MetricAccept,
    MetricKind,
    ParityAccept,
    PlacementAccept,
    SamplesPerQuery,
    Scenario,
)
from edgefleet_contract.artifact import Constants, InputTransform, StateMap
from edgefleet_contract.base import Name, Record, TensorName
from edgefleet_contract.desired import MAX_CHAIN, MAX_MODELS
from edgefleet_contract.evidence import Task
from edgefleet_contract.labels import SelectorText
from edgefleet_contract.options import TargetName, TargetOptions, manifest_problem
from edgefleet_contract.units import DurationMs, DurationS, EnergyMj, LoadShareText, RateHzText, ShareText, SizeBytes
from edgefleet_contract.variant import VariantName

PathText = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f]+$")]
"""A path relative to the manifest's folder, which it must not leave."""

Hook = Annotated[str, StringConstraints(max_length=300, pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")]
"""`module:function` of the user's own code."""


def _as_sequence(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_file(value: object) -> object:
    return {"file": value} if isinstance(value, str) else value


def _check_options(options: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    problems = (manifest_problem(target, each) for target, each in options.items())
    if (problem := next((each for each in problems if each), None)) is not None:
        raise ValueError(problem)
    return options


ModelOptions = Annotated[dict[TargetName, TargetOptions], Field(max_length=32), AfterValidator(_check_options)]


class SamplesSpec(Record):
    """Real inputs: an `.npz`, first axis = sample; `labels` names the array of true answers, if there is one.

    `sequences` names an integer array that numbers the sequence each sample belongs to; samples of one lie together.
    """

    file: PathText
    inputs: dict[TensorName, TensorName] = {}
    """Model input → array in the file; default: the same name."""
    labels: TensorName | None = None
    """Array of labels; default: `labels` where the file has it."""
    sequences: TensorName | None = None
    """Array of sequence numbers; default: `sequences` where the file has it, else all samples are one sequence."""


Samples = Annotated[SamplesSpec, BeforeValidator(_as_file, json_schema_input_type=SamplesSpec | PathText)]
"""Samples, or only their file."""


class MetricSpec(Record):
    """The task's metric: one we know by name."""

    kind: Literal[MetricKind.TOP1, MetricKind.TOP5, MetricKind.MAE] = MetricKind.TOP1
    min_drop: ShareText = 0.02
    """Largest accepted drop below the source model's figure; of `mae`, the largest rise as a share of it."""


class ModelSpec(Record):
    """A model: its source file, real samples, and how its answers are judged."""

    source: PathText
    samples: Samples
    preprocess: dict[TensorName, InputTransform] | Hook = {}
    calibration: Samples | None = None
    """Samples to calibrate with; default: a seeded part of `samples`."""
    metric: MetricSpec | Hook | None = None
    """Default: top1 where the samples have labels."""
    dynamic: dict[TensorName, dict[str, tuple[int, int, int]]] = {}
    """Input → axis name → smallest, usual and largest size."""
    state: StateMap = {}
    """Output → the input it is fed back into; an array of that input's name in the samples is the initial state, else
    it is zeros."""
    constants: Constants = {}
    """Input → the value it always has; such inputs need no array in the samples."""
    options: ModelOptions = {}
    """`runtime/engine` → options its artifacts are made with, or carry to the engine's provider on each device."""
    task: Task | None = None
    license: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    """The model's licence, as an SPDX expression; it goes into every artifact made of it."""


class ClassSpec(Record):
    """A named selection of devices."""

    select: SelectorText


class ParitySpec(Record):
    """Limits on parity, and what replaces the derived tolerance."""

    min_agreement: ShareText | None = None
    """Share of decisions that must stay."""
    min_sqnr_db: float | None = None
    """SQNR that the worst sample must reach, in dB."""
    tolerance_db: Annotated[float, Field(ge=-60.0, le=200.0)] | None = None
    """SQNR that the median sample must reach, in dB, in place of the derived tolerance: tighter or looser."""


_LimitMs = Annotated[DurationMs, Field(gt=0.0)]


class LatencySpec(Record):
    """Upper limits on latency percentiles."""

    p50: _LimitMs | None = None
    p95: _LimitMs | None = None
    p99: _LimitMs | None = None
    scenario: Scenario = Scenario.SINGLE_STREAM
    rate: RateHzText | None = None
    """Arrivals under `server` and `fixed-rate`; default: `load` times what single-stream reaches on the device."""
    load: LoadShareText = DEFAULT_LOAD_SHARE
    samples_per_query: SamplesPerQuery | None = None
    """Under `multi-stream` and `offline`; default: 8 and 32."""


class MemorySpec(Record):
    """Upper limit on peak memory."""

    peak: Annotated[SizeBytes, Field(gt=0)] | None = None


class EnergySpec(Record):
    """Upper limit on energy per inference."""

    per_inference: Annotated[EnergyMj, Field(gt=0.0)] | None = None
    if_unmeasured: IfUnmeasured = IfUnmeasured.WARN


class PlacementSpec(Record):
    """Limits on where operators run.

    With neither said, fallback from an accelerator is forbidden, and between kernels of one CPU (`xnnpack`) allowed.
    """

    min_accelerated: ShareText | None = None
    fallback: FallbackPolicy | None = None


class AcceptSpec(Record):
    """What must hold on each device."""

    parity: ParitySpec = ParitySpec()
    latency: LatencySpec = LatencySpec()
    memory: MemorySpec = MemorySpec()
    energy: EnergySpec = EnergySpec()
    placement: PlacementSpec = PlacementSpec()

    def resolve(self, metric: MetricAccept | None) -> Accept:
        """Return the same limits in code's own units, with the model's metric."""
        return Accept(
            parity=ParityAccept(
                min_agreement=self.parity.min_agreement,
                min_sqnr_db=self.parity.min_sqnr_db,
                tolerance_db=self.parity.tolerance_db,
            ),
            latency=LatencyAccept(
                p50_ms=self.latency.p50,
                p95_ms=self.latency.p95,
                p99_ms=self.latency.p99,
                scenario=self.latency.scenario,
                rate_hz=self.latency.rate,
                load_share=self.latency.load,
                samples_per_query=self.latency.samples_per_query,
            ),
            memory=MemoryAccept(peak_bytes=self.memory.peak),
            energy=EnergyAccept(per_inference_mj=self.energy.per_inference, if_unmeasured=self.energy.if_unmeasured),
            placement=PlacementAccept(min_accelerated=self.placement.min_accelerated, fallback=self.placement.fallback),
            metric=metric,
        )


Wave = Annotated[int, Field(ge=1, le=1_000_000)] | ShareText


class GateSpec(Record):
    """What stops a rollout between waves."""

    max_failed: ShareText = 0.05
    max_slower: ShareText = 0.10


class RolloutSpec(Record):
    """How a release reaches many devices."""

    waves: tuple[Wave, ...] = Field(default=(1, 0.1, 1.0), min_length=1, max_length=16)
    bake: DurationS = 600.0
    gate: GateSpec = GateSpec()
    on_failure: Literal["rollback", "pause"] = "rollback"


Target = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1024)]
_TargetList = Annotated[tuple[Target, ...], Field(min_length=1, max_length=64)]
Targets = Annotated[_TargetList, BeforeValidator(_as_sequence, json_schema_input_type=_TargetList | Target)]
Chain = Annotated[tuple[VariantName, ...], Field(min_length=1, max_length=MAX_CHAIN)]


class DeploymentSpec(Record):
    """One model to some devices."""

    model: Name
    to: Targets
    """Class names, `all`, or selectors."""
    chain: Chain | dict[Name, Chain] | None = None
    """Variants to try, in order: one chain for all, or one a class. Default: built in, per class."""
    choose: Choose = Choose.FIRST
    accept: AcceptSpec = AcceptSpec()
    rollout: RolloutSpec | None = None


class Manifest(Record):
    """A whole manifest."""

    fleet: Literal["v1"]
    models: dict[Name, ModelSpec] = Field(min_length=1, max_length=MAX_MODELS)
    classes: dict[Name, ClassSpec] = Field(default={}, max_length=64)
    deployments: tuple[DeploymentSpec, ...] = Field(min_length=1, max_length=256)


def metric_accept(spec: MetricSpec | Hook | None) -> MetricAccept | None:
    """Return a metric in code's own words."""
    if isinstance(spec, str):
        return MetricAccept(kind=MetricKind.FUNCTION, function=spec)
    return None if spec is None else MetricAccept(kind=spec.kind, max_drop=spec.min_drop)


BUILTIN_CLASSES: dict[str, str] = {
    "jetson": "board=jetson",
    "coral": "edgetpu",
    "phone": "os=android",
    "cpu": "board!=jetson, !edgetpu, os!=android",
}
"""Classes every manifest knows, in the order a device is looked up."""

ALL = "all"
"""In `to`: every device."""

_CLASS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def is_class_name(target: str) -> bool:
    """Tell whether an entry of `to` is a bare word, which names a class or is `all`; anything else is a selector."""
    return _CLASS_NAME.fullmatch(target) is not None
