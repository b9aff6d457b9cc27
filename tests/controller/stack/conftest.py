from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgefleet_controller.stack.home import FleetHome
from edgefleet_controller.stack.supervisor import Programs
from edgefleet_hil.doubles import FakeFleetApi, online_device


@pytest.fixture
def home(tmp_path: Path) -> FleetHome:
    return FleetHome(tmp_path / ".fleet").create()


@pytest.fixture
def doubles() -> Programs:
    run = (sys.executable, "-m", "edgefleet_hil.doubles")
    return Programs(controller=(*run, "controller"), agent=(*run, "agent"))


@pytest.fixture
def fake() -> FakeFleetApi:
    return FakeFleetApi(devices=(online_device("local"),))
