from __future__ import annotations

from pathlib import Path

import pytest

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.stack.home import FleetHome, find_home


def test_the_environment_names_the_home_before_anything_else(tmp_path: Path) -> None:
    found = find_home(tmp_path / "m.yaml", environ={"FLEET_HOME": "elsewhere"}, cwd=tmp_path)
    assert found.root == tmp_path / "elsewhere"


def test_an_empty_environment_variable_does_not_count(tmp_path: Path) -> None:
    assert find_home(environ={"FLEET_HOME": ""}, cwd=tmp_path).root == tmp_path / ".fleet"


def test_the_home_lies_beside_the_manifest(tmp_path: Path) -> None:
    assert find_home(Path("sub/m.yaml"), environ={}, cwd=tmp_path).root == tmp_path / "sub" / ".fleet"


def test_without_a_manifest_the_nearest_home_above_is_meant(tmp_path: Path) -> None:
    (tmp_path / ".fleet").mkdir()
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find_home(environ={}, cwd=below).root == tmp_path / ".fleet"


def test_with_no_home_anywhere_the_current_folder_is_meant(tmp_path: Path) -> None:
    assert find_home(environ={}, cwd=tmp_path).root == tmp_path / ".fleet"
    assert not (tmp_path / ".fleet").exists()


def test_folders_are_made_for_their_owner_only(tmp_path: Path) -> None:
    home = FleetHome(tmp_path / ".fleet").create()
    for folder in (home.root, home.controller, home.blobs, home.work, home.run, home.agent("local").parent):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_home_beside_the_manifest_keeps_itself_out_of_git(tmp_path: Path) -> None:
    home = FleetHome(tmp_path / ".fleet").create()
    assert (home.root / ".gitignore").read_text() == "*\n"
    assert not (FleetHome(tmp_path / "mine").create().root / ".gitignore").exists()


def test_creating_a_home_twice_changes_nothing(tmp_path: Path) -> None:
    home = FleetHome(tmp_path / ".fleet").create()
    home.database.write_bytes(b"rows")
    assert home.create().database.read_bytes() == b"rows"


def test_a_home_that_cannot_be_written_is_the_users_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserInputError, match=r"cannot write to the fleet's home .*/file/home") as caught:
        FleetHome(tmp_path / "file" / "home").create()
    assert "FLEET_HOME" in str(caught.value.next_step)


def test_too_little_disk_is_the_users_error_with_both_numbers(tmp_path: Path) -> None:
    home = FleetHome(tmp_path).create()
    home.require_free(1)
    with pytest.raises(UserInputError, match=r"only .* are free .*; needed: \d+.* GiB"):
        home.require_free(home.free_bytes() + 1024**4)
