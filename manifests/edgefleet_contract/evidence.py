"""Evidence: what one qualification measured, and the conditions that make it comparable."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import Field

from edgefleet_contract.accept import MetricKind, Scenario
from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_contract.base import ByteCount, Digest, Generation, Name, Reason, Record, Share, TensorName
from edgefleet_contract.variant import VariantName

Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Ms = Annotated[float, Field(ge=0.0)]
Millijoules = Annotated[float, Field(ge=0.0)]
RailName = Annotated[str, Field(max_length=128)]


class Task(str, Enum):
    """What a model's outputs mean; decides which decisions parity compares."""

    CLASSIFICATION = "classification"
    DETECTION = "detection"
    EMBEDDING = "embedding"
    SEGMENTATION = "segmentation"
    SEQUENCE = "sequence"
    REGRESSION = "regression"


class ParityVerdict(str, Enum):
    """Outcome of a parity check."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    WEAK = "weak"
    """Nothing failed, but the samples prove little (random, or too few)."""
    FAIL = "fail"


class ParityCheck(str, Enum):
    """The checks, in the order they are asked; the first that fails names the failure."""

    NAMES = "names"
    SHAPE = "shape"
    DTYPE = "dtype"
    FINITE = "finite"
    CONSTANT = "constant"
    SATURATION = "saturation"
    RESOLUTION = "resolution"
    REPEAT = "repeat"
    SHIFT = "shift"
    GAIN = "gain"
    OFFSET = "offset"
    BAND_PEAK = "band-peak"
    SQNR = "sqnr"
    OUTLIER = "outlier"
    TOP_K = "top-k"
    DECISIONS = "decisions"
    METRIC = "metric"
    LIMIT = "limit"
    """A limit the manifest sets beyond the derived tolerance."""


class MetricResult(Record):
    """The task's metric on the labelled samples: the source model's and the artifact's."""

    kind: MetricKind
    reference: float
    measured: float
    n: Count


class OutputParity(Record):
    """Parity figures of one output tensor. A figure that does not apply is None."""

    name: TensorName
    n_samples: Count
    bit_exact: bool
    worst_sqnr_db: float | None = None
    """Signal-to-quantisation-noise ratio of the worst sample, in dB; None when bit-exact or without signal."""
    median_sqnr_db: float | None = None
    tolerance_sqnr_db: float | None = None
    max_abs_error: float | None = None
    cosine: float | None = None
    agreement: Share | None = None
    failed_check: ParityCheck | None = None
    reason: Reason | None = None


class ParityResult(Record):
    """Parity of a candidate's outputs against a reference's, over all outputs and samples."""

    verdict: ParityVerdict
    failed_check: ParityCheck | None = None
    reason: Reason | None = None
    n_samples: Count
    agreement: Share | None = None
    """Share of samples whose decision is the same, where the task has one."""
    worst_sqnr_db: float | None = None
    metric: MetricResult | None = None
    outputs: tuple[OutputParity, ...] = Field(default=(), max_length=256)


class BisectStatus(str, Enum):
    """How a search for the operator at fault ended."""

    FOUND = "found"
    """One operator, fed with the reference's own values, computes something else."""
    DRIFT = "drift"
    """No operator is at fault alone; their errors add up."""
    CLEAN = "clean"
    """Nothing differs more than the claim explains."""
    IMPOSSIBLE = "impossible"
    """The two files cannot be laid beside each other, or what is needed is not installed here."""


class OperatorError(Record):
    """The error of one operator (or of the few between two tensors that both files name)."""

    operator: str = Field(max_length=128)
    """Operator type, or types in order where several lie between two known tensors."""
    node: str = Field(max_length=512)
    tensor: TensorName
    """The candidate's tensor that was looked at."""
    island_sqnr_db: float | None = None
    """SQNR with the reference's values as inputs, in dB; None when it is exact or without signal."""
    drift_sqnr_db: float | None = None
    """SQNR of the same tensor in the whole candidate: what has added up until here."""
    reason: Reason | None = None


class Bisection(Record):
    """The first operator whose outputs differ, and how it was found."""

    status: BisectStatus
    reason: Reason
    operators_n: Count = 0
    """Operators of the candidate, constants aside."""
    compared_n: Count = 0
    """Tensors that both files name; each closes one island."""
    runs_n: Count = 0
    """Model runs over the samples, the reference's included."""
    samples_n: Count = 0
    culprit: OperatorError | None = None
    first_drift: OperatorError | None = None
    """The first tensor, in the order of computation, that leaves the claim's tolerance in the whole candidate."""
    worst: tuple[OperatorError, ...] = Field(default=(), max_length=16)
    """The islands with the largest error, worst first."""
    folder: str | None = Field(default=None, max_length=4096)
    command: Reason | None = None
    """The command that repeats the finding."""


class LatencyVerdict(str, Enum):
    """Whether latency figures may be believed, and if not, why not."""

    VALID = "valid"
    CONTENDED = "contended"
    UNSTEADY = "unsteady"
    THROTTLED = "throttled"
    INCONCLUSIVE = "inconclusive"


class Percentiles(Record):
    """P50, P95 and P99 in milliseconds with 95 % confidence intervals; an interval that does not exist at this
    sample size is None."""

    n: Count
    n_eff: float
    """Effective sample size: n corrected for autocorrelation (Geyer's initial positive sequence)."""
    p50_ms: Ms
    p95_ms: Ms
    p99_ms: Ms
    ci95_p50_ms: tuple[Ms, Ms] | None = None
    ci95_p95_ms: tuple[Ms, Ms] | None = None
    ci95_p99_ms: tuple[Ms, Ms] | None = None


class StopReason(str, Enum):
    """Why a latency run ended."""

    INTERVAL = "interval"
    """The 95 % interval of the percentile asked for was narrow enough."""
    TIME = "time"
    COUNT = "count"


class EarlyStopping(Record):
    """What MLPerf's early-stopping criterion lets the queries of a run say about one percentile."""

    percentile: Share
    confidence: Share
    needed_n: Count
    """The least number of queries for any statement."""
    discarded_n: Count | None = None
    """Queries above the estimate; None when there are too few queries."""
    estimate_ms: Ms | None = None


class OperatorShare(Record):
    """One type of operator and its share of the time spent in operators."""

    operator: str = Field(max_length=128)
    share: Share
    calls_n: Count
    """Per inference."""


class OperatorProfile(Record):
    """Where time goes inside the model, from a pass of its own: profiling slows what it watches."""

    operators: tuple[OperatorShare, ...] = Field(max_length=16)
    """Largest share first; small ones are left out."""
    inferences_n: Count
    source: str = Field(max_length=128)
    """How it was read: the API or file the runtime told it through."""


class Wander(Record):
    """How the level of a run went to and fro, where no single one lasted: medians of blocks of 20 samples and more."""

    spread_share: Annotated[float, Field(ge=0)]
    """From the level that 2.5 % of blocks are below to the one that 2.5 % are above."""
    drift_share: float
    """From the first half to the last, or the first third to the last, whichever is more; < 0: it became faster."""
    upper_drift_share: float
    """From half to half, of the level that a tenth of the blocks exceed."""
    levels_n: Annotated[float, Field(ge=0)]
    """How many independent levels it has shown."""


class LatencyResult(Percentiles):
    """Latency of one model under one scenario, from all samples of the steady phase.

    One sample is one query: `samples_per_query` inputs of the model. Where queries arrive by a schedule it lasts from
    the scheduled arrival to the answer, so waiting in the queue counts.
    """

    verdict: LatencyVerdict
    reason: Reason | None = None
    scenario: Scenario = Scenario.SINGLE_STREAM
    min_ms: Ms
    max_ms: Ms
    mean_ms: Ms
    load_ms: Ms
    """Loading the model and creating the session."""
    first_ms: Ms
    """The first inference after loading."""
    warmup_n: Count
    duration_s: Annotated[float, Field(ge=0)]
    threads: Annotated[int, Field(ge=1, le=1024)]
    spinning: bool
    preempted_n: Count
    """Samples during which the kernel took the CPU away (involuntary context switch)."""
    undisturbed: Percentiles | None = None
    """The same figures without preempted samples."""
    harness_floor_ms: Ms
    """What the timing loop itself costs per sample (p50 of an empty call), measured in the same run."""
    samples_per_query: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    rate_hz: Annotated[float, Field(gt=0)] | None = None
    """Queries offered per second; None where each query follows the last."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    """What random arrivals were drawn with."""
    throughput_hz: Annotated[float, Field(ge=0)] | None = None
    """Samples per second: of the time spent inferring where each query follows the last, else as answered."""
    ci95_throughput_hz: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] | None = None
    service: Percentiles | None = None
    """Time in the model alone, without waiting in the queue, where queries arrive by a schedule."""
    asked: Share | None = None
    """The percentile that decided how long to measure."""
    stopped_by: StopReason | None = None
    warmed_up: bool | None = None
    """Whether warm-up ended because the level stayed, and not because its time was over."""
    wander: Wander | None = None
    """How the level went to and fro, undisturbed samples alone; None where one level lasted."""
    runs_n: Annotated[int, Field(ge=1, le=16)] = 1
    """Runs the trial made because the level moved during the ones before; these figures are of the last alone."""
    early_stopping: tuple[EarlyStopping, ...] = Field(default=(), max_length=8)
    histogram: Annotated[str, Field(max_length=5120)] | None = None
    """All samples, in nanoseconds: an HdrHistogram, V2 compressed, in base64."""
    profile: OperatorProfile | None = None


class MemoryResult(Record):
    """Memory of the worker process, in bytes."""

    peak_bytes: ByteCount
    """Highest resident size while loading and inferring (VmHWM after a reset); what the harness itself keeps is out."""
    baseline_bytes: ByteCount
    """Resident size before the model was loaded."""
    pss_bytes: ByteCount | None = None
    """Proportional set size at rest, after inferring."""


class EnergyStatus(str, Enum):
    """Whether energy was measured."""

    MEASURED = "measured"
    MODELLED = "modelled"
    """Measured on rails that feed only a part of the device, or whose unit had to be inferred: fit to compare variants
    on one device, not to be held against a limit."""
    UNMEASURED = "unmeasured"


class EnergyResult(Record):
    """Energy per inference, or why there is none. Never a guess.

    Intervals are 95 % intervals of the sampling, the sensor's staleness and the drift of the idle draw; the sensor's
    own calibration is not in them.
    """

    status: EnergyStatus
    reason: Reason | None = None
    per_inference_mj: Annotated[float, Field(ge=0)] | None = None
    """Net of the idle draw."""
    ci95_per_inference_mj: tuple[Millijoules, Millijoules] | None = None
    gross_per_inference_mj: Millijoules | None = None
    """With the idle draw."""
    ci95_gross_per_inference_mj: tuple[Millijoules, Millijoules] | None = None
    gross_j: Annotated[float, Field(ge=0)] | None = None
    """All energy of the load window."""
    net_j: float | None = None
    """`gross_j` less the idle draw over the same time."""
    ci95_net_j: tuple[float, float] | None = None
    load_w: float | None = None
    """Mean power over the load window."""
    idle_before_w: float | None = None
    idle_after_w: float | None = None
    n: Count | None = None
    """Inferences in the load window."""
    duration_s: Annotated[float, Field(ge=0)] | None = None
    """Length of the load window."""
    sensor: str | None = Field(default=None, max_length=256)
    rails: tuple[RailName, ...] = Field(default=(), max_length=64)
    """The rails that were added up."""
    scope: str | None = Field(default=None, max_length=128)
    """What these rails feed."""
    kind: Literal["counter", "average", "instant", "mixed"] | None = None
    readings_n: Count | None = None
    rate_hz: Annotated[float, Field(ge=0)] | None = None
    """Readings a second in the load window."""
    leaves_out: Reason | None = None
    """What the device draws that these rails do not see."""
    proven_on: Reason | None = None
    """On what this way of reading has been proven; users must know when it never ran on hardware."""


class Phase(str, Enum):
    """What a device was doing thermally."""

    COLD = "cold"
    """Its temperature still climbed towards its level."""
    STEADY = "steady"
    THROTTLED = "throttled"
    """Its clock stayed below 95 % of its best, near the hottest it became."""


class PhaseSpan(Record):
    """A stretch of one phase, in seconds from the begin of warm-up; it ends where the next begins."""

    phase: Phase
    begin_s: Annotated[float, Field(ge=0)]
    end_s: Annotated[float, Field(ge=0)]


class ThermalResult(Record):
    """Temperatures and clocks around the latency run, and whether anything slowed the device down meanwhile."""

    throttled: bool
    reason: Reason | None = None
    """The evidence of throttling, or what could not be told."""
    start_c: float | None = None
    """The hottest zone when the run began; None where there is none."""
    end_c: float | None = None
    start_limit_c: float | None = None
    """What the hottest zone was waited for to fall below."""
    waited_s: Annotated[float, Field(ge=0)] = 0.0
    clock_start_mhz: Annotated[float, Field(ge=0)] | None = None
    """The fastest CPU clock."""
    clock_end_mhz: Annotated[float, Field(ge=0)] | None = None
    clock_lowest_mhz: Annotated[float, Field(ge=0)] | None = None
    """The lowest it was seen at, about once a second."""
    peak_c: float | None = None
    """The hottest it was seen at."""
    phases: tuple[PhaseSpan, ...] = Field(default=(), max_length=64)
    """Empty for a run of fewer than 5 looks, and where no temperature is told."""


class PlacementResult(Record):
    """Where operators ran, read back from the runtime."""

    accelerated: Share
    """Share of nodes that ran on the engine the variant asked for."""
    nodes: dict[str, Count]
    """Execution provider or delegate → number of nodes."""
    source: str = Field(max_length=128)
    """How it was read: the API or file the runtime told it through."""
    time_accelerated: Share | None = None
    """Share of the operators' time spent on the engine; None where it was not measured."""
    time_unmeasured_reason: Reason | None = None
    elsewhere: Annotated[dict[Annotated[str, Field(max_length=128)], Count], Field(max_length=64)] = {}
    """Operator → how many of them did not run on the engine asked for; the most frequent 64."""


class Verdict(str, Enum):
    """Outcome of trying one variant on one device."""

    QUALIFIED = "qualified"
    UNSUPPORTED = "unsupported"
    """The device, its runtime or this version cannot run the variant at all."""
    BUILD_FAILED = "build-failed"
    FAILED = "failed"
    """It ran, and missed a gate."""
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out-of-memory"
    CORRUPT = "corrupt"
    """Its bytes do not match its digest, or its files do not match its document."""


class Gate(str, Enum):
    """What a candidate must pass, in this order."""

    BUILD = "build"
    FETCH = "fetch"
    LOAD = "load"
    PARITY = "parity"
    DEVICE_PARITY = "device-parity"
    PLACEMENT = "placement"
    LATENCY = "latency"
    MEMORY = "memory"
    ENERGY = "energy"


class Conditions(Record):
    """What must be alike for two results to be compared."""

    arch: str = Field(max_length=64)
    os: str = Field(max_length=128)
    cpu_model: str = Field(max_length=256)
    cpu_count: Annotated[int, Field(ge=1)]
    runtime: str = Field(max_length=64)
    runtime_version: str = Field(max_length=64)
    threads: Annotated[int, Field(ge=1)]
    agent_version: str = Field(max_length=64)
    extra: dict[str, str] = Field(default={}, max_length=32)


class Trial(Record):
    """What the worker found out about one artifact: the measured part of the evidence."""

    verdict: Verdict
    gate: Gate | None = None
    """The first gate that was missed."""
    reason: Reason | None = None
    warnings: tuple[Reason, ...] = Field(default=(), max_length=16)
    level: EvidenceLevel = EvidenceLevel.EXECUTED_ON_DEVICE
    parity: ParityResult | None = None
    """Question 1: is the artifact faithful to the source model?"""
    device_parity: ParityResult | None = None
    """Question 2: does this device compute the artifact as the builder did?"""
    latency: LatencyResult | None = None
    memory: MemoryResult | None = None
    energy: EnergyResult | None = None
    thermal: ThermalResult | None = None
    placement: PlacementResult | None = None
    conditions: Conditions | None = None


class Evidence(Trial):
    """A trial with its identity: which artifact, which device, which wish."""

    model: Name
    variant: VariantName
    artifact: Digest
    release: Digest
    generation: Generation
    started_at_ns: Annotated[int, Field(ge=0, le=2**63 - 1)]
    duration_s: Annotated[float, Field(ge=0)]
