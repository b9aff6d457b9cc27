"""The wheel holds what an installed fleet needs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def names(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    out = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=repository, check=True, capture_output=True)
    [wheel] = out.glob("*.whl")
    return frozenset(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_every_file_of_the_four_packages(repository: Path, names: frozenset[str]) -> None:
    rooms = (
        "manifests/edgefleet_contract",
        "agent/edgefleet_agent",
        "controller/edgefleet_controller",
        "hil/edgefleet_hil",
    )
    paths = [path for room in rooms for path in (repository / room).rglob("*") if path.is_file()]
    files = {path.relative_to(repository).as_posix().split("/", 1)[1] for path in paths if path.suffix != ".pyc"}
    assert {name for name in files if name.endswith(".sql")}, "queries are part of the package"
    assert files <= names


def test_the_wheel_holds_neither_tests_nor_models(names: frozenset[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "edgefleet_agent",
        "edgefleet_contract",
        "edgefleet_controller",
        "edgefleet_hil",
    }
