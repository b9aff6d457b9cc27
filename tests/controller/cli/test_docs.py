"""The documentation is tested: every command, option and word of the output stands in docs/cli.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_contract.evidence import EnergyStatus, Gate, LatencyVerdict, ParityCheck, ParityVerdict, Verdict
from edgefleet_contract.report import DeviceState
from edgefleet_controller.api import ExitCode, Phase, Severity
from edgefleet_controller.cli.app import app
from edgefleet_hil.scripted import Cli


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (path, command) of every command that does something."""
    root: Any = get_command(app)
    for name, command in sorted((group or root).commands.items()):
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands())
TITLES = {
    Phase: "Phase of an apply",
    DeviceState: "State of a model on a device",
    Verdict: "Verdict on a variant",
    Gate: "Gate",
    ParityVerdict: "Parity verdict",
    ParityCheck: "Parity check",
    LatencyVerdict: "Latency verdict",
    EnergyStatus: "Energy status",
    EvidenceLevel: "Evidence level",
    Severity: "Severity of a health finding",
}


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "cli.md").read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    """Return the text below the heading that starts with `title`, up to the next heading."""
    match = re.search(rf"^#+ {re.escape(title)}.*\n((?:(?!#+ ).*\n)*)", page, re.MULTILINE)
    assert match is not None, f"no heading starts with {title!r}"
    return match[1]


def first_column(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_stands_in_the_documentation(path: tuple[str, ...], cli: Cli, page: str) -> None:
    result = cli(*path, "--help")
    assert result.exit_code == 0
    assert COMMANDS[path].help
    assert f"fleet {' '.join(path)}" in page


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_has_help_and_stands_in_the_documentation(path: tuple[str, ...], page: str) -> None:
    for option in COMMANDS[path].params:
        longest = max(option.opts, key=len)
        if longest.startswith("--"):
            assert option.help, longest
            assert (longest in page) or longest in {"--output", "--help"}


def test_every_command_in_the_documentation_exists(page: str) -> None:
    titles = re.findall(r"`fleet ([a-z]+)", "\n".join(re.findall(r"^### .*$", page, re.MULTILINE)))
    assert set(titles) == {path[0] for path in COMMANDS}


@pytest.mark.parametrize("enum", TITLES, ids=lambda enum: enum.__name__)
def test_each_enumeration_is_documented_with_just_its_values_in_order(enum: type[Enum], page: str) -> None:
    assert first_column(section(page, TITLES[enum])) == [member.value for member in enum]


def test_exit_codes_are_documented_with_number_and_name(page: str) -> None:
    rows = re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", section(page, "Exit codes"), re.MULTILINE)
    assert [(int(code), name) for code, name in rows] == [(code.value, code.name) for code in ExitCode]
