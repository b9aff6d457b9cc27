"""Options more than one command has, and the quantities people type."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from edgefleet_contract.errors import UserInputError

T = TypeVar("T")

ManifestArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The manifest.", show_default=False)]
DeviceOption = Annotated[str | None, typer.Option("--device", help="Only this device.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Only this model.")]

PreprocessOption = Annotated[
    str | None,
    typer.Option(
        "--preprocess-from",
        metavar="MANIFEST[:MODEL]",
        help="Prepare samples, feed state back as this model of a manifest. MODEL may be left out when there is one.",
    ),
]


def duration_s(text: str, option: str) -> float:
    """Return a duration such as `10m` in seconds. Raises UserInputError naming the option."""
    from edgefleet_contract.units import parse_duration_s

    return parsed(text, option, parse_duration_s)


def parsed(text: str, option: str, parse: Callable[[str], T]) -> T:
    """Return a quantity with its unit, as `parse` reads it. Raises UserInputError naming the option."""
    try:
        return parse(text)
    except ValueError as error:
        msg = f"{option} {text[:64]!r}: {error}"
        raise UserInputError(msg) from error


def existing_file(path: Path, what: str) -> str:
    """Return an existing, readable file as an absolute path. Raises UserInputError naming the argument."""
    from edgefleet_controller.resolve import MAX_SOURCE_BYTES, near_file

    if not path.is_file():
        near = None if path.exists() else near_file(path.resolve())
        kind = "not a file" if path.exists() else "no such file"
        hint = f"; did you mean {str(path.with_name(near))!r}?" if near else ""
        raise UserInputError(f"{what}: {kind}: {path}{hint}", next_step=None if near else "name a file that exists")
    if not os.access(path, os.R_OK):
        raise UserInputError(f"{what}: cannot be read: {path}", next_step="check its permissions")
    if (size_bytes := path.stat().st_size) > MAX_SOURCE_BYTES:
        raise UserInputError(f"{what}: {path} has {size_bytes} bytes; allowed: {MAX_SOURCE_BYTES}")
    return str(path.resolve())


def feeding_of(given: str | None) -> dict[str, object]:
    """Return the preprocessing, state and constants a manifest declares for a model; empty when none was asked for."""
    if given is None:
        return {}
    from edgefleet_controller.load import load_manifest

    file, name = split_model(given)
    models = load_manifest(Path(file)).manifest.models
    if name is None and len(models) > 1:
        msg = f"--preprocess-from {given}: the manifest has {len(models)} models: {', '.join(models)}"
        raise UserInputError(msg, next_step=f"name one: --preprocess-from {given}:{next(iter(models))}")
    name = name or next(iter(models))
    if name not in models:
        raise UserInputError(f"--preprocess-from {given}: no model {name!r}; there are: {', '.join(models)}")
    declared = models[name].preprocess
    if isinstance(declared, str):
        raise UserInputError(f"--preprocess-from {given}: {declared!r} is a function, which is not supported yet")
    return {"preprocess": declared, "state": models[name].state, "constants": models[name].constants}


def split_model(text: str) -> tuple[str, str | None]:
    """Take `MANIFEST[:MODEL]` apart; a colon in the file's own name is kept when such a file exists."""
    if Path(text).is_file() or ":" not in text:
        return text, None
    file, _, name = text.rpartition(":")
    return file, name
