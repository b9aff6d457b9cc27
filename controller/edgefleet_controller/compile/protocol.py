"""What a compile child is asked and what it answers: one JSON record each way."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgefleet_contract.artifact import (
    ClaimedPrecision,
    Constants,
    EvidenceLevel,
    InputTransform,
    StateMap,
    TensorMaps,
    TensorSpec,
)
from edgefleet_contract.base import ByteCount, Digest, Name, Reason, Record, TensorName
from edgefleet_contract.coverage import Coverage
from edgefleet_contract.evidence import Task
from edgefleet_contract.job import FilePath
from edgefleet_contract.options import TargetOptions
from edgefleet_contract.tuning import Recipe
from edgefleet_contract.variant import VariantName

Count = Annotated[int, Field(ge=0)]
OptionValue = str | int | float | bool
FaultPlace = Literal[
    "source", "samples", "calibration", "preprocess", "labels", "dynamic", "state", "constants", "variant"
]
DynamicAxes = dict[TensorName, dict[str, tuple[int, int, int]]]
"""Input → axis name → smallest, usual and largest size."""


class SamplesFile(Record):
    """An `.npz` as the user gave it, and how its arrays are named."""

    path: FilePath
    shown_as: str
    """The path as the manifest writes it, for messages."""
    inputs: dict[TensorName, TensorName] = {}
    labels: TensorName | None = None
    sequences: TensorName | None = None


class IngestRequest(Record):
    """Check a model and its samples; write both in canonical form into `out_dir`."""

    kind: Literal["ingest"] = "ingest"
    model: Name
    source: FilePath
    source_shown_as: str
    function: str | None = None
    """The function of a source that is Python code."""
    samples: SamplesFile
    calibration: SamplesFile | None = None
    preprocess: dict[TensorName, InputTransform] = {}
    dynamic: DynamicAxes = {}
    state: StateMap = {}
    constants: Constants = {}
    top1: bool
    """Whether labels, where there are some, must be class numbers."""
    out_dir: FilePath


class ModelRecord(Record):
    """What a source model is: read from the file itself."""

    source: Digest
    format: Literal["onnx", "tflite"] = "onnx"
    precision: str | None = None
    """What a TFLite file computes in, and so the only precision it is built in; None where precisions are made."""
    rounds_to: ClaimedPrecision | None = None
    """What an ONNX file that rounds its activations itself (QDQ, float16…) computes in: no artifact is nearer to it."""
    reference: VariantName = "ort/cpu/fp32"
    """What runs the source itself, for the outputs every artifact is compared with."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: Count | None = None
    """ONNX only, as is the next."""
    ir_version: Count | None = None
    nodes_n: Count
    parameters_n: Count
    """Elements of constants: initializers, tensors in Constant nodes, buffers."""
    domains: tuple[str, ...]
    """Operator domains beyond ONNX's own."""
    batch_is_dynamic: bool
    operators: dict[str, Count]


class Origin(Record):
    """What a source that is not built itself was exported from, into the ONNX file that is."""

    digest: Digest
    """Of the user's file."""
    framework: str
    """What exported it and gave the reference outputs, with its version."""
    tools: dict[str, str]
    """All that took part, with versions."""


class SamplesRecord(Record):
    """What became of the samples."""

    given_n: Count
    golden_n: Count
    """Samples every artifact carries: parity is asked on these."""
    calibration_n: Count
    calibration_overlaps: bool
    """Whether ranges were calibrated on samples that parity is asked on, because there were too few others."""
    labelled: bool
    golden_bytes: ByteCount


class IngestAnswer(Record):
    """The model is sound and its samples fit; `samples.npz` and `calibration.npz` were written."""

    kind: Literal["ingest"] = "ingest"
    model: ModelRecord
    origin: Origin | None = None
    """Where the source was exported: `exported.onnx` and `reference.npz` were written too."""
    samples: SamplesRecord


class BuildRequest(Record):
    """Make the model file of one variant."""

    kind: Literal["build"] = "build"
    model: Name
    variant: VariantName
    source: FilePath
    samples: FilePath
    calibration: FilePath
    preprocess: dict[TensorName, InputTransform] = {}
    dynamic: DynamicAxes = {}
    constants: Constants = {}
    out: FilePath
    work_dir: FilePath
    task: Task | None = None
    recipe: Recipe = Recipe()
    options: TargetOptions = {}
    """What the manifest sets for this target."""


class BuildAnswer(Record):
    """The model file was written."""

    kind: Literal["build"] = "build"
    inputs: tuple[TensorSpec, ...]
    """As the source names and orders them, with the file's dtypes."""
    outputs: tuple[TensorSpec, ...]
    input_map: TensorMaps = {}
    output_map: TensorMaps = {}
    bound: tuple[TensorName, ...] = ()
    """Inputs of the source that are constants of the file."""
    options: dict[str, OptionValue] = {}
    """How it was made, with every figure a choice was made by."""
    provider_options: TargetOptions = {}
    """What the artifact carries to the engine's provider."""
    rewrites: tuple[str, ...] = ()
    """Rewrites applied to the source for this variant, in order: `name` or `name xN`."""
    min_runtime: dict[str, str] = {}
    """Runtime → lowest version that runs the file rightly."""
    coverage: Coverage | None = None
    """Where operators would run, where something on the builder can tell."""
    level: EvidenceLevel | None = None
    """How far the file was proven while it was made, where the builder cannot run it: `parsed-only` when the vendor's
    parser accepted it, `built-not-executed` when the vendor's builder made it, `table-only` when rules alone say so."""
    notes: dict[str, OptionValue] = {}
    """Figures of the moment it was made, such as measured speed: told, and no part of the artifact, whose
    bytes must come out the same when it is built again."""


class JoinRequest(Record):
    """Write an ONNX model and the files that hold its weights as one file."""

    kind: Literal["join"] = "join"
    source: FilePath
    root: FilePath
    """The folder the other files must lie in."""
    out: FilePath


class JoinAnswer(Record):
    """The file was written."""

    kind: Literal["join"] = "join"
    tensors_n: Count
    total_bytes: ByteCount


class RandomSamplesRequest(Record):
    """Draw samples for a model that came without."""

    kind: Literal["random-samples"] = "random-samples"
    source: FilePath
    out: FilePath


class RandomSamplesAnswer(Record):
    """The samples were written."""

    kind: Literal["random-samples"] = "random-samples"
    samples_n: Count


class CoverageRequest(Record):
    """Say where the operators of a model file would run on a target, without building anything."""

    kind: Literal["coverage"] = "coverage"
    model: FilePath
    variant: VariantName
    work_dir: FilePath


class CoverageAnswer(Record):
    """Where they would run."""

    kind: Literal["coverage"] = "coverage"
    coverage: Coverage


class FaultAnswer(Record):
    """It cannot be done, and not because of a bug: what is wrong, where, and what to do."""

    kind: Literal["fault"] = "fault"
    family: Literal["input", "unsupported"]
    what: FaultPlace
    reason: Reason
    next_step: str | None = None
    at: tuple[str, ...] = ()
    """Keys below the user's thing that lead to what is wrong."""


CompileRequest = Annotated[
    IngestRequest | BuildRequest | JoinRequest | RandomSamplesRequest | CoverageRequest, Field(discriminator="kind")
]
CompileAnswer = Annotated[
    IngestAnswer | BuildAnswer | JoinAnswer | RandomSamplesAnswer | CoverageAnswer | FaultAnswer,
    Field(discriminator="kind"),
]
