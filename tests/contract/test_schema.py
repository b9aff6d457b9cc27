from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgefleet_contract.base import Record
from edgefleet_contract.manifest import Manifest, ModelSpec, SamplesSpec
from edgefleet_contract.schema import DIALECT, manifest_schema, schema_text


def test_the_committed_schema_is_current(repository: Path) -> None:
    committed = (repository / "manifests" / "schema" / "manifest.schema.json").read_text()
    assert committed == schema_text(), "run `make schema`"


def test_the_schema_says_which_dialect_it_is_and_what_it_is() -> None:
    schema = manifest_schema()
    assert schema["$schema"] == DIALECT
    assert schema["$id"].startswith("urn:edgefleet:")
    assert schema["description"] == Manifest.__doc__
    assert json.loads(schema_text()) == schema


@pytest.mark.parametrize("kind", [ModelSpec, SamplesSpec])
def test_the_schema_has_every_field_and_no_other(kind: type[Record]) -> None:
    described = manifest_schema()["$defs"][kind.__name__]
    assert set(described["properties"]) == set(kind.model_fields)
    assert described["additionalProperties"] is False


def test_fields_carry_the_docstrings_below_them() -> None:
    model = manifest_schema()["$defs"]["ModelSpec"]["properties"]
    assert model["calibration"]["description"].startswith("Samples to calibrate with")
    assert "description" not in model["source"]


@pytest.mark.parametrize(
    ("record", "field"), [("ModelSpec", "samples"), ("ModelSpec", "calibration"), ("DeploymentSpec", "to")]
)
def test_the_schema_allows_the_short_forms_people_write(record: str, field: str) -> None:
    forms = manifest_schema()["$defs"][record]["properties"][field]["anyOf"]
    assert "string" in {form.get("type") for form in forms}
    assert any("$ref" in form or form.get("type") == "array" for form in forms)


def test_every_reference_of_the_schema_leads_somewhere() -> None:
    schema = manifest_schema()
    for reference in _references(schema):
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    return [found for item in node for found in _references(item)] if isinstance(node, list) else []
