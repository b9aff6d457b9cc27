"""Builds: from checked models to artifacts, each made once.

Importing this module is cheap: numpy, onnx and onnxruntime live in child processes only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from edgefleet_contract.artifact import ArtifactDocument, HostCheck
from edgefleet_contract.base import MAX_REASON_CHARS, clip_reason, hex_of
from edgefleet_contract.desired import Candidate
from edgefleet_contract.evidence import Verdict
from edgefleet_contract.manifest import ModelSpec
from edgefleet_contract.report import Tried
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.api import FileRef
from edgefleet_controller.blobs import BlobStore
from edgefleet_controller.compile.check import Checker
from edgefleet_controller.compile.key import build_key, tool_versions
from edgefleet_controller.compile.locks import locked
from edgefleet_controller.compile.making import HOST_CHECK_FILE, STEPS_N, Making
from edgefleet_controller.compile.records import (
    BuildCache,
    BuildRecord,
    Built,
    CheckedModel,
    MemoryBuildCache,
    NotBuilt,
    Notes,
)
from edgefleet_controller.compile.registry import buildable
from edgefleet_controller.compile.sources.formats import refusal
from edgefleet_controller.compile.steps import (
    REPRODUCE_COMMAND,
    ChildSteps,
    StepError,
    StepLimits,
    Steps,
    keep_for_reproduction,
    stopped_by,
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

_ABOUT: Mapping[str, str] = {"calibration": "the calibration samples ", "samples": "the samples "}
"""What a reason speaks of, where that is not the variant itself."""


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
            recipe=checked.recipe_of(variant),
            options=checked.options_of(variant),
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
        """Build several variants at once; the answers are in the order of `items`.

        Ctrl-C kills what runs and starts nothing more; of the builds it ended, nothing is kept.

        Raises:
            StorageError: blobs cannot be written.
            KeyboardInterrupt: after Ctrl-C, once nothing runs any more.
        """
        stopping = threading.Event()

        def build(item: tuple[CheckedModel, str]) -> Built | NotBuilt:
            with stopped_by(stopping):
                return self.build(item[0], item[1], on_progress)

        with ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="build") as pool:
            try:
                return list(pool.map(build, items))
            except KeyboardInterrupt:
                stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _build(self, checked: CheckedModel, variant: str, key: str, on_progress: BuildProgress) -> Built | NotBuilt:
        started_s = self._monotonic_s()
        shown = f"{checked.name} {variant}"

        def tell(text: str, done_n: int) -> None:
            on_progress("build", shown, text, float(done_n), float(STEPS_N))

        with TemporaryDirectory(prefix="build-", dir=self._work_dir) as folder:
            outputs_dir = self._work_dir / "outputs"
            making = Making(checked, variant, key, self._blobs, self._steps, Path(folder), outputs_dir, tell)
            try:
                document, notes = making.run()
            except StepError as error:
                tell(f"failed: {_why(error)[:300]}", STEPS_N)
                return self._failed(checked, variant, key, error, Path(folder), self._monotonic_s() - started_s)
        self._blobs.put_bytes(document.canonical_json())
        duration_s = self._monotonic_s() - started_s
        self._cache.put_artifact(document, self._now_ns())
        record = _record(checked, variant, key, Verdict.QUALIFIED, duration_s, document.digest)
        self._cache.record_build(record.model_copy(update={"notes": notes}))
        tell("built", STEPS_N)
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
            check = HostCheck.model_validate_json((folder / HOST_CHECK_FILE).read_bytes())
        except (OSError, ValidationError):
            check = None
        return NotBuilt(
            key=key, model=checked.name, tried=tried, cached=cached, reproduce=str(folder), host_check=check
        )

    def _reproduce_folder(self, key: str) -> Path:
        return self._work_dir / "reproduce" / hex_of(key)[:16]


def _lacks_folder(known: Built | NotBuilt) -> bool:
    """Tell whether a remembered failure cannot be repeated by hand; what is unsupported needs no repeating."""
    if isinstance(known, Built) or known.key is None:
        return False
    return known.tried.verdict is not Verdict.UNSUPPORTED and known.reproduce is None


def _silent(stage: str, key: str, text: str, done: float, total: float) -> None:
    """Tell nobody."""


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
