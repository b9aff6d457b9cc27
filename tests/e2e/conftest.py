"""The command line as people type it, in a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

FLEET = (str(Path(sys.executable).with_name("fleet")),)


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


class Fleet:
    """Runs `fleet` with one home."""

    def __init__(self, home: Path, cwd: Path) -> None:
        self.home = home
        self._cwd = cwd
        self.env = {**os.environ, "FLEET_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "120"}

    def __call__(self, *words: str, timeout_s: float = 300.0) -> Said:
        done = subprocess.run(
            [*FLEET, *words],
            cwd=self._cwd,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command and go on."""
        return subprocess.Popen(
            [*FLEET, *words],
            cwd=self._cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def processes(self) -> list[psutil.Process]:
        """Every process whose command line names this home."""
        home = str(self.home)
        found = []
        for process in psutil.process_iter():
            try:
                if any(word.startswith(home) for word in process.cmdline()) and process.status() != "zombie":
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def fleet(tmp_path: Path, repository: Path) -> Iterator[Fleet]:
    """The command line in a fresh home; what it leaves running at the end is killed and fails the test."""
    runner = Fleet(tmp_path / "home", repository)
    yield runner
    left = runner.processes()
    for process in left:
        process.kill()
    assert left == []


@pytest.fixture
def small_manifest(tmp_path: Path, examples: Path) -> Callable[[str], Path]:
    """Write a manifest for the digit model with the given chain; its files are links to the examples' own."""

    def make(chain: str) -> Path:
        folder = tmp_path / "small"
        if not folder.exists():
            folder.mkdir()
            for kind, name in (("models", "mnist_cnn_fp32.onnx"), ("data", "digits.npz")):
                (folder / name).write_bytes((examples / kind / name).read_bytes())
        path = folder / "manifest.yaml"
        path.write_text(
            "fleet: v1\n"
            "models:\n"
            "  digits:\n"
            "    source: mnist_cnn_fp32.onnx\n"
            "    samples: digits.npz\n"
            "    preprocess: {image: {sample_layout: nhw, layout: nchw, mean: 33.3285, std: 78.5655}}\n"
            "    task: classification\n"
            "deployments:\n"
            f"  - {{model: digits, to: all, chain: {chain}}}\n",
            encoding="utf-8",
        )
        return path

    return make
