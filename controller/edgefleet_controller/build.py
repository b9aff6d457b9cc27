"""Builds: from checked models to artifacts, each made once.

Importing this module is cheap: numpy, onnx and onnxruntime live in child processes only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from edgefleet_contract.artifact import ArtifactDocument, ArtifactFile, FileRole, HostCheck
from edgefleet_contract.base import MAX_REASON_CHARS, clip_reason, hex_of
from edgefleet_contract.desired import Candidate
from edgefleet_contract.evidence import ParityVerdict, Verdict
from edgefleet_contract.job import STEPS_WORDS, CompareAnswer, CompareJob, OutputsJob
from edgefleet_contract.manifest import ModelSpec
from edgefleet_contract.report import Tried
from edgefleet_contract.tuning import Recipe
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.api import FileRef
from edgefleet_controller.blobs import BlobStore
from edgefleet_controller.compile import archive
from edgefleet_controller.compile.check import Checker
from edgefleet_controller.compile.document import COVERAGE_FILE, claim_beyond, make_document, not_run, ran, self_check
from edgefleet_controller.compile.key import build_key, check_key, tool_versions
from edgefleet_controller.compile.locks import locked
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest
from edgefleet_controller.compile.records import (
    BuildCache,
    BuildRecord,
    Built,
    CheckedModel,
    MemoryBuildCache,
    NotBuilt,
    Notes,
)
from edgefleet_controller.compile.registry import buildable, host_variant, target_of
from edgefleet_controller.compile.sources import FILE_NAMES, other_kernels, refusal
from edgefleet_controller.compile.steps import (
    REPRODUCE_COMMAND,
    WORKER_ARGV,
    ChildSteps,
    Command,
    StepError,
    StepLimits,
    Steps,
    keep_for_reproduction,
)

__all__ = [
    "BuildCache",
    "BuildProgress",
    "BuildRecord",
    "Builder",
    "Built",
    "CheckedModel",
    "ChildSteps",
    "MemoryBuildCache",
    "NotBuilt",
    "StepLimits",
]

BuildProgress = Callable[[str, str, str, float, float], None]
"""Called with stage (`build`), key (`digits ort/cpu/int8`), text, steps done and steps in all; from several threads."""

_STEPS_N = 4.0
_ABOUT: Mapping[str, str] = {"calibration": "the calibration samples ", "samples": "the samples "}
"""What a reason speaks of, where that is not the variant itself."""
_SAMPLES, _CALIBRATION = "samples.npz", "calibration.npz"
_SOURCE_OUTPUTS, _ARTIFACT_OUTPUTS, _OTHER_OUTPUTS = "source_outputs.npz", "artifact_outputs.npz", "other_outputs.npz"
_STEPS_OUTPUTS = "steps_outputs.npz"
_HOST_CHECK = "host_check.json"


class Builder:
    """Checks models and builds their variants.

    Safe for threads, and for several processes on one folder: a key is built once at a time.

    Args:
        blobs: where the user's files are and artifacts go.
        cache: where builds are remembered.
        work_dir: for scratch folders, locks and reproduce folders; on the file system of the blobs for hard links.
        steps: runs each step; default: in child processes with the default limits.
        now_ns: Unix time, in nanoseconds.
        monotonic_s: a clock for durations, in seconds.
    """

    def __init__(
        self,
        blobs: BlobStore,
        cache: BuildCache,
        work_dir: Path,
        steps: Steps | None = None,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blobs = blobs
        self._cache = cache
        self._work_dir = work_dir
        self._steps = steps or ChildSteps()
        self._now_ns = now_ns
        self._monotonic_s = monotonic_s
        self._checker = Checker(blobs, work_dir, self._steps)

    def check(self, name: str, spec: ModelSpec, files: Mapping[str, FileRef]) -> CheckedModel:
        """Check a model with its samples; see `Checker.check`. Raises UserInputError."""
        return self._checker.check(name, spec, files).model_copy(update={"options": spec.options})

    def key(self, checked: CheckedModel, variant: str) -> str:
        """Return the build key of a variant: a plan asks the cache with it whether there is something to build."""
        return build_key(
            model=checked.name,
            source=checked.source,
            samples=checked.samples,
            calibration=checked.calibration,
            preprocess=checked.preprocess,
            dynamic=checked.dynamic,
            state=checked.state,
            constants=checked.constants,
            task=checked.task.value if checked.task else None,
            license=checked.license,
            samples_level=checked.samples_level,
            recipe=recipe_of(checked, variant),
            options=options_of(checked, variant),
            variant=variant,
            tools=tool_versions(),
            reference=checked.reference,
        )

    def cached(self, checked: CheckedModel, variant: str) -> Built | NotBuilt | None:
        """Return what a build of this variant came to before, or None where it must be run."""
        if (refused := _refused(checked, variant)) is not None:
            return refused
        key = self.key(checked, variant)
        record = self._cache.find_build(key)
        if record is None:
            return None
        if record.artifact is None:
            tried = Tried(variant=variant, verdict=record.verdict, reason=record.reason or "it failed before")
            return self._not_built(checked, key, tried, self._reproduce_folder(key), cached=True)
        if not self._blobs.has(record.artifact):
            return None
        document = ArtifactDocument.model_validate_json(self._blobs.read(record.artifact))
        if not all(self._blobs.has(file.digest) for file in document.files):
            return None
        return _built(key, document, duration_s=record.duration_s, cached=True, notes=record.notes)

    def build(self, checked: CheckedModel, variant: str, on_progress: BuildProgress | None = None) -> Built | NotBuilt:
        """Build one variant, or return what it came to before.

        A model that cannot be built, and a child that crashes, hangs or runs out of memory, is a `NotBuilt`. Only
        failures that the inputs decide are remembered; one whose reproduce folder is gone is run again to restore it.

        Raises:
            StorageError: blobs cannot be written.
        """
        reason = buildable(parse_variant(variant))
        if reason is not None:
            tried = Tried(variant=variant, verdict=Verdict.UNSUPPORTED, reason=reason)
            return NotBuilt(key=None, model=checked.name, tried=tried)
        known = self.cached(checked, variant)
        if known is not None and not _lacks_folder(known):
            return known
        key = self.key(checked, variant)
        with locked(self._work_dir / "locks" / hex_of(key)):
            known = self.cached(checked, variant)  # another may have built it while this one waited
            if known is not None and not _lacks_folder(known):
                return known
            return self._build(checked, variant, key, on_progress or _silent)

    def build_all(
        self, items: Sequence[tuple[CheckedModel, str]], on_progress: BuildProgress, workers: int = 2
    ) -> list[Built | NotBuilt]:
        """Build several variants at once; the answers are in the order of `items`. Raises as `build`."""
        with ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="build") as pool:
            return list(pool.map(lambda item: self.build(item[0], item[1], on_progress), items))

    def _build(self, checked: CheckedModel, variant: str, key: str, on_progress: BuildProgress) -> Built | NotBuilt:
        started_s = self._monotonic_s()
        shown = f"{checked.name} {variant}"

        def tell(text: str, done_n: int) -> None:
            on_progress("build", shown, text, float(done_n), _STEPS_N)

        with TemporaryDirectory(prefix="build-", dir=self._work_dir) as folder:
            try:
                document, notes = self._make(checked, variant, key, Path(folder), tell)
            except StepError as error:
                tell(f"failed: {_why(error)[:300]}", int(_STEPS_N))
                return self._failed(checked, variant, key, error, Path(folder), self._monotonic_s() - started_s)
        self._blobs.put_bytes(document.canonical_json())
        duration_s = self._monotonic_s() - started_s
        self._cache.put_artifact(document, self._now_ns())
        record = _record(checked, variant, key, Verdict.QUALIFIED, duration_s, document.digest)
        self._cache.record_build(record.model_copy(update={"notes": notes}))
        tell("built", int(_STEPS_N))
        return _built(key, document, duration_s=duration_s, cached=False, notes=notes)

    def _failed(
        self, checked: CheckedModel, variant: str, key: str, error: StepError, work: Path, duration_s: float
    ) -> NotBuilt:
        reason = _why(error)
        folder = self._reproduce_folder(key)
        if error.lasting:
            self._cache.record_build(_record(checked, variant, key, error.verdict, duration_s, reason=reason))
        if error.verdict is not Verdict.UNSUPPORTED:
            keep_for_reproduction(error.command, work, folder)
        tried = Tried(variant=variant, verdict=error.verdict, reason=reason)
        return self._not_built(checked, key, tried, folder, cached=False)

    @staticmethod
    def _not_built(checked: CheckedModel, key: str, tried: Tried, folder: Path, *, cached: bool) -> NotBuilt:
        """Return a failure with its reproduce folder, and the comparison kept there, if there are any."""
        if tried.verdict is Verdict.UNSUPPORTED or not (folder / REPRODUCE_COMMAND).is_file():
            return NotBuilt(key=key, model=checked.name, tried=tried, cached=cached)
        try:
            check = HostCheck.model_validate_json((folder / _HOST_CHECK).read_bytes())
        except (OSError, ValidationError):
            check = None
        return NotBuilt(
            key=key, model=checked.name, tried=tried, cached=cached, reproduce=str(folder), host_check=check
        )

    def _reproduce_folder(self, key: str) -> Path:
        return self._work_dir / "reproduce" / hex_of(key)[:16]

    def _make(
        self, checked: CheckedModel, variant: str, key: str, work: Path, tell: Callable[[str, int], None]
    ) -> tuple[ArtifactDocument, Notes]:
        for digest, name in (
            (checked.source, _source_name(checked)),
            (checked.samples, _SAMPLES),
            (checked.calibration, _CALIBRATION),
        ):
            self._blobs.materialise(digest, work / name)
        tell("making the model file", 0)
        made = self._steps.build(_build_request(checked, variant, work))
        tell("running the source on its samples", 1)
        files = [
            self._keep(_model_path(variant, work), FileRole.MODEL),
            self._file(checked.samples, _SAMPLES, FileRole.SAMPLES),
            self._file(self._source_outputs(checked, work), _SOURCE_OUTPUTS, FileRole.SOURCE_OUTPUTS),
        ]
        host = host_variant(parse_variant(variant))
        if host is None:
            host_check = not_run(variant, made)
        else:
            tell("running the artifact on its samples", 2)
            files.append(self._artifact_outputs(checked, variant, str(host), work, made))
            tell("comparing the two", 3)
            if str(host) == checked.model.reference and checked.model.format == "tflite":
                host_check = self._other_kernels(checked, variant, str(host), work)
            else:
                host_check = ran(
                    checked, variant, str(host), self._host_parity(checked, variant, str(host), work, made)
                )
        if made.coverage is not None:
            (work / COVERAGE_FILE).write_bytes(made.coverage.canonical_json())
            files.append(self._keep(work / COVERAGE_FILE, FileRole.COVERAGE))
        document = make_document(checked, variant, key=key, made=made, files=files, host_check=host_check)
        return document, made.notes

    def _source_outputs(self, checked: CheckedModel, work: Path) -> str:
        """Return the blob of the source's outputs, made once for all variants; it lies in `work` afterwards."""
        path = work / _SOURCE_OUTPUTS
        if checked.reference is not None:
            self._blobs.materialise(checked.reference, path)
            return checked.reference
        transforms = {name: each.model_dump(mode="json") for name, each in checked.preprocess.items()}
        parts = {"what": "source-outputs", "source": checked.source, "samples": checked.samples, "by": transforms}
        parts |= {"state": checked.state} if checked.state else {}
        kept = self._work_dir / "outputs" / hex_of(check_key(parts, tool_versions()))
        with locked(kept.with_suffix(".lock")):
            digest = kept.read_text(encoding="ascii") if kept.exists() else ""
            if not digest or not self._blobs.has(digest):
                self._run(checked, checked.model.reference, work / _source_name(checked), path, None)
                digest = self._blobs.put_file(path)
                kept.write_text(digest, encoding="ascii")
        self._blobs.materialise(digest, path)
        return digest

    def _artifact_outputs(
        self, checked: CheckedModel, variant: str, host: str, work: Path, made: BuildAnswer
    ) -> ArtifactFile:
        self._run(checked, host, _model_path(variant, work), work / _ARTIFACT_OUTPUTS, made)
        return self._keep(work / _ARTIFACT_OUTPUTS, FileRole.ARTIFACT_OUTPUTS)

    def _run(
        self,
        checked: CheckedModel,
        variant: str,
        model: Path,
        out: Path,
        made: BuildAnswer | None,
        *,
        single_steps: bool = False,
    ) -> None:
        job = OutputsJob(
            model=str(model),
            variant=variant,
            samples=str(out.with_name(_SAMPLES)),
            preprocess=checked.preprocess,
            input_map=made.input_map if made is not None else {},
            output_map=made.output_map if made is not None else {},
            state=checked.state,
            single_steps=single_steps,
            bound=made.bound if made is not None else (),
            out=str(out),
        )
        self._steps.outputs(job)
        canonical = archive.repack(out)
        out.unlink()
        out.write_bytes(canonical)

    def _host_parity(
        self, checked: CheckedModel, variant: str, host: str, work: Path, made: BuildAnswer
    ) -> CompareAnswer:
        """Return the comparison; a failing one is a `StepError`, so the artifact goes nowhere."""
        job = self._comparison(checked, variant, work, _ARTIFACT_OUTPUTS)
        answer = self._steps.compare(job)
        if answer.verdict is ParityVerdict.FAIL:
            check = f" ({answer.failed_check.value})" if answer.failed_check else ""
            message = f"parity with the source failed on the builder{check}: {answer.reason or 'no reason given'}"
            message += self._of_steps(checked, variant, host, work, made) if checked.state else ""
            (work / _HOST_CHECK).write_bytes(ran(checked, variant, host, answer).canonical_json())
            command = Command(WORKER_ARGV, job.model_dump_json().encode())
            raise StepError(Verdict.BUILD_FAILED, clip_reason(message), command, lasting=True)
        return answer

    def _of_steps(self, checked: CheckedModel, variant: str, host: str, work: Path, made: BuildAnswer) -> str:
        """Return in words whether what fails with states fed back also fails step by step; empty: it does not run."""
        try:
            self._run(checked, host, _model_path(variant, work), work / _STEPS_OUTPUTS, made, single_steps=True)
            answer = self._steps.compare(self._comparison(checked, variant, work, _STEPS_OUTPUTS))
        except StepError:
            return ""
        return f"; {STEPS_WORDS[answer.verdict is ParityVerdict.FAIL]}"

    def _comparison(self, checked: CheckedModel, variant: str, work: Path, candidate: str) -> CompareJob:
        return CompareJob.model_validate(
            {
                "reference": str(work / _SOURCE_OUTPUTS),
                "candidate": str(work / candidate),
                "samples": str(work / _SAMPLES),
                "precision": claim_beyond(checked, variant) or parse_variant(variant).precision,
                "task": checked.task,
                "preprocess": checked.preprocess,
            }
        )

    def _other_kernels(self, checked: CheckedModel, variant: str, host: str, work: Path) -> HostCheck:
        """Check a file that is its own source, where comparing it with itself would say nothing.

        Its outputs by LiteRT's other kernels are compared; where those differ, nothing tells which are right, so the
        file is sent and the check is weak.
        """
        other = other_kernels(host)
        if other is None:
            return self_check(checked, variant, host, None, None)
        try:
            self._run(checked, other, work / _source_name(checked), work / _OTHER_OUTPUTS, None)
            answer = self._steps.compare(self._comparison(checked, variant, work, _OTHER_OUTPUTS))
        except StepError as error:
            return self_check(checked, variant, host, None, f"{other} did not run it: {error.message}")
        return self_check(checked, variant, other, answer, None)

    def _keep(self, path: Path, role: FileRole) -> ArtifactFile:
        return self._file(self._blobs.put_file(path), path.name, role)

    def _file(self, digest: str, name: str, role: FileRole) -> ArtifactFile:
        return ArtifactFile(name=name, role=role, size_bytes=self._blobs.size_bytes(digest), digest=digest)


def _lacks_folder(known: Built | NotBuilt) -> bool:
    """Tell whether a remembered failure cannot be repeated by hand; what is unsupported needs no repeating."""
    if isinstance(known, Built) or known.key is None:
        return False
    return known.tried.verdict is not Verdict.UNSUPPORTED and known.reproduce is None


def _silent(stage: str, key: str, text: str, done: float, total: float) -> None:
    """Tell nobody."""


def _build_request(checked: CheckedModel, variant: str, work: Path) -> BuildRequest:
    scratch = work / "scratch"
    scratch.mkdir()
    return BuildRequest(
        model=checked.name,
        variant=variant,
        source=str(work / _source_name(checked)),
        samples=str(work / _SAMPLES),
        calibration=str(work / _CALIBRATION),
        preprocess=checked.preprocess,
        dynamic=checked.dynamic,
        constants=checked.constants,
        out=str(_model_path(variant, work)),
        work_dir=str(scratch),
        task=checked.task,
        recipe=recipe_of(checked, variant),
        options=dict(options_of(checked, variant)),
    )


def recipe_of(checked: CheckedModel, variant: str) -> Recipe:
    """Return how a variant of a model is to be made."""
    return checked.recipes.get(variant, Recipe())


def options_of(checked: CheckedModel, variant: str) -> Mapping[str, str]:
    """Return what the manifest sets for a variant's target."""
    return checked.options.get(parse_variant(variant).target, {})


def _source_name(checked: CheckedModel) -> str:
    return FILE_NAMES[checked.model.format]


def _refused(checked: CheckedModel, variant: str) -> NotBuilt | None:
    """Return that a source cannot become a variant, however it would be built; None where it can."""
    reason = refusal(checked.model, parse_variant(variant))
    if reason is None:
        return None
    tried = Tried(variant=variant, verdict=Verdict.UNSUPPORTED, reason=clip_reason(reason))
    return NotBuilt(key=None, model=checked.name, tried=tried)


def _why(error: StepError) -> str:
    """Return why a step failed and, where the compiler knows it, what to do; the advice survives a cut."""
    step = error.fault.next_step if error.fault is not None else None
    advice = f"; next: {step}" if step else ""
    about = _ABOUT.get(error.fault.what, "") if error.fault is not None else ""
    message = about + error.message
    return message[: MAX_REASON_CHARS - len(advice)] + advice if advice else clip_reason(message)


def _model_path(variant: str, work: Path) -> Path:
    return work / f"model{target_of(parse_variant(variant)).suffix}"


def _record(
    checked: CheckedModel,
    variant: str,
    key: str,
    verdict: Verdict,
    duration_s: float,
    artifact: str | None = None,
    reason: str | None = None,
) -> BuildRecord:
    return BuildRecord(
        key=key,
        model=checked.name,
        variant=variant,
        artifact=artifact,
        verdict=verdict,
        reason=reason,
        duration_s=max(0.0, duration_s),
    )


def _built(key: str, document: ArtifactDocument, *, duration_s: float, cached: bool, notes: Notes) -> Built:
    candidate = Candidate(
        variant=document.variant,
        artifact=document.digest,
        document_bytes=len(document.canonical_json()),
        total_bytes=document.total_bytes,
    )
    return Built(
        key=key, document=document, candidate=candidate, cached=cached, duration_s=max(0.0, duration_s), notes=notes
    )
