"""Jobs: what a worker process is asked to do with a model, and what it answers.

The worker is the only process that loads a model runtime. The agent uses it to qualify, the controller to check on
the host, to compare and to bench: one implementation.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgefleet_contract.accept import (
    DEFAULT_LOAD_SHARE,
    Accept,
    LoadShare,
    MetricAccept,
    ParityAccept,
    RateHz,
    SamplesPerQuery,
    Scenario,
)
from edgefleet_contract.artifact import ClaimedPrecision, Constants, InputTransform, StateMap, TensorMaps, TensorSpec
from edgefleet_contract.base import Reason, Record, TensorName
from edgefleet_contract.evidence import (
    Bisection,
    Conditions,
    LatencyResult,
    ParityCheck,
    ParityResult,
    ParityVerdict,
    Task,
    Trial,
)
from edgefleet_contract.profile import EngineProbe
from edgefleet_contract.variant import VariantName

FilePath = Annotated[str, Field(min_length=1, max_length=4096)]
STEPS_WORDS = {
    False: "single steps from the source's own states pass: what it passes on from step to step goes wrong",
    True: "single steps from the source's own states fail too",
}
"""Why outputs with states fed back fail, by whether they also fail when every step begins with the source's state."""


class LatencyBudget(Record):
    """How long a latency run may take and when it has seen enough."""

    scenario: Scenario = Scenario.SINGLE_STREAM
    min_n: Annotated[int, Field(ge=1, le=10_000_000)] = 500
    max_n: Annotated[int, Field(ge=1, le=10_000_000)] = 200_000
    min_duration_s: Annotated[float, Field(ge=0, le=3600)] = 1.0
    max_duration_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """The run goes on past this to reach `min_n`, up to 4 times this, or to average a level that goes to and fro, up to
    3 times."""
    warmup_max_s: Annotated[float, Field(ge=0, le=600)] = 3.0
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    percentile: Annotated[float, Field(ge=0.01, le=0.999)] = 0.95
    """The percentile whose interval decides how long to measure."""
    rate_hz: RateHz | None = None
    """Arrivals per second under `server` and `fixed-rate`; default: `load_share` of what single-stream reaches."""
    load_share: LoadShare = DEFAULT_LOAD_SHARE
    samples_per_query: SamplesPerQuery | None = None
    """Default: 8 under `multi-stream` (MLPerf's), 32 under `offline`; 1 under all others, whatever is said here."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    cpus: Annotated[tuple[Annotated[int, Field(ge=0, le=4095)], ...], Field(max_length=1024)] = ()
    """CPUs the worker is pinned to; empty: those it may use anyway."""
    profile_max_s: Annotated[float, Field(ge=0, le=600)] = 0.1
    """Time for the operator profile, a pass of its own after everything else; 0: none."""


class QualifyJob(Record):
    """Qualify one artifact that lies complete and verified in a folder."""

    kind: Literal["qualify"] = "qualify"
    artifact_dir: FilePath
    """Holds `artifact.json` and every file it names."""
    accept: Accept = Accept()
    task: Task | None = None
    latency: LatencyBudget = LatencyBudget()
    test_runtimes: bool = False
    """Whether runtimes that misbehave on purpose may be used."""


class OutputsJob(Record):
    """Run a model file on samples and write its outputs."""

    kind: Literal["outputs"] = "outputs"
    model: FilePath
    variant: VariantName
    samples: FilePath
    """`.npz` of raw samples by model input name."""
    preprocess: dict[TensorName, InputTransform] = {}
    input_map: TensorMaps = {}
    output_map: TensorMaps = {}
    state: StateMap = {}
    """Outputs to feed back."""
    single_steps: bool = False
    """Whether every step takes its state from the samples, instead of what the step before gave."""
    bound: tuple[TensorName, ...] = Field(default=(), max_length=64)
    """Arrays of the samples that are constants of the file."""
    out: FilePath
    """Where the `.npz` of outputs by name is written (beside, then renamed)."""
    test_runtimes: bool = False


class CompareJob(Record):
    """Parity of two model files on samples, or of two `.npz` files of named outputs."""

    kind: Literal["compare"] = "compare"
    reference: FilePath
    candidate: FilePath
    samples: FilePath | None = None
    labels_key: str = Field(default="labels", max_length=256)
    precision: ClaimedPrecision | None = None
    """The precision the candidate claims; None lets the worker read it from the files."""
    task: Task | None = None
    same_artifact: bool = False
    """Question 2: both ran the same file, so only the device's arithmetic may differ."""
    preprocess: dict[TensorName, InputTransform] = {}
    state: StateMap = {}
    constants: Constants = {}
    metric: MetricAccept | None = None
    """The metric to compute; None: top-1 where there are labels and the task is classification or not known."""
    limits: ParityAccept = ParityAccept()
    bisect: bool = False
    """Whether to look for the operator at fault where parity fails."""
    out: FilePath | None = None
    """Folder for the failing part of the model and the command that repeats the finding."""


class BenchJob(Record):
    """Latency of one model file on samples."""

    kind: Literal["bench"] = "bench"
    model: FilePath
    samples: FilePath
    latency: LatencyBudget = LatencyBudget()
    preprocess: dict[TensorName, InputTransform] = {}
    input_map: TensorMaps = {}
    """How the file holds the inputs the samples are named by; empty lets the worker match them by name and shape."""
    state: StateMap = {}
    """Its inputs keep their first value while time is taken, as nothing is copied then."""
    constants: Constants = {}
    """Those of them that the file does not take are constants of it."""
    bound: tuple[TensorName, ...] = Field(default=(), max_length=64)
    """Arrays of the samples that are constants of the file."""


class InspectJob(Record):
    """Load a model file and say what it is."""

    kind: Literal["inspect"] = "inspect"
    model: FilePath
    variant: VariantName


class ProbeJob(Record):
    """Find out which engines work here, by loading each runtime."""

    kind: Literal["probe"] = "probe"
    test_runtimes: bool = False
    target: str | None = Field(default=None, max_length=64)
    """The one `runtime/engine` to start; None: every engine that may be started beside others."""


Job = Annotated[QualifyJob | OutputsJob | CompareJob | BenchJob | InspectJob | ProbeJob, Field(discriminator="kind")]


class QualifyAnswer(Record):
    """The trial's result."""

    kind: Literal["qualify"] = "qualify"
    trial: Trial


class OutputsAnswer(Record):
    """The outputs were written."""

    kind: Literal["outputs"] = "outputs"
    outputs: tuple[TensorSpec, ...]
    n_samples: int


class CompareAnswer(Record):
    """`fleet compare -o json` prints this."""

    kind: Literal["compare"] = "compare"
    verdict: ParityVerdict
    failed_check: ParityCheck | None = None
    reason: Reason | None = None
    precision: str
    task: Task | None
    parity: ParityResult
    bisection: Bisection | None = None
    assumed: tuple[Reason, ...] = Field(default=(), max_length=64)
    """What was taken for granted to compare them: which tensor stands for which, in which order of axes."""


class BenchAnswer(Record):
    """`fleet bench -o json` prints this."""

    kind: Literal["bench"] = "bench"
    latency: LatencyResult
    conditions: Conditions


class InspectAnswer(Record):
    """What the runtime says of a model."""

    kind: Literal["inspect"] = "inspect"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class ProbeAnswer(Record):
    """Which engines work here."""

    kind: Literal["probe"] = "probe"
    engines: tuple[EngineProbe, ...]
    alone: tuple[Annotated[str, Field(max_length=64)], ...] = Field(default=(), max_length=64)
    """Installed engines that were not started, as they may take down their process: each wants a job of its own."""


class ErrorAnswer(Record):
    """The job could not be done; nothing crashed. `family` tells whose fault it is."""

    kind: Literal["error"] = "error"
    family: Literal["input", "device", "internal"]
    reason: Reason


Answer = Annotated[
    QualifyAnswer | OutputsAnswer | CompareAnswer | BenchAnswer | InspectAnswer | ProbeAnswer | ErrorAnswer,
    Field(discriminator="kind"),
]
