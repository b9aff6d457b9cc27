from __future__ import annotations

import subprocess
import sys

import pytest

from edgefleet_controller import entry

HEAVY = {"pydantic", "rich.progress", "yaml", "sqlalchemy", "httpx", "onnx", "onnxruntime", "numpy", "starlette"}


def test_without_the_controller_extra_fleet_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"typer", "onnx"}
    monkeypatch.setattr(entry, "find_spec", lambda name: None if name in absent else object())
    with pytest.raises(SystemExit) as stopped:
        entry.main()
    # A string as exit code: Python prints it to stderr and exits with 1.
    assert stopped.value.code == (
        "error: fleet needs the controller extra; not installed: typer, onnx\nnext: pip install 'edgefleet[controller]'"
    )


def test_with_the_extra_nothing_is_missing() -> None:
    assert entry.missing_packages() == []


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['fleet', '--help']\n"
        "from edgefleet_controller.entry import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert HEAVY & set(done.stderr.split()) == set()
