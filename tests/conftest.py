"""Fixtures every room's tests may use."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ("edgefleet_hil.plugin",)

# The suite draws the same examples every time, so it tells of a change and of nothing else; `make fuzz` draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("search", max_examples=500)
settings.load_profile("repeatable")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of example manifests, with their models and data below it."""
    return ROOT / "manifests" / "examples"
