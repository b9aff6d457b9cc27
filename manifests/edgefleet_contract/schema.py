"""The manifest's JSON Schema, for editors: `python -m edgefleet_contract.schema` prints it."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import sys
from typing import Any

from edgefleet_contract import artifact, manifest
from edgefleet_contract.manifest import Manifest

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_ID = "urn:edgefleet:manifest:v1"


def manifest_schema() -> dict[str, Any]:
    """Return the manifest's JSON Schema (draft 2020-12); descriptions are the docstrings of records and fields."""
    schema = Manifest.model_json_schema()
    for name, docs in _field_docs().items():
        described = schema if name == Manifest.__name__ else schema["$defs"].get(name, {})
        for field, text in docs.items():
            described.get("properties", {}).get(field, {}).setdefault("description", text)
    return {"$schema": DIALECT, "$id": SCHEMA_ID, **schema, "title": "edgefleet manifest"}


def schema_text() -> str:
    """Return the schema as the text of its file."""
    return json.dumps(manifest_schema(), indent=2, ensure_ascii=False) + "\n"


def _field_docs() -> dict[str, dict[str, str]]:
    """Return record → field → the docstring below it, read from the source: Python keeps none at run time."""
    bodies = [node for module in (artifact, manifest) for node in ast.parse(inspect.getsource(module)).body]
    return {node.name: _docs_of(node) for node in bodies if isinstance(node, ast.ClassDef)}


def _docs_of(record: ast.ClassDef) -> dict[str, str]:
    return {
        field.target.id: inspect.cleandoc(below.value.value)
        for field, below in itertools.pairwise(record.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


if __name__ == "__main__":
    sys.stdout.write(schema_text())
