"""pytest fixtures for tests on rigs: `pytest -p edgefleet_hil.plugin`, or `pytest_plugins` in a conftest."""

from __future__ import annotations
