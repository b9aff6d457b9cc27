"""Which keys are allowed where, read from the manifest's own JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from edgefleet_contract.manifest import Manifest

Schema = dict[str, Any]


def allowed_keys(path: Sequence[str | int]) -> tuple[str, ...]:
    """Return the keys a mapping at `path` may have, in the language's order; empty where names are the user's."""
    found = [_schema()]
    for part in path:
        found = [inner for schema in found for inner in _children(schema, part)]
    return tuple(key for schema in found for branch in _branches(schema) for key in branch.get("properties", ()))


@cache
def _schema() -> Schema:
    return Manifest.model_json_schema()


def _branches(schema: Schema) -> Iterator[Schema]:
    """Yield what a schema stands for, with references followed and alternatives taken apart."""
    if "$ref" in schema:
        yield from _branches(_schema()["$defs"][schema["$ref"].rsplit("/", 1)[-1]])
    for alternative in schema.get("anyOf", ()):
        yield from _branches(alternative)
    yield schema


def _children(schema: Schema, part: str | int) -> Iterator[Schema]:
    for branch in _branches(schema):
        if isinstance(part, int):
            yield from [branch["items"]] if "items" in branch else []
        elif part in branch.get("properties", {}):
            yield branch["properties"][part]
        else:
            yield from branch.get("patternProperties", {}).values()
            extra = branch.get("additionalProperties")
            yield from [extra] if isinstance(extra, dict) else []
