"""Builds without a fleet: `fleet build` and `fleet export`. The same builder as the controller's, on this machine."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from edgefleet_contract.artifact import ArtifactDocument, FileRole, HostCheck
from edgefleet_contract.base import ByteCount, Digest, Name, Reason, Record, canonical_json
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import Verdict
from edgefleet_contract.manifest import ModelSpec
from edgefleet_contract.tuning import Recipe
from edgefleet_contract.variant import VariantName
from edgefleet_controller.api import FileRef
from edgefleet_controller.blobs import BlobStore, StorageError
from edgefleet_controller.build import Builder, BuildProgress, Built, CheckedModel, NotBuilt
from edgefleet_controller.compile.cache import FolderBuildCache
from edgefleet_controller.compile.protocol import RandomSamplesRequest
from edgefleet_controller.compile.records import Notes
from edgefleet_controller.compile.sources.formats import own_chains
from edgefleet_controller.compile.steps import ChildSteps, StepError
from edgefleet_controller.planner import DEFAULT_CHAINS
from edgefleet_controller.stack.home import FleetHome

DOCUMENT = "artifact.json"
RANDOM_SAMPLES = "drawn at random"
"""What messages call samples nobody gave."""
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")

RowVerdict = Literal["pass", "weak", "unsupported", "failed"]


class BuildRow(Record):
    """What became of one variant."""

    model: Name
    variant: VariantName
    verdict: RowVerdict
    """`weak`: built, and not proven here: on random samples, or nothing on this machine runs it."""
    reason: Reason | None = None
    file: str | None = None
    """The model file, where `--out` was given."""
    bytes: ByteCount | None = None
    """Size of the model file."""
    artifact: Digest | None = None
    parity: HostCheck | None = None
    evidence: str | None = None
    """Evidence level: how far it was proven here."""
    cached: bool = False
    build_s: float | None = None
    notes: Notes = {}
    """What was measured while building, on this machine: `speedup_vs_fp32`."""
    reproduce: str | None = None
    """A folder with the inputs and the exact command of the step that failed."""


class BuildReport(Record):
    """`fleet build -o json` prints this."""

    api: Literal["fleet/v1"] = "fleet/v1"
    exit_code: int
    builds: tuple[BuildRow, ...]


@dataclass(frozen=True)
class Wanted:
    """One model to build, and as what.

    Attributes:
        name: its name.
        spec: what a manifest says, or would say, of it; without samples they are drawn at random.
        files: path as `spec` writes it → where it lies.
        variants: to build; none: what the built-in chains ask for, of a source of this kind.
        random: whether `spec.samples` is to be drawn at random.
    """

    name: str
    spec: ModelSpec
    files: Mapping[str, Path]
    variants: tuple[str, ...]
    random: bool = False


def default_variants() -> tuple[str, ...]:
    """Return every variant a built-in chain asks for: what an apply to all kinds of devices would build."""
    return tuple(dict.fromkeys(variant for chain in DEFAULT_CHAINS.values() for variant in chain))


def _variants(checked: CheckedModel) -> tuple[str, ...]:
    own = own_chains(checked.model)
    return default_variants() if own is None else tuple(dict.fromkeys(each for chain in own.values() for each in chain))


def model_name(path: Path) -> str:
    """Return a model's name made of a file's: `EfficientNet_Lite0.onnx` → `efficientnet-lite0`."""
    return _NOT_IN_NAMES.sub("-", path.stem.lower()).strip("-")[:63].strip("-") or "model"


_NAME_A_FOLDER = "name an artifact's folder, as fleet build --out writes it"
SCRIPT = "run.py"
"""What `fleet export` adds to an artifact's folder."""


class Workbench:
    """Builds models on this machine, below a home.

    Args:
        home: where blobs, scratch space and remembered builds lie; made when needed.
        workers: builds at once.
    """

    def __init__(self, home: FleetHome, workers: int = 2) -> None:
        self._home = home
        self._workers = workers
        self._steps = ChildSteps()
        self._blobs = BlobStore(home.blobs)
        self._builder = Builder(self._blobs, FolderBuildCache(home.controller / "builds"), home.work, self._steps)

    def build(self, wanted: Sequence[Wanted], on_progress: BuildProgress, out: Path | None) -> BuildReport:
        """Build everything, and write each artifact below `out` where that is given.

        Raises:
            UserInputError: a source or its samples cannot be used; nothing was built.
            StorageError: blobs cannot be written.
        """
        self._home.create().require_free()
        models = [(each, self._checked(each)) for each in wanted]
        items = [(checked, variant) for each, checked in models for variant in each.variants or _variants(checked)]
        outcomes = self._builder.build_all(items, on_progress, self._workers)
        rows = tuple(self._row(*item, outcome, out) for item, outcome in zip(items, outcomes, strict=True))
        any_good = any(row.verdict in {"pass", "weak"} for row in rows)
        return BuildReport(exit_code=0 if any_good else 3, builds=rows)

    def build_recipes(
        self, wanted: Wanted, asked: Sequence[tuple[str, Recipe]], on_progress: BuildProgress, out: Path
    ) -> tuple[BuildRow, ...]:
        """Build one model by several recipes; each artifact is written to a folder of its own below `out`.

        Raises:
            UserInputError: the source or its samples cannot be used; nothing was built.
        """
        self._home.create().require_free()
        checked = self._checked(wanted)
        items = [(checked.model_copy(update={"recipes": {variant: recipe}}), variant) for variant, recipe in asked]
        outcomes = self._builder.build_all(items, on_progress, self._workers)
        return tuple(
            self._row(*item, outcome, out / str(index))
            for index, (item, outcome) in enumerate(zip(items, outcomes, strict=True))
        )

    def operators_of(self, wanted: Wanted) -> frozenset[str]:
        """Return the types of operators in a model. Raises UserInputError as `build` does."""
        return frozenset(self._checked(wanted).model.operators)

    def digest_of(self, path: Path) -> str:
        """Return the content address of a file, which is kept as a blob. Raises UserInputError."""
        return self._blobs.put_file(path)

    def document(self, given: str) -> tuple[ArtifactDocument, Callable[[str], Path]]:
        """Return an artifact and where its files lie, by name: from a folder, or from this home by digest.

        Raises:
            UserInputError: there is no such artifact, or its document is damaged.
        """
        folder = Path(given)
        if folder.is_dir() or folder.name == DOCUMENT:
            folder = folder.parent if folder.name == DOCUMENT else folder
            if not (folder / DOCUMENT).exists():
                raise UserInputError(f"{given[:200]} holds no {DOCUMENT}", next_step=_NAME_A_FOLDER)
            return read_document(folder / DOCUMENT), lambda name: folder / name
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", given):
            msg = f"{given[:200]!r} is neither an artifact's folder nor its digest (sha256: and 64 hexadecimal digits)"
            raise UserInputError(msg, next_step="fleet query builds lists the digests of what was built")
        if not self._blobs.has(given):
            msg = f"{self._home.root} has no artifact {given}"
            raise UserInputError(msg, next_step="fleet query builds lists what was built here")
        document = read_document(self._blobs.path_of(given))
        digests = {file.name: file.digest for file in document.files}
        return document, lambda name: self._blobs.path_of(digests[name])

    def _checked(self, wanted: Wanted) -> CheckedModel:
        files = {path: self._keep(place) for path, place in wanted.files.items()}
        if wanted.random:
            files[wanted.spec.samples.file] = self._random_samples(wanted.files[wanted.spec.source], wanted.spec.source)
        checked = self._builder.check(wanted.name, wanted.spec, files)
        return checked.model_copy(update={"samples_level": "random"}) if wanted.random else checked

    def _keep(self, path: Path) -> FileRef:
        digest = self._blobs.put_file(path)
        return FileRef(digest=digest, size_bytes=self._blobs.size_bytes(digest))

    def _random_samples(self, source: Path, shown_as: str) -> FileRef:
        with TemporaryDirectory(prefix="random-", dir=self._home.work) as folder:
            out = Path(folder, "samples.npz")
            try:
                self._steps.random_samples(RandomSamplesRequest(source=str(source.resolve()), out=str(out)))
            except StepError as error:
                step = error.fault.next_step if error.fault else None
                raise UserInputError(f"{shown_as} {error.message}", next_step=step) from error
            return self._keep(out)

    def _row(self, checked: CheckedModel, variant: str, outcome: Built | NotBuilt, out: Path | None) -> BuildRow:
        if isinstance(outcome, NotBuilt):
            unsupported = outcome.tried.verdict is Verdict.UNSUPPORTED
            return BuildRow(
                model=checked.name,
                variant=variant,
                verdict="unsupported" if unsupported else "failed",
                reason=outcome.tried.reason,
                parity=outcome.host_check,
                evidence=outcome.host_check.level.value if outcome.host_check is not None else None,
                cached=outcome.cached,
                reproduce=outcome.reproduce,
            )
        document, check = outcome.document, outcome.document.host_check
        model = document.file(FileRole.MODEL)
        folder = None if out is None else self.write(document, out / checked.name / variant.replace("/", "-"))
        return BuildRow(
            model=checked.name,
            variant=variant,
            verdict="pass" if check is not None and check.verdict == "pass" else "weak",
            reason=check.reason if check is not None else None,
            file=str(folder / model.name) if folder is not None and model is not None else None,
            bytes=model.size_bytes if model is not None else None,
            artifact=document.digest,
            parity=check,
            evidence=check.level.value if check is not None else None,
            cached=outcome.cached,
            build_s=round(outcome.duration_s, 3),
            notes=outcome.notes,
        )

    def write(self, document: ArtifactDocument, dest: Path) -> Path:
        """Write an artifact as a folder: complete, or not at all. Return the folder. Raises UserInputError."""
        return write_folder(document, lambda name: self._blobs.path_of(_digest(document, name)), dest)


def _digest(document: ArtifactDocument, name: str) -> str:
    return next(file.digest for file in document.files if file.name == name)


def read_document(path: Path) -> ArtifactDocument:
    """Return the artifact document in a file. Raises UserInputError."""
    from pydantic import ValidationError

    from edgefleet_contract.artifact import MAX_DOCUMENT_BYTES

    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise UserInputError(msg, next_step=_NAME_A_FOLDER) from error
    if len(data) > MAX_DOCUMENT_BYTES:
        msg = f"{path}: an artifact's document has at most {MAX_DOCUMENT_BYTES} bytes"
        raise UserInputError(msg)
    try:
        return ArtifactDocument.model_validate_json(data)
    except ValidationError as error:
        msg = f"{path}: not an artifact's document: {error.errors(include_url=False)[0]['msg']}"
        raise UserInputError(msg) from error


def write_folder(document: ArtifactDocument, place: Callable[[str], Path], dest: Path) -> Path:
    """Copy an artifact's files and document into a folder, written beside and renamed.

    Args:
        document: the artifact.
        place: file name → where it lies.
        dest: the folder; one of an earlier artifact is replaced.

    Raises:
        UserInputError: the folder cannot be written, or is something else than an artifact's folder.
        StorageError: the disk is full.
    """
    _require_replaceable(dest)
    fresh = not dest.parent.exists()
    partial = dest.with_name(f".{dest.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for file in document.files:
            shutil.copyfile(place(file.name), partial / file.name)
        (partial / DOCUMENT).write_bytes(canonical_json(document.model_dump(mode="json", by_alias=True)))
        shutil.rmtree(dest, ignore_errors=True)
        partial.replace(dest)
    except OSError as error:
        msg = f"cannot write {dest}: {error.strerror or error}"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError(msg, next_step="free space, or name a folder on another disk") from error
        raise UserInputError(msg) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if fresh and not dest.exists():
            with suppress(OSError):  # somebody else's by now, or never made
                dest.parent.rmdir()
    return dest


def _require_replaceable(dest: Path) -> None:
    """Check that a folder holds nothing but an artifact, or nothing. Raises UserInputError.

    What lies beside an artifact is somebody's: it would be lost with the folder.
    """
    wrong = None
    if dest.exists() and not dest.is_dir():
        wrong = "is no folder"
    elif dest.resolve() in (Path.cwd(), *Path.cwd().parents):
        wrong = "is the folder this command runs in"
    elif dest.is_dir() and (names := {path.name for path in dest.iterdir()}):
        if DOCUMENT not in names:
            wrong = "exists and is no artifact's folder"
        elif foreign := sorted(
            names - {DOCUMENT, SCRIPT} - {file.name for file in read_document(dest / DOCUMENT).files}
        ):
            wrong = f"also holds {', '.join(foreign[:3])}, which replacing it would delete"
    if wrong is not None:
        raise UserInputError(f"{dest} {wrong}", next_step="name another folder")
