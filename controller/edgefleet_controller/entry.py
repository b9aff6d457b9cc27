"""The `fleet` command: says what to install when the controller extra is missing, then hands over to the CLI."""

from __future__ import annotations

import sys
from importlib.util import find_spec

_NEEDED = ("typer", "rich", "yaml", "sqlalchemy", "httpx", "onnx")
"""One import of each part of the controller extra; looked up, not loaded."""


def main() -> None:
    """Run `fleet`. Exits with the codes of docs/cli.md; 1 when the controller extra is not installed."""
    if missing := missing_packages():
        sys.exit(install_hint(missing))
    _survive_any_encoding()
    from edgefleet_controller.cli.app import app

    app(prog_name="fleet")


def missing_packages() -> list[str]:
    """Return which packages of the controller extra cannot be found."""
    return [name for name in _NEEDED if find_spec(name) is None]


def install_hint(missing: list[str]) -> str:
    """Return what to tell someone who has only the agent, or only the contract, installed."""
    return (
        f"error: fleet needs the controller extra; not installed: {', '.join(missing)}\n"
        "next: pip install 'edgefleet[controller]'"
    )


def _survive_any_encoding() -> None:
    # A table must not end in UnicodeEncodeError because a pipe or an old terminal speaks ASCII.
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")
