from __future__ import annotations

import json
from pathlib import Path

from edgefleet_contract.schema import manifest_schema
from edgefleet_hil.scripted import Cli


def test_lint_of_a_valid_manifest_exits_0_and_counts(cli: Cli, manifest: Path) -> None:
    result = cli("lint", "manifest.yaml")
    assert result.exit_code == 0
    assert result.stdout == "manifest.yaml: valid: 1 model(s), 1 deployment(s), 2 file(s)\n"


def test_lint_prints_each_problem_on_a_line_with_its_place_and_exits_2(cli: Cli, manifest: Path) -> None:
    text = manifest.read_text().replace("source:", "sorce:").replace("to: all", "too: all")
    manifest.write_text(text, encoding="utf-8")
    result = cli("lint", "manifest.yaml")
    assert result.exit_code == 2
    problems = [line for line in result.stderr.splitlines() if line.startswith("error: manifest.yaml:")]
    assert any(line.startswith("error: manifest.yaml:3:") and "'source'" in line for line in problems)
    assert any(line.startswith("error: manifest.yaml:5:") and "'to'" in line for line in problems)


def test_lint_checks_the_files_a_manifest_names(cli: Cli, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "digits.onnx").unlink()
    result = cli("lint", "manifest.yaml")
    assert result.exit_code == 2
    assert "manifest.yaml:3:" in result.stderr
    assert "no such file" in result.stderr


def test_lint_of_a_missing_file_exits_2(cli: Cli) -> None:
    result = cli("lint", "nothing.yaml")
    assert result.exit_code == 2
    assert "nothing.yaml" in result.stderr


def test_lint_refuses_what_this_version_does_not_do(cli: Cli, manifest: Path) -> None:
    text = manifest.read_text().replace("to: all}", "to: all, rollout: {waves: [1, 10%]}}")
    manifest.write_text(text, encoding="utf-8")
    result = cli("lint", "manifest.yaml")
    assert result.exit_code == 2
    assert "manifest.yaml:5:" in result.stderr


def test_schema_prints_the_contracts_schema(cli: Cli) -> None:
    assert json.loads(cli("schema").stdout) == manifest_schema()
