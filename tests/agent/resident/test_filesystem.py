"""The file operations themselves: what counts as kept has been forced to disk, with the name it is found by."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edgefleet_agent.filesystem import Filesystem


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, bytes | None]]:
    """What was forced to disk, in order: files with what they held, folders with None."""
    seen: list[tuple[Path, bytes | None]] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append((path, path.read_bytes() if path.is_file() else None))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    return seen


def test_a_written_file_is_forced_to_disk_whole(tmp_path: Path, forced: list[tuple[Path, bytes | None]]) -> None:
    Filesystem().write(tmp_path / "state", b"x" * 100_000)
    assert forced == [(tmp_path / "state", b"x" * 100_000)]


def test_sync_forces_a_file_and_the_names_in_a_folder(tmp_path: Path, forced: list[tuple[Path, bytes | None]]) -> None:
    (tmp_path / "part").write_bytes(b"chunk")
    Filesystem().sync(tmp_path / "part")
    Filesystem().sync(tmp_path)
    assert forced == [(tmp_path / "part", b"chunk"), (tmp_path, None)]


def test_the_name_of_each_new_folder_is_forced_to_disk(tmp_path: Path, forced: list[tuple[Path, bytes | None]]) -> None:
    Filesystem().make_folder(tmp_path / "models/digits")
    assert {path for path, _ in forced} == {tmp_path, tmp_path / "models"}
    forced.clear()
    Filesystem().make_folder(tmp_path / "models/digits")
    assert forced == []


def test_a_copy_made_where_there_are_no_hard_links_is_forced_to_disk(
    tmp_path: Path, forced: list[tuple[Path, bytes | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    (tmp_path / "blob").write_bytes(b"weights")
    Filesystem().link_or_copy(tmp_path / "blob", tmp_path / "model.onnx")
    assert forced == [(tmp_path / "model.onnx", b"weights")]
