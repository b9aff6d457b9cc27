from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.activate import UNKNOWN_RELEASE, Activator, NoPreviousError
from edgefleet_agent.blobs import Storage
from edgefleet_agent.filesystem import Filesystem
from edgefleet_agent.records import Serving
from edgefleet_contract.base import hex_of


class PowerCutError(Exception):
    """The machine goes down here."""


class FailingFilesystem(Filesystem):
    """Counts operations that change the disk and cuts the power after the n-th."""

    CHANGES = ("write", "sync", "make_folder", "rename", "symlink", "remove", "link_or_copy")

    def __init__(self, cut_after: int) -> None:
        self.left = cut_after

    def __getattribute__(self, name: str) -> Any:
        operation = super().__getattribute__(name)
        if name not in FailingFilesystem.CHANGES:
            return operation

        def counted(*arguments: Any) -> None:
            if self.left == 0:
                raise PowerCutError
            self.left -= 1
            operation(*arguments)

        return counted


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def lay(home: Path, artifact: Any) -> Any:
    """Put an artifact on disk, whole, and return what serving it means."""

    def put(content: bytes, variant: str = "ort/cpu/fp32", release: str = "1") -> Serving:
        made = artifact({"model.onnx": content, "samples.npz": b"shared"}, variant)
        storage = Storage(home, Filesystem())
        for digest, data in made.blobs.items():
            storage.blob(digest).write_bytes(data)
        storage.assemble(made.candidate.artifact, made.document)
        return Serving(artifact=made.candidate.artifact, variant=variant, release="sha256:" + release * 64)

    return put


def activator(home: Path, filesystem: Filesystem | None = None) -> Activator:
    return Activator(home, Storage(home, Filesystem()), filesystem or Filesystem())


def served(home: Path) -> bytes:
    return (home / "models/digits/current/model.onnx").read_bytes()


def test_the_link_is_relative_and_the_record_says_what_serves(home: Path, lay: Any) -> None:
    serving = lay(b"one")
    activator(home).activate("digits", serving, None, 5)
    link = home / "models/digits/current"
    assert str(link.readlink()) == f"../../artifacts/{hex_of(serving.artifact)}"
    assert served(home) == b"one"
    record = activator(home).record("digits")
    assert record is not None
    assert (record.serving, record.activated_at_ns) == (serving, 5)


def test_the_previous_artifact_stays_at_hand(home: Path, lay: Any) -> None:
    one, two = lay(b"one"), lay(b"two", "ort/cpu/int8")
    for serving in (one, two, two):
        activator(home).activate("digits", serving, None, 0)
    assert served(home) == b"two"
    assert (home / "models/digits/previous/model.onnx").read_bytes() == b"one"
    assert activator(home).on_disk() == {"digits": two}


@pytest.mark.parametrize("with_old", [True, False])
def test_a_power_cut_after_any_operation_leaves_the_old_or_the_new(home: Path, lay: Any, with_old: bool) -> None:
    old, new = lay(b"old"), lay(b"new", "ort/cpu/int8", "2")
    if with_old:
        activator(home).activate("digits", old, None, 0)
    allowed = {b"old", b"new"} if with_old else {None, b"new"}
    cuts_n = 0
    while True:
        try:
            activator(home, FailingFilesystem(cuts_n)).activate("digits", new, None, 1)
            break
        except PowerCutError:
            cuts_n += 1
        found = activator(home).on_disk().get("digits")
        assert (served(home) if found else None) in allowed
        if found is not None:
            assert found.artifact == (old if served(home) == b"old" else new).artifact
    assert cuts_n > 5
    assert served(home) == b"new"
    assert activator(home).on_disk() == {"digits": new}


def test_an_artifact_that_is_not_here_is_not_switched_to(home: Path, lay: Any) -> None:
    one = lay(b"one")
    activator(home).activate("digits", one, None, 0)
    absent = one.model_copy(update={"artifact": "sha256:" + "f" * 64})
    with pytest.raises(FileNotFoundError):
        activator(home).activate("digits", absent, None, 0)
    assert served(home) == b"one"


def test_a_link_into_nothing_serves_nothing(home: Path, lay: Any) -> None:
    one = lay(b"one")
    activator(home).activate("digits", one, None, 0)
    Filesystem().remove(home / "artifacts" / hex_of(one.artifact))
    assert activator(home).on_disk() == {}


def test_the_link_is_believed_over_a_record_that_is_stale_or_damaged(home: Path, lay: Any) -> None:
    one = lay(b"one")
    activator(home).activate("digits", one, None, 0)
    (home / "models/digits/active.json").write_bytes(b"{half")
    found = activator(home).on_disk()["digits"]
    assert (found.artifact, found.variant, found.release) == (one.artifact, one.variant, UNKNOWN_RELEASE)


def test_a_model_taken_away_is_gone_with_its_links_and_its_artifact_stays(home: Path, lay: Any) -> None:
    one = lay(b"one")
    activator(home).activate("digits", one, None, 0)
    activator(home).deactivate("digits")
    assert activator(home).on_disk() == {}
    assert (home / "artifacts" / hex_of(one.artifact)).exists()


def artifacts(home: Path) -> set[str]:
    return {f"sha256:{path.name}" for path in (home / "artifacts").iterdir()}


def test_garbage_is_what_neither_serves_nor_served_before_nor_is_wanted(home: Path, lay: Any) -> None:
    served_before, serves, wanted, nobodys = (lay(name) for name in (b"1", b"2", b"3", b"4"))
    for serving in (served_before, serves):
        activator(home).activate("digits", serving, None, 0)
    (home / "blobs" / ("e" * 64 + ".part")).write_bytes(b"left over")
    (home / "artifacts" / ("e" * 64 + ".new")).mkdir()
    freed_bytes = activator(home).collect_garbage(frozenset({wanted.artifact}), keep_unused_bytes=0)
    assert artifacts(home) == {served_before.artifact, serves.artifact, wanted.artifact}
    assert freed_bytes > 0
    assert not (home / "blobs" / hex_of(nobodys.artifact)).exists()
    assert Storage(home, Filesystem()).problem(wanted.artifact) is None


def test_what_is_unused_is_kept_within_a_bound_newest_first(home: Path, lay: Any) -> None:
    old, new = lay(b"o" * 100), lay(b"n" * 100)
    os.utime(home / "artifacts" / hex_of(old.artifact), (1, 1))
    activator(home).collect_garbage(frozenset(), keep_unused_bytes=150)
    assert artifacts(home) == {new.artifact}


def test_a_document_that_is_damaged_does_not_stop_the_cleaning(home: Path, lay: Any) -> None:
    one = lay(b"one")
    (home / "artifacts" / hex_of(one.artifact) / "artifact.json").write_bytes(b"junk")
    activator(home).collect_garbage(frozenset(), keep_unused_bytes=0)
    assert artifacts(home) == set()


def test_undo_brings_the_previous_artifact_back_with_its_release_and_again_undoes_itself(home: Path, lay: Any) -> None:
    one, two = lay(b"one", release="1"), lay(b"two", "ort/cpu/int8", release="2")
    for serving in (one, two):
        activator(home).activate("digits", serving, None, 0)
    assert activator(home).previous("digits") == one
    assert activator(home).undo("digits", 7) == one
    assert (served(home), activator(home).on_disk()) == (b"one", {"digits": one})
    assert activator(home).previous("digits") == two
    assert activator(home).undo("digits", 8) == two
    assert served(home) == b"two"


def test_without_a_previous_artifact_undo_changes_nothing(home: Path, lay: Any) -> None:
    one = lay(b"one")
    activator(home).activate("digits", one, None, 0)
    for model in ("digits", "unknown"):
        with pytest.raises(NoPreviousError):
            activator(home).undo(model, 1)
    assert served(home) == b"one"


def test_a_power_cut_during_undo_leaves_one_of_the_two(home: Path, lay: Any) -> None:
    one, two = lay(b"one"), lay(b"two", "ort/cpu/int8", "2")
    cuts_n = 0
    while True:
        for serving in (one, two):
            activator(home).activate("digits", serving, None, 0)
        try:
            activator(home, FailingFilesystem(cuts_n)).undo("digits", 1)
            break
        except PowerCutError:
            cuts_n += 1
        assert activator(home).on_disk()["digits"].artifact in {one.artifact, two.artifact}
    assert cuts_n > 5
    assert served(home) == b"one"
