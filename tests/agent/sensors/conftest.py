"""Sensor trees of boards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgefleet_hil.boards import build_board


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[str], Path]:
    """A function that builds a board's sysfs."""
    return lambda name: build_board(name, tmp_path / name)
