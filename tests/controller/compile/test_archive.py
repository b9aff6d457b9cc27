"""`.npz` files: bounded reading, canonical writing."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib import format as npy

from edgefleet_controller.compile import archive, npz
from edgefleet_controller.compile.archive import ArchiveError


def write_members(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(name, data)


def header_only(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, {"shape": shape, "fortran_order": False, "descr": dtype})
    return buffer.getvalue()


def test_arrays_survive_a_round_trip(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "a/b:c": np.arange(6, dtype=np.int16).reshape(2, 3),
        "f": np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4))),
        "empty": np.zeros((0, 2), np.float32),
        "one": np.float64(3).reshape(()),
    }
    npz.write(tmp_path / "x.npz", arrays)
    got = npz.read(tmp_path / "x.npz")
    assert got.keys() == arrays.keys()
    for name, array in arrays.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


def test_the_bytes_depend_on_the_arrays_only(tmp_path: Path) -> None:
    one, two = np.ones((3, 2)), np.zeros(4)
    npz.write(tmp_path / "a.npz", {"one": one, "two": two})
    npz.write(tmp_path / "b.npz", {"two": two, "one": np.asfortranarray(one)})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_repacking_what_numpy_wrote_gives_the_canonical_bytes(tmp_path: Path) -> None:
    npz.write(tmp_path / "ours.npz", {"a": np.arange(10)})
    np.savez_compressed(tmp_path / "numpy.npz", a=np.arange(10))
    np.savez(tmp_path / "stored.npz", a=np.arange(10))
    assert archive.repack(tmp_path / "numpy.npz") == archive.repack(tmp_path / "stored.npz")
    assert np.load(io.BytesIO(archive.repack(tmp_path / "ours.npz")))["a"].tolist() == list(range(10))


def test_too_many_arrays_are_refused(tmp_path: Path) -> None:
    write_members(tmp_path / "x.npz", {f"a{number}.npy": b"" for number in range(archive.MAX_ARRAYS + 1)})
    with pytest.raises(ArchiveError, match="65 arrays; allowed: 64"):
        archive.members(tmp_path / "x.npz")


def test_an_archive_that_unpacks_to_too_much_is_refused_before_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_RAW_BYTES", 1000)
    write_members(tmp_path / "x.npz", {"a.npy": b"\x00" * 1001})
    with pytest.raises(ArchiveError, match="1001 bytes unpacked"):
        archive.unpack(tmp_path / "x.npz")


def test_a_size_that_the_directory_understates_is_refused(tmp_path: Path) -> None:
    write_members(tmp_path / "x.npz", {"a.npy": b"\x00" * 5000})
    data = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(data.replace((5000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(ArchiveError):
        archive.unpack(tmp_path / "x.npz")


@pytest.mark.parametrize("shape", [(10**12,), (2**31, 2**31), (5,)])
def test_an_array_that_claims_more_than_it_has_is_refused_without_taking_memory(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    write_members(tmp_path / "x.npz", {"a.npy": header_only(shape)})
    with pytest.raises(ArchiveError, match="claims"):
        npz.read(tmp_path / "x.npz")


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ArchiveError, match="objects"):
        npz.read(tmp_path / "x.npz")


def test_a_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    write_members(tmp_path / "x.npz", {"readme.txt": b"hello"})
    with pytest.raises(ArchiveError, match=r"readme\.txt"):
        archive.members(tmp_path / "x.npz")


@given(st.binary(max_size=300))
def test_no_bytes_make_the_array_parser_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(ArchiveError):
        npz._parse("a", data)


@given(st.binary(max_size=200), st.integers(0, 199))
def test_no_damage_to_an_archive_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.npz"
    sound = archive.pack({"a": header_only((0,))})
    path.write_bytes(sound[:at] + noise + sound[at + len(noise) :])
    with contextlib.suppress(ArchiveError):
        npz.read(path)
