from __future__ import annotations

import json

import pytest
from edgefleet_contract.errors import DeviceError
from edgefleet_controller.cli.settings import Settings
from edgefleet_controller.cli.app import app
from typer.testing import CliRunner


@pytest.fixture
def interrupted(backend, tmp_path, monkeypatch):
    """Run `fleet up`, and press Ctrl-C at the first wait."""
    monkeypatch.chdir(tmp_path)

    def ctrl_c(_: float) -> None:
        raise KeyboardInterrupt

    def run(*args: str):
        return CliRunner().invoke(app, ["up", *args], obj=Settings(backend, sleep_s=ctrl_c))

    return run


def test_up_says_where_it_is_and_stops_its_stack_at_ctrl_c(interrupted, backend, tmp_path):
    result = interrupted("--broker-port", "1883")
    assert result.exit_code == 0
    assert backend.log == ["start fleet up shared=True port=1883", "stop"]
    for text in ("http://127.0.0.1:20001", "mqtt://127.0.0.1:20002", str(tmp_path / ".fleet"), "controller 12"):
        assert text in result.stdout
    assert "Ctrl-C stops it" in result.stderr


def test_up_prints_one_object_for_scripts(interrupted):
    data = json.loads(interrupted("-o", "json").stdout)
    assert data["pids"] == {"broker": 11, "controller": 12, "agent": 13}
    assert data["url"] == "http://127.0.0.1:20001"


def test_up_ends_when_a_child_keeps_failing(cli, backend, scripted):
    stack = type(backend)(scripted).embedded
    from types import SimpleNamespace  # a stack that is ready, and then fails

    def fails() -> None:
        raise DeviceError("the agent exited, more than 5 times", next_step="read agent.log")

    backend.embedded = SimpleNamespace(
        url="u", broker_url="b", pids=dict, wait_ready=lambda **_: None, check=fails, api=lambda: stack
    )
    result = cli("up")
    assert result.exit_code == 1
    assert "more than 5 times" in result.stderr
    assert "next: read agent.log" in result.stderr
    assert backend.log[-1] == "stop"


def test_down_stops_a_stack_of_another_terminal_and_says_which(cli, backend):
    backend.stack_runs = True
    result = cli("down")
    assert result.exit_code == 0
    assert "stopped process 7 (`fleet up`)" in result.stderr


def test_down_with_nothing_running_says_so_and_exits_0(cli):
    result = cli("down")
    assert result.exit_code == 0
    assert "no stack is running" in result.stderr
