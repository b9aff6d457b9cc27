"""Samples files: what is read, what is refused, and that writing is reproducible."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from edgefleet_agent import samples
from edgefleet_agent.samples import SamplesError, load_arrays, load_samples, save_arrays

FINITE = {"image": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": np.array([1, 2, 3])}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "samples.npz"


def test_samples_and_labels_are_told_apart(file: Path) -> None:
    save_arrays(file, FINITE)
    loaded = load_samples(file)
    assert loaded.n == 3
    assert set(loaded.inputs) == {"image"}
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [1, 2, 3]


def test_labels_may_have_another_name(file: Path) -> None:
    np.savez(file, image=FINITE["image"], truth=FINITE["labels"])
    assert load_samples(file, labels_key="truth").labels is not None


@given(arrays_of.arrays(st.sampled_from([np.float32, np.int64, np.uint8, np.bool_, np.float16]), (2, 3)))
def test_what_is_written_is_read_again_bit_by_bit(tmp_path_factory: pytest.TempPathFactory, value: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    save_arrays(path, {"x/y:z.w": value})
    read = load_arrays(path)["x/y:z.w"]
    assert read.dtype == value.dtype
    assert read.tobytes() == value.tobytes()


def test_equal_arrays_give_equal_bytes_whatever_their_order_in_memory(tmp_path: Path) -> None:
    value = np.arange(6.0).reshape(2, 3)
    save_arrays(tmp_path / "a.npz", {"a": value, "b": value})
    save_arrays(tmp_path / "b.npz", {"b": np.asfortranarray(value), "a": value})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert not list(tmp_path.glob(".*"))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_files_numpy_writes_compressed_fortran_ordered_or_big_endian_are_read(file: Path) -> None:
    value = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.savez_compressed(file, f=value, b=value.astype(">f8"))
    read = load_arrays(file)
    assert read["f"].tolist() == read["b"].tolist() == value.tolist()
    assert read["b"].dtype.isnative


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({}, "no samples"),
        ({"labels": np.array([1])}, "no samples"),
        ({"x": np.zeros((0, 3))}, "no samples"),
        ({"x": np.float32(1.0)}, "one number"),
        ({"x": np.zeros(3), "y": np.zeros(4)}, "number of samples"),
        ({"x": np.zeros(3), "labels": np.zeros(4)}, "3 samples need 3 labels"),
        ({"x": np.array([0.0, 1.0, np.nan])}, "NaN or infinity in sample 2"),
        ({"x": np.array([[0.0], [np.inf]], np.float16)}, "NaN or infinity in sample 1"),
        ({"x": np.array(["text"])}, "numbers and booleans"),
        ({"x": np.array([object()])}, "numbers and booleans"),
        ({"x": np.zeros(2, np.complex64)}, "numbers and booleans"),
    ],
)
def test_samples_that_cannot_be_used_are_refused_with_the_reason(file: Path, arrays: dict[str, Any], word: str) -> None:
    np.savez(file, **arrays)
    with pytest.raises(SamplesError, match=word):
        load_samples(file)


def test_outputs_may_hold_nan(file: Path) -> None:
    save_arrays(file, {"x": np.array([np.nan])})
    assert np.isnan(load_arrays(file)["x"]).all()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="no such file"):
        load_samples(tmp_path / "nothing.npz")


def test_too_many_arrays_are_refused(file: Path) -> None:
    save_arrays(file, {f"x{index}": np.zeros(1) for index in range(samples.MAX_ARRAYS + 1)})
    with pytest.raises(SamplesError, match="65 arrays"):
        load_samples(file)


def test_a_bomb_is_refused_before_it_unpacks(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MAX_BYTES", 1_000_000)
    np.savez_compressed(file, x=np.zeros(10_000_000, np.uint8))
    assert file.stat().st_size < 100_000
    with pytest.raises(SamplesError, match="allowed"):
        load_samples(file)


def test_a_header_that_claims_more_than_is_there_allocates_nothing(file: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**50,)})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    with pytest.raises(SamplesError, match="holds 0"):
        load_samples(file)


def test_two_members_of_one_name_are_refused(file: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(1))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", buffer.getvalue())
        archive.writestr("x", buffer.getvalue())
    with pytest.raises(SamplesError, match="doubled"):
        load_samples(file)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_file_is_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    save_arrays(path, FINITE)
    data = bytearray(path.read_bytes())
    data[at % len(data)] = byte
    path.write_bytes(data)
    try:
        load_samples(path)
    except SamplesError as error:
        assert "a.npz" in str(error)  # noqa: PT017 - both outcomes are right; only another exception is wrong


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_raise_anything_but_its_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    path.write_bytes(b"PK\x03\x04" + data)
    with pytest.raises(SamplesError):
        load_samples(path)
