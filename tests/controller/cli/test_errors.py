from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_contract import errors as contract_errors
from edgefleet_contract.errors import (
    DeviceError,
    EdgefleetError,
    InternalError,
    Location,
    ManifestError,
    TransportError,
    UserInputError,
    WireError,
)
from edgefleet_controller.api import Phase, RevisionStatus
from edgefleet_controller.cli import output
from edgefleet_controller.cli.errors import flatten, hoist
from edgefleet_controller.load.problem import ManifestProblemsError
from edgefleet_controller.planner import PlanError
from edgefleet_controller.stack.operations import decode_error, encode_error
from edgefleet_hil.scripted import Cli, FakeBackend, ScriptedApi

CODES = {
    EdgefleetError: 1,
    UserInputError: 2,
    ManifestError: 2,
    DeviceError: 1,
    TransportError: 1,
    WireError: 1,
    InternalError: 1,
}


def test_every_family_of_the_contract_has_its_exit_code_here() -> None:
    families = {kind for kind in vars(contract_errors).values() if isinstance(kind, type)}
    assert set(CODES) == {kind for kind in families if issubclass(kind, EdgefleetError)}


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.__name__)
def test_an_error_is_words_on_stderr_its_next_step_and_an_exit_code(
    cli: Cli, backend: FakeBackend, scripted: ScriptedApi, kind: type[EdgefleetError]
) -> None:
    backend.store_exists = True
    scripted.errors["devices"] = kind("it went wrong", next_step="try this")
    result = cli("devices", "-o", "json")
    assert result.exit_code == CODES[kind]
    assert result.stderr.splitlines()[:2] == ["error: it went wrong", "next: try this"]
    assert result.stdout == ""


def test_an_error_of_the_operating_system_is_words_too(cli: Cli, backend: FakeBackend, scripted: ScriptedApi) -> None:
    backend.store_exists = True
    scripted.errors["devices"] = PermissionError(13, "Permission denied", "/x/fleet.db")
    result = cli("devices")
    assert result.exit_code == 1
    assert "Permission denied: '/x/fleet.db'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bug_keeps_its_traceback(cli: Cli, backend: FakeBackend, scripted: ScriptedApi) -> None:
    backend.store_exists = True
    scripted.errors["devices"] = ZeroDivisionError("a bug")
    result = cli("devices")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_the_place_of_an_error_in_the_manifest_survives_the_way_over_http() -> None:
    error = PlanError("no device matches 'room=x'", path=("deployments", 0, "to", 0), next_step="fleet devices")
    _, document = encode_error(error)
    back = decode_error(json.loads(json.dumps(document)))
    assert isinstance(back, PlanError)
    assert (back.path, back.message, back.next_step) == (error.path, error.message, error.next_step)
    assert isinstance(decode_error({"error": {**document["error"], "path": {"no": "list"}}}), UserInputError)


def test_many_problems_are_told_each_on_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [ManifestError("wrong", location=Location("m.yaml", line, 1)) for line in (3, 5)]
    told = flatten(ManifestProblemsError(problems, left_out_n=7))
    assert [str(problem) for problem in told] == ["m.yaml:3:1: wrong", "m.yaml:5:1: wrong", "and 7 more problems"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["apply", "m", "--server", "u"], ["--server", "u", "apply", "m"]),
        (["apply", "--server=u", "m"], ["--server=u", "apply", "m"]),
        (["query", "--", "--server", "u"], ["query", "--", "--server", "u"]),
        (["apply", "--server"], ["--server", "apply"]),
    ],
)
def test_global_options_are_moved_to_the_front(args: list[str], expected: object) -> None:
    assert hoist(args, ("--server",)) == expected


@given(st.lists(st.sampled_from(["a", "--server", "--server=u", "--", "u"])))
def test_moving_options_loses_and_invents_nothing(args: list[str]) -> None:
    assert sorted(hoist(args, ("--server",))) == sorted(args)


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from edgefleet_controller.entry import main; main()", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **env})  # noqa: PLW1510


def test_a_reader_that_closes_the_pipe_ends_us_without_a_traceback() -> None:
    command = [sys.executable, "-c", "from edgefleet_controller.entry import main; main()", "schema"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    _, stderr = process.communicate(timeout=60)
    assert stderr == ""
    assert process.returncode == 1


def test_an_output_that_speaks_ascii_only_is_survived(tmp_path: Path) -> None:
    result = run("lint", str(tmp_path / "größe.yaml"), PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_an_unknown_command_is_a_usage_error() -> None:
    assert run("aply").returncode == 2


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert run("--version").stdout == f"fleet {version('edgefleet')}\n"


def test_words_are_never_taken_for_markup_or_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[red]deployments[0][/red] :smile: " + "x" * 300
    output.words(text)
    assert capsys.readouterr().err == f"{text}\n"


def test_a_headline_is_never_taken_for_markup(cli: Cli, scripted: ScriptedApi, manifest: Path) -> None:
    scripted.revisions = [RevisionStatus(revision=3, phase=Phase.ERROR, reason="[bold]models[0][/bold] :x:")]
    assert "[bold]models[0][/bold] :x:" in cli("apply", str(manifest)).stdout
