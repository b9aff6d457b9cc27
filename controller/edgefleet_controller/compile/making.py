"""One artifact in the making: its model file, the outputs of source and artifact, and how the two compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgefleet_contract.artifact import ArtifactDocument, ArtifactFile, FileRole, HostCheck
from edgefleet_contract.base import clip_reason, hex_of
from edgefleet_contract.evidence import ParityVerdict, Verdict
from edgefleet_contract.job import STEPS_WORDS, CompareAnswer, CompareJob, OutputsJob
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.blobs import BlobStore
from edgefleet_controller.compile import archive
from edgefleet_controller.compile.document import COVERAGE_FILE, claim_beyond, make_document, not_run, ran, self_check
from edgefleet_controller.compile.key import check_key, tool_versions
from edgefleet_controller.compile.locks import locked
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest
from edgefleet_controller.compile.records import CheckedModel, Notes
from edgefleet_controller.compile.registry import host_variant, target_of
from edgefleet_controller.compile.sources.formats import FILE_NAMES, other_kernels
from edgefleet_controller.compile.steps import WORKER_ARGV, Command, StepError, Steps

STEPS_N = 4
"""Steps that `Making.tell` counts."""
HOST_CHECK_FILE = "host_check.json"
"""Where a comparison that failed lies in the scratch folder, for whoever repeats it."""
_SAMPLES, _CALIBRATION = "samples.npz", "calibration.npz"
_SOURCE_OUTPUTS, _ARTIFACT_OUTPUTS, _OTHER_OUTPUTS = "source_outputs.npz", "artifact_outputs.npz", "other_outputs.npz"
_STEPS_OUTPUTS = "steps_outputs.npz"


@dataclass(frozen=True)
class Making:
    """What one build works with.

    Attributes:
        checked: the model and its samples.
        variant: what is made of it.
        key: the build key.
        blobs: where its files come from, and those of the artifact go.
        steps: runs each step in a child process.
        work: a scratch folder of its own; what repeats a failure lies there.
        outputs_dir: remembers the outputs of sources, which all variants share.
        tell: called with what is being done and how many of `STEPS_N` are done.
    """

    checked: CheckedModel
    variant: str
    key: str
    blobs: BlobStore
    steps: Steps
    work: Path
    outputs_dir: Path
    tell: Callable[[str, int], None]

    def run(self) -> tuple[ArtifactDocument, Notes]:
        """Make the artifact; return its document, whose files are blobs by then.

        Raises:
            StepError: a step failed, or the artifact is not faithful to its source.
            StorageError: blobs cannot be written.
        """
        checked = self.checked
        for digest, path in (
            (checked.source, self._source),
            (checked.samples, self.work / _SAMPLES),
            (checked.calibration, self.work / _CALIBRATION),
        ):
            self.blobs.materialise(digest, path)
        self.tell("making the model file", 0)
        made = self.steps.build(self._request())
        self.tell("running the source on its samples", 1)
        files = [
            self._keep(self._model, FileRole.MODEL),
            self._file(checked.samples, _SAMPLES, FileRole.SAMPLES),
            self._file(self._source_outputs(), _SOURCE_OUTPUTS, FileRole.SOURCE_OUTPUTS),
        ]
        host = host_variant(parse_variant(self.variant))
        if host is None:
            host_check = not_run(self.variant, made)
        else:
            self.tell("running the artifact on its samples", 2)
            self._run(str(host), self._model, self.work / _ARTIFACT_OUTPUTS, made)
            files.append(self._keep(self.work / _ARTIFACT_OUTPUTS, FileRole.ARTIFACT_OUTPUTS))
            self.tell("comparing the two", 3)
            host_check = self._host_check(str(host), made)
        if made.coverage is not None:
            (self.work / COVERAGE_FILE).write_bytes(made.coverage.canonical_json())
            files.append(self._keep(self.work / COVERAGE_FILE, FileRole.COVERAGE))
        document = make_document(checked, self.variant, key=self.key, made=made, files=files, host_check=host_check)
        return document, made.notes

    @property
    def _source(self) -> Path:
        return self.work / FILE_NAMES[self.checked.model.format]

    @property
    def _model(self) -> Path:
        return self.work / f"model{target_of(parse_variant(self.variant)).suffix}"

    def _request(self) -> BuildRequest:
        scratch = self.work / "scratch"
        scratch.mkdir()
        checked = self.checked
        return BuildRequest(
            model=checked.name,
            variant=self.variant,
            source=str(self._source),
            samples=str(self.work / _SAMPLES),
            calibration=str(self.work / _CALIBRATION),
            preprocess=checked.preprocess,
            dynamic=checked.dynamic,
            constants=checked.constants,
            out=str(self._model),
            work_dir=str(scratch),
            task=checked.task,
            recipe=checked.recipe_of(self.variant),
            options=dict(checked.options_of(self.variant)),
        )

    def _source_outputs(self) -> str:
        """Return the blob of the source's outputs, made once for all variants; it lies in `work` afterwards."""
        checked, path = self.checked, self.work / _SOURCE_OUTPUTS
        if checked.reference is not None:
            self.blobs.materialise(checked.reference, path)
            return checked.reference
        transforms = {name: each.model_dump(mode="json") for name, each in checked.preprocess.items()}
        parts = {"what": "source-outputs", "source": checked.source, "samples": checked.samples, "by": transforms}
        parts |= {"state": checked.state} if checked.state else {}
        kept = self.outputs_dir / hex_of(check_key(parts, tool_versions()))
        with locked(kept.with_suffix(".lock")):
            digest = kept.read_text(encoding="ascii") if kept.exists() else ""
            if not digest or not self.blobs.has(digest):
                self._run(checked.model.reference, self._source, path, None)
                digest = self.blobs.put_file(path)
                kept.write_text(digest, encoding="ascii")
        self.blobs.materialise(digest, path)
        return digest

    def _run(
        self, variant: str, model: Path, out: Path, made: BuildAnswer | None, *, single_steps: bool = False
    ) -> None:
        """Write the outputs of a model file on the samples, as `variant`; `made` where it is the artifact's."""
        job = OutputsJob(
            model=str(model),
            variant=variant,
            samples=str(self.work / _SAMPLES),
            preprocess=self.checked.preprocess,
            input_map=made.input_map if made is not None else {},
            output_map=made.output_map if made is not None else {},
            state=self.checked.state,
            single_steps=single_steps,
            bound=made.bound if made is not None else (),
            out=str(out),
        )
        self.steps.outputs(job)
        canonical = archive.repack(out)
        out.unlink()
        out.write_bytes(canonical)

    def _host_check(self, host: str, made: BuildAnswer) -> HostCheck:
        if host == self.checked.model.reference and self.checked.model.format == "tflite":
            return self._other_kernels(host)
        return ran(self.checked, self.variant, host, self._host_parity(host, made))

    def _host_parity(self, host: str, made: BuildAnswer) -> CompareAnswer:
        """Return the comparison; a failing one is a `StepError`, so the artifact goes nowhere."""
        job = self._comparison(_ARTIFACT_OUTPUTS)
        answer = self.steps.compare(job)
        if answer.verdict is ParityVerdict.FAIL:
            check = f" ({answer.failed_check.value})" if answer.failed_check else ""
            message = f"parity with the source failed on the builder{check}: {answer.reason or 'no reason given'}"
            message += self._of_steps(host, made) if self.checked.state else ""
            (self.work / HOST_CHECK_FILE).write_bytes(ran(self.checked, self.variant, host, answer).canonical_json())
            command = Command(WORKER_ARGV, job.model_dump_json().encode())
            raise StepError(Verdict.BUILD_FAILED, clip_reason(message), command, lasting=True)
        return answer

    def _of_steps(self, host: str, made: BuildAnswer) -> str:
        """Return in words whether what fails with states fed back also fails step by step; empty: it does not run."""
        try:
            self._run(host, self._model, self.work / _STEPS_OUTPUTS, made, single_steps=True)
            answer = self.steps.compare(self._comparison(_STEPS_OUTPUTS))
        except StepError:
            return ""
        return f"; {STEPS_WORDS[answer.verdict is ParityVerdict.FAIL]}"

    def _comparison(self, candidate: str) -> CompareJob:
        return CompareJob.model_validate(
            {
                "reference": str(self.work / _SOURCE_OUTPUTS),
                "candidate": str(self.work / candidate),
                "samples": str(self.work / _SAMPLES),
                "precision": claim_beyond(self.checked, self.variant) or parse_variant(self.variant).precision,
                "task": self.checked.task,
                "preprocess": self.checked.preprocess,
            }
        )

    def _other_kernels(self, host: str) -> HostCheck:
        """Check a file that is its own source, where comparing it with itself would say nothing.

        Its outputs by LiteRT's other kernels are compared; where those differ, nothing tells which are right, so the
        file is sent and the check is weak.
        """
        other = other_kernels(host)
        if other is None:
            return self_check(self.checked, self.variant, host, None, None)
        try:
            self._run(other, self._source, self.work / _OTHER_OUTPUTS, None)
            answer = self.steps.compare(self._comparison(_OTHER_OUTPUTS))
        except StepError as error:
            return self_check(self.checked, self.variant, host, None, f"{other} did not run it: {error.message}")
        return self_check(self.checked, self.variant, other, answer, None)

    def _keep(self, path: Path, role: FileRole) -> ArtifactFile:
        return self._file(self.blobs.put_file(path), path.name, role)

    def _file(self, digest: str, name: str, role: FileRole) -> ArtifactFile:
        return ArtifactFile(name=name, role=role, size_bytes=self.blobs.size_bytes(digest), digest=digest)
