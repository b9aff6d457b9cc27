"""Blobs: content under its own digest, complete or not there."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_contract.base import digest_bytes
from edgefleet_contract.errors import InternalError, UserInputError
from edgefleet_controller import blobs as blobs_module
from edgefleet_controller.blobs import BlobMissingError, BlobStore, StorageError

NOWHERE = digest_bytes(b"nothing like this was ever put")


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def files_of(store: BlobStore) -> list[Path]:
    return [path for path in store._root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("data", [b"", b"x", b"\x00" * 3_000_000])
def test_what_is_put_is_read_again(store: BlobStore, data: bytes) -> None:
    digest = store.put_bytes(data)
    assert digest == digest_bytes(data)
    assert store.has(digest)
    assert store.size_bytes(digest) == len(data)
    assert store.read(digest) == data


def test_a_blob_lies_in_a_fan_out_folder_and_cannot_be_written_to(store: BlobStore) -> None:
    digest = store.put_bytes(b"abc")
    path = store.path_of(digest)
    assert path.relative_to(store._root).as_posix() == f"sha256/{digest[7:9]}/{digest[9:]}"
    assert path.stat().st_mode & 0o777 == 0o444


def test_putting_twice_keeps_one_file(store: BlobStore) -> None:
    store.put_bytes(b"abc")
    store.put_bytes(b"abc")
    assert len(files_of(store)) == 1


@pytest.mark.parametrize("data", [b"", b"y" * 2_500_000])
def test_a_file_is_kept_under_its_digest(store: BlobStore, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f").write_bytes(data)
    digest = store.put_file(tmp_path / "f", digest_bytes(data))
    assert store.read(digest) == data


def test_a_file_that_is_not_what_it_was_said_to_be_is_refused_and_leaves_nothing(
    store: BlobStore, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"changed")
    with pytest.raises(UserInputError, match="not what it was said to be"):
        store.put_file(tmp_path / "f", NOWHERE)
    assert files_of(store) == []


def test_a_wrong_file_is_refused_also_where_the_right_content_is_known(store: BlobStore, tmp_path: Path) -> None:
    digest = store.put_bytes(b"right")
    (tmp_path / "f").write_bytes(b"wrong")
    with pytest.raises(UserInputError):
        store.put_file(tmp_path / "f", digest)


def test_a_file_that_cannot_be_read_is_the_users_error(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="No such file"):
        store.put_file(tmp_path / "none")


@pytest.mark.parametrize("operation", ["read", "size_bytes", "range", "materialise"])
def test_a_blob_that_is_not_here_is_said_to_be_missing(store: BlobStore, tmp_path: Path, operation: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: store.read(NOWHERE),
        "size_bytes": lambda: store.size_bytes(NOWHERE),
        "range": lambda: store.read_range(NOWHERE, 0, 1),
        "materialise": lambda: store.materialise(NOWHERE, tmp_path / "out"),
    }
    with pytest.raises(BlobMissingError):
        calls[operation]()


@given(data=st.binary(max_size=200), offset=st.integers(-5, 250), length=st.integers(0, 250))
def test_a_range_is_what_a_slice_would_be(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int, length: int
) -> None:
    store = BlobStore(tmp_path_factory.mktemp("blobs"))
    digest = store.put_bytes(data)
    expected = data[offset : offset + length] if offset >= 0 else b""
    assert store.read_range(digest, offset, length) == expected


def test_a_blob_longer_than_the_bound_is_not_read_into_memory(store: BlobStore) -> None:
    digest = store.put_bytes(b"x" * 100)
    with pytest.raises(InternalError, match="100 bytes; at most 99"):
        store.read(digest, limit_bytes=99)


def test_damage_on_disk_is_found_when_read_and_when_materialised(store: BlobStore, tmp_path: Path) -> None:
    digest = store.put_bytes(b"precious")
    store.path_of(digest).chmod(0o644)
    store.path_of(digest).write_bytes(b"previous")
    with pytest.raises(InternalError, match="damaged"):
        store.read(digest)
    with pytest.raises(InternalError, match="damaged"):
        store.materialise(digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_materialising_links_and_replaces_what_was_there(store: BlobStore, tmp_path: Path) -> None:
    digest = store.put_bytes(b"content")
    (tmp_path / "out").write_bytes(b"old")
    store.materialise(digest, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"content"
    assert (tmp_path / "out").stat().st_ino == store.path_of(digest).stat().st_ino


def test_materialising_copies_where_links_are_impossible(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    digest = store.put_bytes(b"content")
    store.materialise(digest, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"content"


def test_a_full_disk_is_a_storage_error_that_says_so_and_leaves_nothing(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(obstore, "put", full)
    with pytest.raises(StorageError, match="no space left"):
        store.put_bytes(b"x")
    assert files_of(store) == []


def test_a_disk_that_fills_while_a_blob_is_made_durable_leaves_nothing_visible(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blobs_module, "_fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        store.put_bytes(b"x")
    assert files_of(store) == []


def test_many_writers_of_one_digest_do_not_hurt_each_other(store: BlobStore, tmp_path: Path) -> None:
    data = b"z" * 300_000
    (tmp_path / "f").write_bytes(data)
    faults: list[Exception] = []

    def write() -> None:
        try:
            assert store.put_file(tmp_path / "f") == store.put_bytes(data)
        except Exception as error:  # noqa: BLE001 - carried to the test's own thread
            faults.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(files_of(store)) == 1
    assert store.read(digest_bytes(data)) == data
