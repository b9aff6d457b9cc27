"""Orders reach an agent that serves, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgefleet_agent.control import agent_that_runs


@pytest.mark.parametrize("content", [b"", b"0\n", b"1\n", b"-1\n", b"no number", b"99999999\n", b"9" * 400])
def test_a_lock_that_names_no_agent_gets_no_signal(tmp_path: Path, content: bytes) -> None:
    lock = tmp_path / "agent.lock"
    assert agent_that_runs(lock) is None
    lock.write_bytes(content)
    assert agent_that_runs(lock) is None


def test_another_command_that_holds_the_lock_is_no_agent(tmp_path: Path) -> None:
    lock = tmp_path / "agent.lock"
    lock.write_text(f"{os.getpid()}\n")
    assert agent_that_runs(lock) is None


def test_a_process_that_serves_is_found(tmp_path: Path) -> None:
    program = "import sys; print(flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", program, "edgefleet-agent", "run"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # before the program runs, the kernel may show no words of it
        lock = tmp_path / "agent.lock"
        lock.write_text(f"{process.pid}\n")
        found = agent_that_runs(lock)
    assert found == process.pid
