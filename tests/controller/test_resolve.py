from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgefleet_contract.errors import ManifestError
from edgefleet_controller.load import LoadedManifest, ManifestProblemsError, load_manifest, parse_manifest
from edgefleet_controller.resolve import MAX_SAMPLES_BYTES, MAX_SOURCE_BYTES, ResolvedFile, resolve_files

ONNX = b"\x08\x08\x12\x07pytorch"
NPZ = b"PK\x03\x04 and so on"

Write = Callable[[str, bytes], Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "digits.onnx").write_bytes(ONNX)
    (folder / "digits.npz").write_bytes(NPZ)
    return folder


def manifest(root: Path, source: str = "models/digits.onnx", samples: str = "digits.npz") -> LoadedManifest:
    text = f"""\
fleet: v1
models:
  digits:
    source: {source}
    samples: {samples}
deployments: [{{model: digits, to: all}}]
"""
    return parse_manifest(text, root=root, file="m.yaml")


def problem(root: Path, source: str = "models/digits.onnx", samples: str = "digits.npz") -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        resolve_files(manifest(root, source, samples))
    assert not isinstance(caught.value, ManifestProblemsError)
    return caught.value


def test_every_file_is_found_and_hashed(root: Path) -> None:
    assert resolve_files(manifest(root)) == {
        "models/digits.onnx": ResolvedFile(
            root / "models" / "digits.onnx", "sha256:" + hashlib.sha256(ONNX).hexdigest(), len(ONNX)
        ),
        "digits.npz": ResolvedFile(root / "digits.npz", "sha256:" + hashlib.sha256(NPZ).hexdigest(), len(NPZ)),
    }


def test_calibration_is_resolved_too_and_a_file_named_twice_stands_once(root: Path) -> None:
    (root / "calib.npz").write_bytes(NPZ + b"!")
    text = """\
fleet: v1
models:
  digits: {source: models/digits.onnx, samples: digits.npz, calibration: {file: calib.npz}}
  again: {source: ./models/../models/digits.onnx, samples: digits.npz}
deployments: [{model: digits, to: all}]
"""
    found = resolve_files(parse_manifest(text, root=root, file="m.yaml"))
    assert set(found) == {"models/digits.onnx", "./models/../models/digits.onnx", "digits.npz", "calib.npz"}
    assert found["models/digits.onnx"] == found["./models/../models/digits.onnx"]


def test_the_examples_files_are_all_there(examples: Path) -> None:
    for path in sorted(examples.glob("*.yaml")):
        assert resolve_files(load_manifest(path))


def test_a_missing_file_is_named_as_resolved_with_a_near_name(root: Path) -> None:
    error = problem(root, source="models/digit.onnx")
    assert f"no such file: {root / 'models' / 'digit.onnx'}" in error.message
    assert (error.suggestion, str(error.location)) == ("models/digits.onnx", "m.yaml:4:13")


def test_a_missing_folder_is_named(root: Path) -> None:
    error = problem(root, samples="{file: nowhere/digits.npz}")
    assert error.next_step == f"the folder {root / 'nowhere'} does not exist either"
    assert str(error.location) == "m.yaml:5:21"


@pytest.mark.parametrize("path", ["../outside.onnx", "models/../../outside.onnx", "link.onnx", "linked/outside.onnx"])
def test_a_path_that_leaves_the_folder_is_refused(root: Path, path: str) -> None:
    outside = root.parent / "outside.onnx"
    outside.write_bytes(ONNX)
    (root / "link.onnx").symlink_to(outside)
    (root / "linked").symlink_to(root.parent)
    assert f"leaves the manifest's folder, to {outside}" in problem(root, source=path).message


def test_a_link_that_stays_inside_is_followed(root: Path) -> None:
    (root / "link.onnx").symlink_to("models/digits.onnx")
    found = resolve_files(manifest(root, source="link.onnx"))
    assert found["link.onnx"].path == root / "models" / "digits.onnx"


def test_the_manifests_folder_may_itself_be_a_link(root: Path) -> None:
    alias = root.parent / "alias"
    alias.symlink_to(root)
    assert resolve_files(manifest(alias))["digits.npz"].path == root / "digits.npz"


def test_an_absolute_path_is_refused_even_inside(root: Path) -> None:
    found = problem(root, source=str(root / "models" / "digits.onnx"))
    assert "must be relative" in found.message
    assert found.next_step == "move the file into it"  # a link that leaves the folder would be refused as well


def test_links_in_a_circle_are_refused(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    assert problem(root, source="a").location is not None


def test_a_name_no_system_can_hold_is_refused(root: Path) -> None:
    assert "cannot be followed" in problem(root, source="x" * 300).message


def test_a_folder_or_a_pipe_is_not_a_file(root: Path) -> None:
    os.mkfifo(root / "pipe")
    for name in ("models", "pipe"):
        assert "not a regular file" in problem(root, source=name).message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(root: Path) -> None:
    (root / "digits.npz").chmod(0)
    assert "Permission denied" in problem(root).message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"\n <!DOCTYPE html><html>404", "a web page"),
    ],
)
def test_content_that_is_no_data_at_all_is_refused(root: Path, content: bytes, words: str) -> None:
    (root / "wrong").write_bytes(content)
    for error in (problem(root, source="wrong"), problem(root, samples="wrong")):
        assert words in error.message
        assert error.next_step


@pytest.mark.parametrize(
    ("name", "content", "words", "step"),
    [
        ("wrong", NPZ, "a ZIP archive", "name the model's file"),
        ("m.pth", NPZ, "a PyTorch file", "torch."),
        ("m.h5", b"\x89HDF\r\n", "a Keras file", "load_model"),
        ("m.pt", b"\x80\x02\x8a\n", "never loaded", "torch."),
        ("m.npy", b"\x93NUMPY\1\0", "a NumPy array", "name the model's file"),
    ],
)
def test_a_source_of_another_format_is_refused_with_how_to_convert_it(
    root: Path, name: str, content: bytes, words: str, step: str
) -> None:
    (root / name).write_bytes(content)
    error = problem(root, source=name)
    assert words in error.message
    assert ".tflite" in error.message
    assert step in (error.next_step or "")


def test_a_saved_model_is_refused_with_how_to_convert_it(root: Path) -> None:
    (root / "saved").mkdir()
    (root / "saved" / "saved_model.pb").write_bytes(b"x")
    error = problem(root, source="saved")
    assert "a TensorFlow SavedModel" in error.message
    assert "--saved-model" in (error.next_step or "")


def test_a_function_of_the_users_is_resolved_to_the_file_it_stands_in(root: Path) -> None:
    (root / "nets").mkdir()
    (root / "nets" / "small.py").write_bytes(b"def make(): ...\n")
    found = resolve_files(manifest(root, source='"nets.small:make"'))
    assert found["nets.small:make"].path == root / "nets" / "small.py"
    assert f"no such file: {root / 'nets' / 'large.py'}" in problem(root, source='"nets.large:make"').message


def test_python_code_without_a_function_is_refused(root: Path) -> None:
    (root / "net.py").write_bytes(b"def make(): ...\n")
    error = problem(root, source="net.py")
    assert "is Python code" in error.message
    assert "net:FUNCTION" in (error.next_step or "")


def test_an_exported_program_is_a_zip_archive(root: Path) -> None:
    (root / "m.pt2").write_bytes(NPZ)
    assert "m.pt2" in resolve_files(manifest(root, source="m.pt2"))
    (root / "m.pt2").write_bytes(ONNX)
    assert "torch.export.save" in problem(root, source="m.pt2").message


def test_a_tflite_file_is_a_source(root: Path) -> None:
    (root / "m.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    assert "m.tflite" in resolve_files(manifest(root, source="m.tflite"))


@pytest.mark.parametrize("content", [ONNX, b"\x93NUMPY\1\0", b"a,b\n1,2\n"])
def test_samples_of_another_format_are_refused(root: Path, content: bytes) -> None:
    (root / "wrong").write_bytes(content)
    assert "(`.npz`)" in (text := problem(root, samples="wrong").message) or "not an `.npz` file" in text


@pytest.mark.parametrize(("key", "limit_bytes"), [("source", MAX_SOURCE_BYTES), ("samples", MAX_SAMPLES_BYTES)])
def test_a_file_too_large_is_refused_without_being_read(root: Path, key: str, limit_bytes: int) -> None:
    with (root / "large").open("wb") as stream:
        stream.truncate(limit_bytes + 1)  # sparse
    assert "allowed: " in problem(root, **{key: "large"}).message


def test_all_files_that_are_wrong_are_told_at_once(root: Path) -> None:
    with pytest.raises(ManifestProblemsError) as caught:
        resolve_files(manifest(root, "absent.onnx", "../x.npz"))
    assert [str(each.location) for each in caught.value.problems] == ["m.yaml:4:13", "m.yaml:5:14"]
