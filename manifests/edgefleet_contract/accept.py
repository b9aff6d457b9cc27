"""What must hold on a device before a model may become active there, in code's own units."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from pydantic import Field, StringConstraints

from edgefleet_contract.base import Record, Share


class Choose(str, Enum):
    """Which of the variants that qualify becomes active."""

    FIRST = "first"
    FASTEST = "fastest"
    LEAST_ENERGY = "least-energy"
    SMALLEST = "smallest"


class Scenario(str, Enum):
    """Load generator scenarios, with MLPerf Inference's names and meaning, plus `fixed-rate`."""

    SINGLE_STREAM = "single-stream"
    MULTI_STREAM = "multi-stream"
    SERVER = "server"
    OFFLINE = "offline"
    FIXED_RATE = "fixed-rate"


class IfUnmeasured(str, Enum):
    """What to make of a limit on something that could not be measured."""

    WARN = "warn"
    FAIL = "fail"
    IGNORE = "ignore"


class FallbackPolicy(str, Enum):
    """Whether operators may run elsewhere than on the engine that was asked for."""

    ALLOW = "allow"
    FORBID = "forbid"


Positive = Annotated[float, Field(gt=0.0)]
RateHz = Annotated[float, Field(gt=0.0, le=1e6)]
LoadShare = Annotated[float, Field(ge=0.01, le=0.99)]
SamplesPerQuery = Annotated[int, Field(ge=1, le=4096)]

DEFAULT_LOAD_SHARE = 0.5
"""Half of what the device can do: a queue forms now and then, and is gone soon."""


class ParityAccept(Record):
    """Limits on parity, and what replaces the tolerance derived from the precision."""

    min_agreement: Share | None = None
    """Share of decisions that must stay; also replaces what the precision allows clear decisions to lose."""
    min_sqnr_db: float | None = None
    """SQNR that the worst sample must reach."""
    tolerance_db: Annotated[float, Field(ge=-60.0, le=200.0)] | None = None
    """SQNR that the median sample must reach, in place of the derived tolerance: tighter or looser."""


class LatencyAccept(Record):
    """Upper limits on latency percentiles, in milliseconds, under one scenario."""

    p50_ms: Positive | None = None
    p95_ms: Positive | None = None
    p99_ms: Positive | None = None
    scenario: Scenario = Scenario.SINGLE_STREAM
    rate_hz: RateHz | None = None
    """Arrivals per second under `server` and `fixed-rate`; default: `load_share` of what single-stream reaches."""
    load_share: LoadShare = DEFAULT_LOAD_SHARE
    samples_per_query: SamplesPerQuery | None = None
    """Under `multi-stream` and `offline`; default: 8 and 32."""


class MemoryAccept(Record):
    """Upper limit on the worker's peak resident memory, in bytes."""

    peak_bytes: Annotated[int, Field(gt=0)] | None = None


class EnergyAccept(Record):
    """Upper limit on energy per inference, in millijoules."""

    per_inference_mj: Positive | None = None
    if_unmeasured: IfUnmeasured = IfUnmeasured.WARN


class PlacementAccept(Record):
    """Limits on where operators run.

    With neither said, fallback from an accelerator is forbidden, and between kernels of one CPU (`xnnpack`) allowed.
    """

    min_accelerated: Share | None = None
    """The least share of operators on the engine asked for; it allows the rest to run elsewhere."""
    fallback: FallbackPolicy | None = None


class MetricKind(str, Enum):
    """The task's own figure of merit, computed from outputs and labels."""

    TOP1 = "top1"
    """Share of samples whose best class is the label; higher is better."""
    TOP5 = "top5"
    """Share of samples whose label is among the five best classes; higher is better."""
    MAE = "mae"
    """Mean absolute error against labels of the output's shape; lower is better."""
    FUNCTION = "function"
    """The user's own `module:function` of outputs and labels; higher is better."""


FunctionName = Annotated[
    str, StringConstraints(max_length=300, pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")
]
"""`module:function`, importable where it is called."""


class MetricAccept(Record):
    """How the task's metric is computed and how far it may fall below the source model's.

    `min_drop` of the manifest is carried here as `max_drop`: the largest accepted drop, in the metric's own unit;
    of `mae`, the largest rise as a share of the source model's error.
    """

    kind: MetricKind = MetricKind.TOP1
    max_drop: Share = 0.02
    function: FunctionName | None = None
    """Of `function`: what to call."""


class Accept(Record):
    """Everything that must hold on the device; what is None is not limited."""

    parity: ParityAccept = ParityAccept()
    latency: LatencyAccept = LatencyAccept()
    memory: MemoryAccept = MemoryAccept()
    energy: EnergyAccept = EnergyAccept()
    placement: PlacementAccept = PlacementAccept()
    metric: MetricAccept | None = None
