"""The file of a search's result: written beside its source, where `fleet apply` finds it."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from edgefleet_contract.base import canonical_json
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.tuning import Recipe, TunedModel

SUFFIX = ".tuned.json"
"""A search's result lies beside its source under this ending."""
MAX_TUNED_BYTES = 1024**2


def write_tuned(tuned: TunedModel, path: Path) -> None:
    """Write a search's result, beside and renamed. Raises UserInputError when the folder cannot be written."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(canonical_json(tuned.model_dump(mode="json")) + b"\n")
        partial.replace(path)
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror or error}"
        raise UserInputError(msg, next_step="name another place: --out FILE") from error


def read_tuned(path: Path) -> TunedModel:
    """Return a search's result from a file. Raises UserInputError when it is none."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_TUNED_BYTES + 1)
        if len(data) > MAX_TUNED_BYTES:
            msg = f"{path}: a search's result has at most {MAX_TUNED_BYTES} bytes"
            raise UserInputError(msg)
        return TunedModel.model_validate_json(data)
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise UserInputError(msg) from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        msg = f"{path}: not the result of a search: {problem}"
        raise UserInputError(msg, next_step="make it anew: fleet tune, or delete it") from error


def recipes_beside(source: Path, digest: str) -> tuple[dict[str, Recipe], str | None]:
    """Return the recipes found for a source, and a remark where a result is there but is not for this content.

    Raises:
        UserInputError: a file of that name is there and is no search's result.
    """
    path = source.with_name(source.name + SUFFIX)
    if not path.is_file():
        return {}, None
    tuned = read_tuned(path)
    if tuned.source != digest:
        return {}, f"{path} was found for another content of {source.name} and is not used; next: fleet tune {source}"
    return dict(tuned.recipes), None
