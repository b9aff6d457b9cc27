"""pytest fixtures for tests on rigs: `pytest -p edgefleet_hil.plugin`, or `pytest_plugins` in a conftest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgefleet_controller.stack.supervisor import StackOptions
from edgefleet_hil.rig import Rig

RigFactory = Callable[..., Rig]


@pytest.fixture
def rig_factory(tmp_path: Path) -> Iterator[RigFactory]:
    """Make started rigs, each in a folder of its own; at the end all are stopped and searched for orphans."""
    made: list[Rig] = []
    with ExitStack() as undo:

        def make(options: StackOptions | None = None) -> Rig:
            rig = Rig(tmp_path / f"rig{len(made)}" / ".fleet", options)
            made.append(rig)
            return undo.enter_context(rig)

        yield make
    for rig in made:
        assert rig.orphans() == [], "processes outlived their stack"  # noqa: S101 - a fixture's own check


@pytest.fixture
def fleet_rig(rig_factory: RigFactory) -> Rig:
    """A started rig with one agent: the real broker, controller and agent."""
    return rig_factory()
