"""What checks and builds come to, and where builds are remembered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Protocol

from pydantic import Field

from edgefleet_contract.artifact import ArtifactDocument, Constants, HostCheck, InputTransform, StateMap
from edgefleet_contract.base import Digest, Name, Reason, Record, TensorName
from edgefleet_contract.desired import Candidate
from edgefleet_contract.evidence import Task, Verdict
from edgefleet_contract.options import TargetName, TargetOptions
from edgefleet_contract.report import Tried
from edgefleet_contract.tuning import Recipe
from edgefleet_contract.variant import VariantName, parse_variant
from edgefleet_controller.compile.protocol import DynamicAxes, ModelRecord, OptionValue, Origin, SamplesRecord

Notes = dict[str, OptionValue]
"""What was measured while something was built and is no part of it: it differs from run to run."""

DurationS = Annotated[float, Field(ge=0)]


class CheckedModel(Record):
    """A model whose source and samples are sound; its canonical samples are blobs."""

    name: Name
    model: ModelRecord
    origin: Origin | None = None
    reference: Digest | None = None
    """The source's outputs on the samples, where only the check could run it."""
    samples: Digest
    calibration: Digest
    samples_record: SamplesRecord
    preprocess: dict[TensorName, InputTransform] = {}
    dynamic: DynamicAxes = {}
    state: StateMap = {}
    constants: Constants = {}
    task: Task | None = None
    license: str | None = None
    recipes: dict[VariantName, Recipe] = {}
    """Variant → how it is to be made, where a search has found that out."""
    options: dict[TargetName, TargetOptions] = {}
    """`runtime/engine` → what the manifest sets for it."""
    samples_level: Literal["real", "random"] = "real"

    @property
    def source(self) -> str:
        """Return the digest of the source file."""
        return self.model.source

    def recipe_of(self, variant: str) -> Recipe:
        """Return how a variant is to be made."""
        return self.recipes.get(variant, Recipe())

    def options_of(self, variant: str) -> Mapping[str, str]:
        """Return what the manifest sets for a variant's target."""
        return self.options.get(parse_variant(variant).target, {})


class BuildRecord(Record):
    """A build that has ended in a way that its inputs decide: an artifact, or a failure that would come again."""

    key: Digest
    model: Name
    variant: VariantName
    artifact: Digest | None
    verdict: Verdict
    reason: Reason | None = None
    duration_s: DurationS
    notes: Notes = {}


class Built(Record):
    """An artifact is there."""

    key: Digest
    document: ArtifactDocument
    candidate: Candidate
    cached: bool
    duration_s: DurationS
    """What making it took, when it was made."""
    notes: Notes = {}


class NotBuilt(Record):
    """There is no artifact, and why."""

    key: Digest | None
    model: Name
    tried: Tried
    cached: bool = False
    reproduce: str | None = None
    """A folder with the inputs and the exact command of the step that failed."""
    host_check: HostCheck | None = None
    """The comparison, where it was made and failed."""


class BuildCache(Protocol):
    """Where builds and artifacts are remembered. Called from several threads."""

    def find_build(self, key: str) -> BuildRecord | None:
        """Return what a build with this key came to, or None."""

    def record_build(self, record: BuildRecord) -> None:
        """Remember a build; the newest of a key counts."""

    def put_artifact(self, document: ArtifactDocument, at_ns: int) -> None:
        """Remember an artifact, made at `at_ns` (Unix time, ns). Its document is a blob."""


class MemoryBuildCache:
    """A cache that forgets with its process: for `fleet build` without a fleet, and for tests."""

    def __init__(self) -> None:
        self._builds: dict[str, BuildRecord] = {}
        self._artifacts: dict[str, ArtifactDocument] = {}

    def find_build(self, key: str) -> BuildRecord | None:
        """Return what a build with this key came to, or None."""
        return self._builds.get(key)

    def record_build(self, record: BuildRecord) -> None:
        """Remember a build."""
        self._builds[record.key] = record

    def put_artifact(self, document: ArtifactDocument, at_ns: int) -> None:  # noqa: ARG002 - memory keeps no times
        """Remember an artifact."""
        self._artifacts[document.digest] = document
