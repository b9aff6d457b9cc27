"""Fixtures every room's tests may use."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ("edgefleet_hil.plugin",)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of example manifests, with their models and data below it."""
    return ROOT / "manifests" / "examples"
