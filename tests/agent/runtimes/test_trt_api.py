"""The names of TensorRT the adapter uses: held to each version's own list, and the code held to the declared names."""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.runtimes import trt_api, trt_session

LISTS = Path(__file__).parents[2] / "data" / "trt_api"
SOURCES = sorted(Path(trt_api.__file__).parent.glob("trt*.py"))
ALIASES = frozenset(
    name for name, value in vars(trt_api).items() if value is Any and name not in {"Any", "Trt", "OnnxParserFlag"}
)
Names = dict[str, set[str]]


def listed(version: str) -> dict[str, Mapping[str, list[str]]]:
    found: dict[str, Mapping[str, list[str]]] = json.loads((LISTS / f"trt_{version}.json").read_text("utf-8"))
    return found


@pytest.mark.parametrize("version", trt_api.VERSIONS)
def test_every_name_is_in_every_version_the_adapter_claims(version: str) -> None:
    theirs = listed(version)
    for kind, ours in (("classes", trt_api.USED), ("enums", trt_api.ENUMS)):
        for name, members in ours.items():
            assert set(members) <= set(theirs[kind][name]), (version, name)


def test_versions_older_than_those_claimed_lack_a_name() -> None:
    """Why 10.3 is the oldest: 10.0 has no `device_memory_size_v2`."""
    missing = set(trt_api.USED["ICudaEngine"]) - set(listed("10.0.1")["classes"]["ICudaEngine"])
    assert missing == {"device_memory_size_v2"}


def test_an_optional_name_is_newer_than_the_oldest_version_and_its_class_is_not() -> None:
    for name, members in trt_api.OPTIONAL_ENUMS.items():
        assert all(name in listed(version)["enums"] for version in trt_api.VERSIONS)
        assert not set(members) & set(listed("10.3.0")["enums"][name])
        assert set(members) <= set(listed("11.4.0.106")["enums"][name])


def test_nothing_is_used_that_version_11_removed() -> None:
    old, new = (listed(version)["classes"] for version in ("10.3.0", "11.0.0.114"))
    gone = {name: set(members) - set(new.get(name, ())) for name, members in old.items()}
    assert {"int8_calibrator"} <= gone["IBuilderConfig"]
    assert {"platform_has_fast_fp16"} <= gone["Builder"]
    assert not any(gone[name] & set(members) for name, members in trt_api.USED.items())


class Uses(ast.NodeVisitor):
    """Collects attributes read from variables that are annotated as objects of TensorRT."""

    def __init__(self) -> None:
        self.members: Names = defaultdict(set)
        self.enums: Names = defaultdict(set)
        self.optional: set[str] = set()
        self.module: set[str] = set()
        self.plain: set[str] = set()
        self._scopes: list[dict[str, str]] = [{}]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        known = {each.arg: ast.unparse(each.annotation) for each in arguments if each.annotation}
        # `self.x: Class = …` in one method is read in the others.
        self._scopes.append(known)
        for inner in ast.walk(node):
            if isinstance(inner, ast.AnnAssign):
                scope = self._scopes[0] if isinstance(inner.target, ast.Attribute) else known
                scope[ast.unparse(inner.target)] = ast.unparse(inner.annotation)
        self.generic_visit(node)
        self._scopes.pop()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        kind = self._kind(ast.unparse(node.value))
        outer = node.value
        if kind in ALIASES:
            self.members[str(kind)].add(node.attr)
        elif kind == "OnnxParserFlag":
            self.optional.add(node.attr)
        elif kind == "Trt":
            self.module.add(node.attr)
        elif isinstance(outer, ast.Attribute) and self._kind(ast.unparse(outer.value)) == "Trt":
            self.enums[outer.attr].add(node.attr)
        else:
            self.plain.add(node.attr)
        self.generic_visit(node)

    def _kind(self, expression: str) -> str | None:
        return next((scope[expression] for scope in reversed(self._scopes) if expression in scope), None)


def used() -> Uses:
    uses = Uses()
    for source in SOURCES:
        uses._scopes = [{}]
        uses.visit(ast.parse(source.read_text("utf-8")))
    return uses


def test_the_declared_names_are_those_the_code_uses() -> None:
    uses = used()
    ours = {name: set(members) for name, members in trt_api.USED.items()}
    members = {name: found - {"errors"} for name, found in uses.members.items()}  # our logger's own list
    assert {name: found for name, found in members.items() if found} == ours
    enums = {name: found for name, found in uses.enums.items() if name != "ILogger"}
    enums["DataType"] = set(trt_session._DTYPES)  # read by name, from this table
    assert enums == {name: set(found) for name, found in trt_api.ENUMS.items()}
    assert uses.optional == {member for members in trt_api.OPTIONAL_ENUMS.values() for member in members}


def test_what_is_taken_from_the_module_is_a_class_or_an_enumeration_of_every_version() -> None:
    names = used().module - {"__version__"}
    assert {"Builder", "OnnxParser", "Runtime", "MemoryPoolType"} <= names
    for version in trt_api.VERSIONS:
        theirs = listed(version)
        assert names <= {*theirs["classes"], *theirs["enums"]}, version


def identifiers() -> Iterator[str]:
    for version in trt_api.VERSIONS:
        for members in listed(version)["classes"].values():
            yield from members


def test_no_name_of_tensorrt_is_read_from_a_variable_whose_class_is_not_said() -> None:
    """Without this the declared names could be complete only by leaving annotations out."""
    telling = {name for name in identifiers() if "_" in name and not name.startswith("_")}
    assert used().plain & telling == set()
