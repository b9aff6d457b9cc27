from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgefleet_contract.errors import DeviceError
from edgefleet_controller.cli.app import app
from edgefleet_controller.cli.settings import Settings
from edgefleet_hil.scripted import Cli, Ended, FakeBackend, ScriptedApi


@pytest.fixture
def interrupted(backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Run `fleet up`, and press Ctrl-C at the first wait."""
    monkeypatch.chdir(tmp_path)

    def ctrl_c(_: float) -> None:
        raise KeyboardInterrupt

    def run(*args: str) -> Ended:
        return CliRunner().invoke(app, ["up", *args], obj=Settings(backend, sleep_s=ctrl_c))

    return run


def test_up_says_where_it_is_and_stops_its_stack_at_ctrl_c(
    interrupted: Callable[..., Ended], backend: FakeBackend, tmp_path: Path
) -> None:
    result = interrupted("--broker-port", "1883")
    assert result.exit_code == 0
    assert backend.log == ["start fleet up shared=True port=1883", "stop"]
    for text in ("http://127.0.0.1:20001", "mqtt://127.0.0.1:20002", str(tmp_path / ".fleet"), "controller 12"):
        assert text in result.stdout
    assert "Ctrl-C stops it" in result.stderr


def test_up_prints_one_object_for_scripts(interrupted: Callable[..., Ended]) -> None:
    data = json.loads(interrupted("-o", "json").stdout)
    assert data["pids"] == {"broker": 11, "controller": 12, "agent": 13}
    assert data["url"] == "http://127.0.0.1:20001"


def test_up_ends_when_a_child_keeps_failing(cli: Cli, backend: FakeBackend, scripted: ScriptedApi) -> None:
    backend.failure = DeviceError("the agent exited, more than 5 times", next_step="read agent.log")
    result = cli("up")
    assert result.exit_code == 1
    assert "more than 5 times" in result.stderr
    assert "next: read agent.log" in result.stderr
    assert backend.log[-1] == "stop"


def test_down_stops_a_stack_of_another_terminal_and_says_which(cli: Cli, backend: FakeBackend) -> None:
    backend.stack_runs = True
    result = cli("down")
    assert result.exit_code == 0
    assert "stopped process 7 (`fleet up`)" in result.stderr


def test_down_with_nothing_running_says_so_and_exits_0(cli: Cli) -> None:
    result = cli("down")
    assert result.exit_code == 0
    assert "no stack is running" in result.stderr
