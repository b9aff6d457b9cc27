"""Check models with their samples, each once: what a check says is kept with what decides it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from edgefleet_contract.artifact import InputTransform
from edgefleet_contract.errors import InternalError, UserInputError
from edgefleet_contract.evidence import Task
from edgefleet_contract.manifest import MetricSpec, ModelSpec, SamplesSpec
from edgefleet_controller.api import FileRef
from edgefleet_controller.blobs import BlobStore
from edgefleet_controller.compile.key import check_key, keras_versions, tool_versions, torch_versions
from edgefleet_controller.compile.locks import locked
from edgefleet_controller.compile.protocol import IngestRequest, SamplesFile
from edgefleet_controller.compile.records import CheckedModel
from edgefleet_controller.compile.sources.formats import FILE_NAMES, format_of, hook_of, is_torch
from edgefleet_controller.compile.steps import StepError, Steps, keep_for_reproduction

SAMPLES_FILE = "samples.npz"
CALIBRATION_FILE = "calibration.npz"
EXPORTED_FILE = "exported.onnx"
REFERENCE_FILE = "reference.npz"


class UnfitModelError(UserInputError):
    """A model or its samples cannot be used.

    Args:
        message: what was got and what is allowed.
        path: where the manifest names what is wrong, as keys.
        next_step: what helps.
    """

    def __init__(self, message: str, *, path: tuple[str, ...], next_step: str) -> None:
        super().__init__(message, next_step=next_step)
        self.path = path


class Checker:
    """Checks models in a child process.

    Args:
        blobs: holds the user's files; canonical samples are put there.
        work_dir: for scratch folders and kept answers.
        steps: runs the check in a child process.
    """

    def __init__(self, blobs: BlobStore, work_dir: Path, steps: Steps) -> None:
        self._blobs = blobs
        self._work_dir = work_dir
        self._steps = steps

    def check(self, name: str, spec: ModelSpec, files: Mapping[str, FileRef]) -> CheckedModel:
        """Check one model of a manifest.

        Args:
            name: the model's name.
            spec: what the manifest says of it.
            files: path as the manifest writes it → content; the content must be a blob already.

        Raises:
            UserInputError: the source, its samples or their description is wrong; nothing was changed.
        """
        preprocess = _declared(name, spec)
        key = self._key(name, spec, preprocess, files)
        kept = self._work_dir / "checks" / f"{key.removeprefix('sha256:')}.json"
        if (known := self._kept(kept)) is not None:
            return known
        with locked(kept.with_suffix(".lock")):
            if (known := self._kept(kept)) is not None:
                return known
            checked = self._ingest(name, spec, preprocess, files)
            partial = kept.with_suffix(".partial")
            partial.write_bytes(checked.canonical_json())
            partial.replace(kept)
        return checked

    def _key(
        self, name: str, spec: ModelSpec, preprocess: Mapping[str, InputTransform], files: Mapping[str, FileRef]
    ) -> str:
        described = spec.model_dump(
            mode="json",
            include={"samples", "calibration", "metric", "task", "license", "dynamic", "state", "constants"},
        )
        contents = {path: _file(name, path, files).digest for path in _paths(spec)}
        transforms = {each: transform.model_dump(mode="json") for each, transform in preprocess.items()}
        parts = {"model": name, "spec": described, "preprocess": transforms, "source": spec.source, "files": contents}
        if is_torch(spec.source):
            parts["torch"] = dict(torch_versions())
        if spec.source.lower().endswith(".keras"):
            parts["keras"] = dict(keras_versions())
        return check_key(parts, tool_versions())

    def _kept(self, path: Path) -> CheckedModel | None:
        try:
            checked = CheckedModel.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        kept = (checked.source, checked.samples, checked.calibration, checked.reference)
        there = all(self._blobs.has(digest) for digest in kept if digest is not None)
        return checked if there else None

    def _ingest(
        self, name: str, spec: ModelSpec, preprocess: dict[str, InputTransform], files: Mapping[str, FileRef]
    ) -> CheckedModel:
        self._work_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="check-", dir=self._work_dir) as folder:
            work = Path(folder)
            source = self._source(spec.source, _file(name, spec.source, files).digest, work)
            hook = hook_of(spec.source)
            request = IngestRequest(
                model=name,
                source=str(source),
                source_shown_as=spec.source,
                function=hook[1] if hook else None,
                samples=self._samples(name, spec.samples, work / "given-samples.npz", files),
                calibration=self._samples(name, spec.calibration, work / "given-calibration.npz", files)
                if spec.calibration
                else None,
                preprocess=preprocess,
                dynamic=spec.dynamic,
                state=spec.state,
                constants=spec.constants,
                top1=_is_top1(spec),
                out_dir=folder,
            )
            try:
                answer = self._steps.ingest(request)
            except StepError as error:
                raise self._refusal(name, spec, error, work) from error
            if answer.origin is not None:
                self._blobs.put_file(work / EXPORTED_FILE)
            return CheckedModel(
                name=name,
                model=answer.model,
                origin=answer.origin,
                reference=self._blobs.put_file(work / REFERENCE_FILE) if answer.origin is not None else None,
                samples=self._blobs.put_file(work / SAMPLES_FILE),
                calibration=self._blobs.put_file(work / CALIBRATION_FILE),
                samples_record=answer.samples,
                preprocess=preprocess,
                dynamic=spec.dynamic,
                state=spec.state,
                constants=spec.constants,
                task=spec.task,
                license=spec.license,
            )

    def _source(self, text: str, digest: str, work: Path) -> Path:
        """Lay the source out under a name that tells its format."""
        given = work / "given-source"
        self._blobs.materialise(digest, given)
        with given.open("rb") as stream:
            return given.rename(work / FILE_NAMES[format_of(text, stream.read(16))])

    def _samples(self, name: str, spec: SamplesSpec, dest: Path, files: Mapping[str, FileRef]) -> SamplesFile:
        self._blobs.materialise(_file(name, spec.file, files).digest, dest)
        return SamplesFile(
            path=str(dest), shown_as=spec.file, inputs=spec.inputs, labels=spec.labels, sequences=spec.sequences
        )

    def _refusal(self, name: str, spec: ModelSpec, error: StepError, work: Path) -> UserInputError:
        if error.fault is not None:
            what = error.fault.what
            key = {"labels": "samples"}.get(what, what)
            return UnfitModelError(
                f"model {name!r}: {_blamed(spec, what)} {error.message}",
                path=("models", name, key, *error.fault.at),
                next_step=error.fault.next_step or f"correct that and try again: {_meant(spec, what)}",
            )
        dest = self._work_dir / "reproduce" / f"check-{name}"
        keep_for_reproduction(error.command, work, dest)
        return UserInputError(
            f"model {name!r}: {spec.source} could not be checked: {error.message}",
            next_step=f"repeat it with `sh {dest}/command.sh`; the model may be damaged or need more memory",
        )


def _declared(name: str, spec: ModelSpec) -> dict[str, InputTransform]:
    if isinstance(spec.preprocess, str):
        raise UserInputError(
            f"model {name!r}: preprocess names code of your own ({spec.preprocess}), which this version does not run",
            next_step="declare `preprocess` with the keys in docs/manifest.md",
        )
    return dict(spec.preprocess)


def _is_top1(spec: ModelSpec) -> bool:
    return isinstance(spec.metric, MetricSpec) or spec.task in {None, Task.CLASSIFICATION}


def _paths(spec: ModelSpec) -> list[str]:
    return [spec.source, spec.samples.file, *([spec.calibration.file] if spec.calibration else [])]


def _file(name: str, path: str, files: Mapping[str, FileRef]) -> FileRef:
    if path not in files:
        raise InternalError(f"model {name!r}: the content of {path!r} was not handed over with the manifest")
    return files[path]


def _meant(spec: ModelSpec, what: str) -> str:
    """Return the file, or the manifest's key, that has to change."""
    calibration = spec.calibration.file if spec.calibration else spec.samples.file
    files = {"source": spec.source, "samples": spec.samples.file, "labels": spec.samples.file}
    return {**files, "calibration": calibration}.get(what, f"`{what}` in the manifest")


def _blamed(spec: ModelSpec, what: str) -> str:
    """Return what a fault is about, with the file it stands in."""
    calibration = spec.calibration.file if spec.calibration else spec.samples.file
    return {
        "source": f"source {spec.source}",
        "samples": f"samples {spec.samples.file}",
        "calibration": f"calibration samples {calibration}",
        "labels": f"labels in {spec.samples.file}",
        "preprocess": "preprocess",
    }.get(what, what)
