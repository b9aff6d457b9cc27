"""Artifacts: immutable, content-addressed file sets made for one variant.

An artifact's digest is the digest of its `artifact.json` in canonical form, which names every file by size and
digest. Files are blobs under their own digest, so variants of one model share their golden samples.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from edgefleet_contract.base import ByteCount, Digest, Name, Reason, Record, Share, TensorName, digest_bytes
from edgefleet_contract.coverage import CoverageSource, OperatorCount
from edgefleet_contract.options import TargetOptions
from edgefleet_contract.variant import VariantName, parse_variant

MAX_ARTIFACT_FILES = 64
MAX_ARTIFACT_BYTES = 4 * 1024**3
MAX_DOCUMENT_BYTES = 256 * 1024
"""An `artifact.json` larger than this is refused."""

ClaimedPrecision = Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic", "int16x8", "int4"]

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]
"""A plain file name: no folder, no leading dot."""

DType = Literal[
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8",
    "uint64", "uint32", "uint16", "uint8", "bool",
]  # fmt: skip

Dim = Annotated[int, Field(ge=0, le=2**31 - 1)] | Annotated[str, StringConstraints(min_length=1, max_length=128)]
"""A fixed size, or the name of a dynamic axis."""


class FileRole(str, Enum):
    """What a file of an artifact is for."""

    MODEL = "model"
    SAMPLES = "samples"
    """`.npz`: raw samples by model input name, first axis = sample; optional `labels` and `sequences`."""
    SOURCE_OUTPUTS = "source-outputs"
    """`.npz`: outputs of the fp32 source on the samples, on the builder."""
    ARTIFACT_OUTPUTS = "artifact-outputs"
    """`.npz`: outputs of this artifact on the samples, on the builder's reference runtime."""
    COVERAGE = "coverage"
    """`coverage.json`: where each operator would run, and who says so."""


class ArtifactFile(Record):
    """One file of an artifact; its content is the blob `digest`."""

    name: FileName
    role: FileRole
    size_bytes: ByteCount
    digest: Digest


class Layout(str, Enum):
    """Order of an image tensor's axes; `nhw` has no channel axis (one channel is added)."""

    NCHW = "nchw"
    NHWC = "nhwc"
    NHW = "nhw"


class InputTransform(Record):
    """How a raw sample becomes a model input: transpose, then `(x - mean) * scale / std`, then cast to `dtype`.

    `mean` and `std` are one number or one per channel. Computed in float32.
    """

    sample_layout: Layout | None = None
    layout: Layout | None = None
    scale: float = 1.0
    mean: float | tuple[float, ...] = 0.0
    std: Annotated[float, Field(gt=0)] | tuple[Annotated[float, Field(gt=0)], ...] = 1.0

    @model_validator(mode="after")
    def _layouts_come_together(self) -> InputTransform:
        if self.sample_layout is not None and self.layout is None:
            msg = "sample_layout says how samples lie; say with `layout` what the model wants"
            raise ValueError(msg)
        if self.layout is Layout.NHW and self.sample_layout not in {None, Layout.NHW}:
            msg = "a model input in layout nhw takes samples in nhw only"
            raise ValueError(msg)
        return self


class TensorSpec(Record):
    """One input or output of a model, as the model itself declares it."""

    name: TensorName
    dtype: DType
    shape: tuple[Dim, ...]
    layout: Layout | None = None


def _validate_axes(axes: tuple[int, ...]) -> tuple[int, ...]:
    if sorted(axes) != list(range(len(axes))):
        msg = f"axes are a permutation of 0 to {len(axes) - 1}, got {list(axes)}"
        raise ValueError(msg)
    return axes


Axes = Annotated[tuple[int, ...], Field(max_length=8), AfterValidator(_validate_axes)]
"""An order of axes, as numpy's `transpose` takes it."""


class TensorMap(Record):
    """How a tensor of the model file stands for one of the source model."""

    name: TensorName
    """The tensor's name in the model file."""
    axes: Axes = ()
    """Axis i of the file's tensor is axis `axes[i]` of the source's; empty: the same order."""


TensorMaps = Annotated[dict[TensorName, TensorMap], Field(max_length=256)]
"""The source's tensor name → how the model file holds it; a tensor left out has the same name and axes in both."""


StateMap = Annotated[dict[TensorName, TensorName], Field(max_length=64)]
"""Output → the input that takes its value in the next inference of a sequence. Names are the source's."""

Constants = Annotated[dict[TensorName, int | float], Field(max_length=64)]
"""Input → the one value it has in every inference, at each of its elements; 0 or 1 for an input of type bool."""


class IoContract(Record):
    """What goes in and what comes out, as the source names and orders it, and how raw samples are made into inputs.

    Where a conversion renamed or transposed tensors, `input_map` and `output_map` lead from the source's to the file's.
    """

    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=64)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=256)
    preprocess: dict[TensorName, InputTransform] = {}
    input_map: TensorMaps = {}
    output_map: TensorMaps = {}
    state: StateMap = {}
    """Outputs that are fed back. The samples hold, at each step, the state the source had there: the first step of a
    sequence begins with it, and later ones take what the step before gave."""
    bound: tuple[TensorName, ...] = Field(default=(), max_length=64)
    """Inputs of the source that are constants of the file, which does not take them; `options` says their values."""


class EvidenceLevel(str, Enum):
    """How a result was come by; only like is compared with like."""

    EXECUTED_ON_DEVICE = "executed-on-device"
    EMULATED = "emulated"
    BUILT_NOT_EXECUTED = "built-not-executed"
    PARSED_ONLY = "parsed-only"
    TABLE_ONLY = "table-only"
    SIMULATED = "simulated"


class HostCheck(Record):
    """Parity with the source on the builder, before anything is sent. One that fails stands in no artifact."""

    level: EvidenceLevel
    """`executed-on-device` where the builder ran the very variant, `emulated` where it ran the same file on another
    engine (numerics real, placement not), else how far the file was proven without running it."""
    ran_as: VariantName | None = None
    verdict: Literal["pass", "weak", "fail"] | None = None
    n_samples: Annotated[int, Field(ge=0, le=2**53 - 1)] = 0
    agreement: Share | None = None
    worst_sqnr_db: float | None = None
    metric_reference: float | None = None
    metric_measured: float | None = None
    reason: Reason | None = None
    """Why it was not run, or why the verdict is weak or fail."""


class CoverageSummary(Record):
    """Coverage in numbers; operator by operator it stands in the file with role `coverage`."""

    source: CoverageSource
    source_version: str = Field(max_length=128)
    accelerator_n: OperatorCount
    cpu_n: OperatorCount
    unsupported_n: OperatorCount
    first_blocking: str | None = Field(default=None, max_length=1024)
    """The first operator that does not run on the accelerator, with its reason."""


class Material(Record):
    """One input of a build, by name and content."""

    name: str = Field(max_length=64)
    digest: Digest


class Provenance(Record):
    """Who made an artifact from what, in the terms of SLSA provenance v1."""

    build_type: Literal["edgefleet/build/v1"] = "edgefleet/build/v1"
    materials: tuple[Material, ...] = Field(max_length=16)
    """SLSA's resolvedDependencies: source, samples, calibration."""
    license: str | None = Field(default=None, max_length=128)
    """The model's licence as its manifest states it: an SPDX expression; None where it does not."""


class ArtifactDocument(Record):
    """The content of `artifact.json`: identity, files, I/O contract, and how it was made."""

    format: Literal["edgefleet/artifact/v1"] = "edgefleet/artifact/v1"
    model: Name
    variant: VariantName
    source: Digest
    """Digest of the source model file."""
    samples_level: Literal["real", "random"] = "real"
    """`random` samples prove little: parity over them is `weak`."""
    claim: ClaimedPrecision | None = None
    """What the outputs are held to, where the source itself computes in a coarser precision than the variant's."""
    io: IoContract
    files: tuple[ArtifactFile, ...] = Field(min_length=1, max_length=MAX_ARTIFACT_FILES)
    build_key: Digest
    """Digest of everything that could have changed these bytes."""
    options: dict[str, str | int | float | bool] = {}
    provider_options: TargetOptions = {}
    """Options of the engine's provider; a device checks them again, and its own come before them."""
    toolchain: dict[str, str] = {}
    """Tool → version used to make it."""
    min_runtime: dict[str, str] = {}
    """Runtime → lowest version that runs it rightly."""
    calibration: Digest | None = None
    rewrites: tuple[Annotated[str, Field(max_length=128)], ...] = Field(default=(), max_length=64)
    """Rewrites applied to the source for this variant, in order."""
    host_check: HostCheck | None = None
    coverage: CoverageSummary | None = None
    provenance: Provenance | None = None

    @model_validator(mode="after")
    def _files_are_distinct_and_bounded(self) -> ArtifactDocument:
        names = [file.name for file in self.files]
        if len(set(names)) != len(names):
            msg = "two files of an artifact have one name"
            raise ValueError(msg)
        if sum(file.role is FileRole.MODEL for file in self.files) < 1:
            msg = "an artifact needs a file with role model"
            raise ValueError(msg)
        if self.host_check is not None and self.host_check.verdict == "fail":
            msg = "what failed its check on the builder is no artifact"
            raise ValueError(msg)
        if self.total_bytes > MAX_ARTIFACT_BYTES:
            msg = f"an artifact has at most {MAX_ARTIFACT_BYTES} bytes, got {self.total_bytes}"
            raise ValueError(msg)
        return self

    @property
    def claimed_precision(self) -> str:
        """Return the precision parity holds the outputs to."""
        return self.claim or parse_variant(self.variant).precision

    @property
    def total_bytes(self) -> int:
        """Return the size of all files together, in bytes."""
        return sum(file.size_bytes for file in self.files)

    @property
    def digest(self) -> str:
        """Return the artifact's identity: the digest of its canonical JSON."""
        return digest_bytes(self.canonical_json())

    def file(self, role: FileRole) -> ArtifactFile | None:
        """Return the first file with this role, or None."""
        return next((file for file in self.files if file.role is role), None)
