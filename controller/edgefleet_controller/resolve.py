"""The files a manifest names: found inside its folder, checked for the commonest mistakes, and hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgefleet_contract.base import ByteCount, Digest
from edgefleet_contract.errors import DeviceError, Location, ManifestError, UserInputError
from edgefleet_contract.units import format_bytes
from edgefleet_controller.compile.sources import one_file
from edgefleet_controller.compile.sources.formats import hook_of, wrong_folder, wrong_source
from edgefleet_controller.load import LoadedManifest, raise_problems
from edgefleet_controller.words import nearest, shorten

MAX_SOURCE_BYTES = 2 * 1024**3
"""Protobuf's own limit on one file, so no ONNX file of one piece is larger."""
MAX_SAMPLES_BYTES = 1024**3
_READ_BYTES = 1024 * 1024
_NEAR_FILES = 1000
"""How many names of a folder are looked at for a suggestion."""

Kind = Literal["source", "samples"]


@dataclass(frozen=True)
class ResolvedFile:
    """A file by place and content; `path` is absolute, with links followed."""

    path: Path
    digest: Digest
    size_bytes: ByteCount


@dataclass(frozen=True)
class _Named:
    text: str
    kind: Kind
    at: Location


def resolve_files(loaded: LoadedManifest) -> dict[str, ResolvedFile]:
    """Return every file the manifest names, by its path as written.

    Raises:
        ManifestError: a file is missing, leaves the manifest's folder, is not regular, is empty, too large or
            unreadable, or plainly is something else than its key says.
    """
    found: dict[str, ResolvedFile] = {}
    problems: list[ManifestError] = []
    for named in _named_files(loaded):
        try:
            path = _place(loaded.root, named)
            _check_header(path, named)
            found[named.text] = found.get(named.text) or _hashed(_in_one_file(path, named, loaded.root), named)
        except ManifestError as problem:
            problems.append(problem)
    raise_problems(problems)
    return found


def _named_files(loaded: LoadedManifest) -> Iterator[_Named]:
    for name, model in loaded.manifest.models.items():
        path = ("models", name)
        yield _Named(model.source, "source", loaded.locate((*path, "source")))
        yield _Named(model.samples.file, "samples", loaded.locate((*path, "samples", "file")))
        if model.calibration is not None:
            yield _Named(model.calibration.file, "samples", loaded.locate((*path, "calibration", "file")))


def _place(root: Path, named: _Named) -> Path:
    """Return the file's real path. Links that stay inside the manifest's folder are followed."""
    if Path(named.text).is_absolute():
        raise _problem(named, "a path must be relative to the manifest's folder", "move the file into it")
    try:
        hook = hook_of(named.text) if named.kind == "source" else None
        real = (root / (hook[0] if hook else named.text)).resolve()
        if not real.is_relative_to(root.resolve()):
            raise _problem(named, f"the path leaves the manifest's folder, to {real}", "move the file into it")
        if not real.exists():
            raise _missing(named, real)
        if real.is_dir() and named.kind == "source" and (wrong := wrong_folder(_names(real))) is not None:
            raise _problem(named, f"{real} {wrong[0]}", wrong[1])
        if not real.is_file():
            raise _problem(named, f"not a regular file: {real}", "name the file itself")
    except (OSError, RuntimeError, ValueError) as error:
        raise _problem(named, f"the path cannot be followed: {error}", "check links and permissions") from error
    return real


def _missing(named: _Named, real: Path) -> ManifestError:
    folder = real.parent
    step = f"look into {folder}" if folder.is_dir() else f"the folder {folder} does not exist either"
    near = near_file(real)
    prefix = named.text[: len(named.text) - len(Path(named.text).name)]
    return ManifestError(
        f"no such file: {real}",
        location=named.at,
        offending=shorten(named.text),
        suggestion=prefix + near if near else None,
        next_step=None if near else step,
    )


def near_file(real: Path) -> str | None:
    """Return the name in a file's folder that was probably meant, where there is one."""
    return nearest(real.name, _names(real.parent)) if real.parent.is_dir() else None


def _names(folder: Path) -> list[str]:
    """Return names of a folder's entries, at most `_NEAR_FILES`."""
    return [entry.name for entry, _ in zip(folder.iterdir(), range(_NEAR_FILES), strict=False)]


def _check_header(path: Path, named: _Named) -> None:
    """Refuse what its first bytes show to be something else; the deep check is the build's."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise _problem(named, f"cannot read {path}: {error.strerror}", "check its permissions") from error
    limit_bytes = MAX_SOURCE_BYTES if named.kind == "source" else MAX_SAMPLES_BYTES
    if size_bytes > limit_bytes:
        size, limit = format_bytes(size_bytes), format_bytes(limit_bytes)
        raise _problem(named, f"{path} has {size}; allowed: {limit}", "make it smaller")
    is_code = named.kind == "source" and hook_of(named.text) is not None and head
    wrong = None if is_code else _wrong_content(path.name, head, named.kind)
    if wrong is not None:
        raise _problem(named, f"{path} {wrong[0]}", wrong[1])


def _wrong_content(name: str, head: bytes, kind: Kind) -> tuple[str, str] | None:
    """Return what a file's first bytes show it to be and what to do about it, or None when nothing speaks against it.

    Magic numbers: Git LFS pointer specification v1; PKZIP APPNOTE 4.3.7; NumPy format `\\x93NUMPY`; those of models
    stand in `compile.sources`.
    """
    if not head:
        return "is empty", "was it copied or downloaded fully?"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself", "run `git lfs pull`"
    if head.lstrip()[:15].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not the file itself", "download the file again, by its raw address"
    return wrong_source(name, head) if kind == "source" else _wrong_samples(head)


def _wrong_samples(head: bytes) -> tuple[str, str] | None:
    if head.startswith(b"PK"):
        return None
    if head.startswith(b"\x93NUMPY"):
        return "is one array (`.npy`); samples are named arrays (`.npz`)", "save it with numpy.savez(file, input=array)"
    return "is not an `.npz` file", "save samples with numpy.savez(file, input=array, labels=labels)"


def _in_one_file(path: Path, named: _Named, root: Path) -> Path:
    """Return a source with its weights in it, wherever they lay before."""
    if named.kind != "source":
        return path
    try:
        return one_file.plain(path, root.resolve(), named.text)
    except (UserInputError, DeviceError) as error:
        raise _problem(named, error.message, error.next_step or "see fleet build") from error


def _hashed(path: Path, named: _Named) -> ResolvedFile:
    digest, size_bytes = hashlib.sha256(), 0
    try:
        with path.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
                size_bytes += len(block)
    except OSError as error:
        raise _problem(named, f"cannot read {path}: {error.strerror}", "check its permissions") from error
    return ResolvedFile(path, f"sha256:{digest.hexdigest()}", size_bytes)


def _problem(named: _Named, message: str, next_step: str) -> ManifestError:
    return ManifestError(message, location=named.at, offending=shorten(named.text), next_step=next_step)
