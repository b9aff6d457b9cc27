"""Everything a user can get wrong, through the command line: a clear error, its exit code, and nothing changed."""

from __future__ import annotations

import io
import os
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner, Result

from edgefleet_controller.api import Empty
from edgefleet_controller.cli.app import app
from edgefleet_controller.stack.supervisor import Programs, StackOptions
from edgefleet_hil.rig import Rig
from edgefleet_hil.short_disk import AGENT, DISK_BYTES

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

Arrays = dict[str, Any]
Project = Callable[..., Path]

MANIFEST = """\
fleet: v1
models:
  tiny: {source: tiny.onnx, samples: tiny.npz}
deployments:
  - {model: tiny, to: all, chain: [ort/cpu/fp32]}
"""


def model(*, opset: int = 17, op_type: str = "Relu", domain: str = "") -> bytes:
    """Return `x` f32[batch, 4] → `y` f32[batch, 3], as a file: Gemm and one more operator."""
    weights = numpy_helper.from_array(np.ones((4, 3), np.float32), "weights")
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "weights"], ["hidden"], name="gemm"),
            helper.make_node(op_type, ["hidden"], ["y"], name="last", domain=domain),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [weights],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    made = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = 8
    data = made.SerializeToString()
    assert isinstance(data, bytes)
    return data


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def good_arrays() -> Arrays:
    return {"x": np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32), "labels": np.arange(40) % 3}


def samples(**changed: Any) -> bytes:
    return npz(**{**good_arrays(), **changed})


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Write a manifest with a small sound model and samples, or with what the test gives instead."""

    def make(text: str = MANIFEST, **files: bytes) -> Path:
        contents = {
            "tiny.onnx": model(),
            "tiny.npz": samples(),
            **{name.replace("_", "."): files[name] for name in files},
        }
        for name, data in contents.items():
            (tmp_path / name).write_bytes(data)
        path = tmp_path / "manifest.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def fleet(home: Path, *words: str) -> Result:
    """Run a command line as `fleet` does, with the real stack behind it, in this process for speed."""
    return CliRunner().invoke(app, list(words), env={"FLEET_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "200"})


def complaint(result: Result, *words: str, code: int = 2) -> str:
    """Check that a command ended with this code, said these words and printed no data; return what it said."""
    assert result.exit_code == code, (result.output, result.exception)
    for word in words:
        assert word in result.stderr, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


# -- what is found before anything is started ------------------------------------------------------------------


def bomb() -> str:
    """Ten levels of ten: ten thousand million values, if anybody counted them."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for level in "bcdefghij":
        before = chr(ord(level) - 1)
        lines.append(f"{level}: &{level} [{', '.join([f'*{before}'] * 10)}]")
    return "\n".join(lines) + "\n"


BEFORE_ANYTHING = {
    "missing source": (MANIFEST.replace("tiny.onnx", "nowhere.onnx"), ["manifest.yaml:3:", "nowhere.onnx"]),
    "missing samples": (MANIFEST.replace("tiny.npz", "tiny.nzp"), ["manifest.yaml:3:", "tiny.nzp"]),
    "source is a folder": (MANIFEST.replace("source: tiny.onnx", "source: ."), ["manifest.yaml:3:"]),
    "unknown key": (
        MANIFEST.replace("samples: tiny.npz", "samples: tiny.npz, taks: regression"),
        ["manifest.yaml:3:", "'taks'", "allowed:", "did you mean 'task'"],
    ),
    "misspelt required key": (MANIFEST.replace("source:", "sorce:"), ["'sorce'", "did you mean 'source'"]),
    "bad unit": (
        MANIFEST.replace("chain:", "accept: {latency: {p95: 20 msec}}, chain:"),
        ["manifest.yaml:5:", "unknown unit 'msec'", "did you mean 'ms'"],
    ),
    "no unit": (
        MANIFEST.replace("chain:", "accept: {memory: {peak: 20}}, chain:"),
        ["manifest.yaml:5:", "write a number and a unit", "'20'"],
    ),
    "true for a number": (
        MANIFEST.replace("samples: tiny.npz", "samples: tiny.npz, preprocess: {x: {scale: true}}"),
        ["manifest.yaml:3:", "x.scale: expected a number", "'true'"],
    ),
    "duplicate model": (
        MANIFEST.replace("models:", "models:\n  tiny: {source: tiny.onnx, samples: tiny.npz}"),
        ["manifest.yaml:4:3", "stands twice", "first at", "'tiny'"],
    ),
    "duplicate key": (MANIFEST + "models: {}\n", ["manifest.yaml:6:1", "stands twice", "'models'"]),
    "deployed twice": (MANIFEST + "  - {model: tiny, to: all}\n", ["manifest.yaml:6:", "twice", "keep one of the two"]),
    "unknown model": (
        MANIFEST.replace("model: tiny", "model: tinny"), ["manifest.yaml:5:", "'tinny'", "did you mean 'tiny'"],
    ),
    "path leaves its folder": (
        MANIFEST.replace("source: tiny.onnx", "source: ../../etc/passwd"), ["manifest.yaml:3:", "leaves", "passwd"],
    ),
    "absolute path": (MANIFEST.replace("source: tiny.onnx", "source: /etc/passwd"), ["manifest.yaml:3:", "relative"]),
    "link that leaves": (MANIFEST.replace("source: tiny.onnx", "source: link.onnx"), ["manifest.yaml:3:", "leaves"]),
    "yaml bomb": (bomb(), ["manifest.yaml:1:4", "anchors are not allowed"]),
    "alias": (MANIFEST.replace("to: all", "to: *everyone"), ["manifest.yaml:5:", "aliases are not allowed: *everyone"]),
    "merge key": (MANIFEST + "classes: {<<: {}}\n", ["manifest.yaml:6:", "merge keys are not allowed"]),
    "deep nesting": ("[" * 5000, ["manifest.yaml:1:", "nested deeper than"]),
    "a tag": (MANIFEST.replace("v1", "!!python/object/apply:os.system [true]"), ["manifest.yaml:1:"]),
    "not YAML": ("fleet: v1\nmodels: {a: [}\n", ["manifest.yaml:2:", "not YAML"]),
    "empty": ("", ["manifest is empty", "fleet: v1"]),
    "50 MB": ("# " + "x" * 50_000_000, ["larger than 1048576 bytes"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BEFORE_ANYTHING)
def test_what_is_wrong_in_the_manifest_is_told_with_its_place_before_anything_is_started(
    project: Project, tmp_path: Path, case: str
) -> None:
    text, words = BEFORE_ANYTHING[case]
    path = project(text)
    (tmp_path / "link.onnx").symlink_to("/etc/passwd")
    said = complaint(fleet(tmp_path / "home", "apply", str(path)), *words)
    assert said.count("error: ") == 1
    assert not (tmp_path / "home").exists()
    assert children() == []


def test_samples_that_are_no_archive_are_told_before_anything_is_started(project: Project, tmp_path: Path) -> None:
    path = project(tiny_npz=b"no archive")
    complaint(fleet(tmp_path / "home", "apply", str(path)), "manifest.yaml:3:", "not an `.npz` file", "next: ")
    assert not (tmp_path / "home").exists()


def test_a_manifest_that_is_not_there_or_no_file_is_told(tmp_path: Path) -> None:
    complaint(fleet(tmp_path / "home", "apply", str(tmp_path / "none.yaml")), "none.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    complaint(fleet(tmp_path / "home", "apply", str(tmp_path / "pipe.yaml")), "not a regular file", "next: ")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("command", ["apply", "up"])
def test_a_home_that_cannot_be_written_is_told_with_what_to_set(project: Project, tmp_path: Path, command: str) -> None:
    path = project()
    (tmp_path / "file").touch()
    words = [command, str(path)] if command == "apply" else [command]
    complaint(fleet(tmp_path / "file" / "home", *words), "cannot write to the fleet's home", "FLEET_HOME")


def test_a_broker_port_in_use_is_told_and_leaves_the_home_free(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = complaint(fleet(tmp_path / "home", "up", "--broker-port", str(port)), f"--broker-port {port}", "in use")
    assert "next: stop the program that uses it" in said
    assert not (tmp_path / "home" / "run" / "stack.json").exists()
    assert children() == []


# -- what only the controller can find; one stack serves all cases --------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A stack as `fleet up` runs it."""
    with Rig(tmp_path_factory.mktemp("shared") / "home") as rig:
        yield rig
    assert rig.orphans() == []


def children() -> list[psutil.Process]:
    """Processes this one started, as far as they run."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def nothing_changed(rig: Rig) -> None:
    """Check that no apply was taken, no device was told anything, and only the stack's own processes run."""
    assert rig.api.status(Empty()).revision is None
    assert [row.desired_generation for row in rig.api.devices(Empty()).devices] == [0]
    assert rig.active("tiny") is None
    assert {process.pid for process in children()} == set(rig.stack.pids().values())


IN_FILES: dict[str, tuple[dict[str, bytes], list[str]]] = {
    "empty model": ({"tiny_onnx": b""}, ["tiny.onnx", "is empty"]),
    "truncated model": ({"tiny_onnx": model()[:-40]}, ["tiny.onnx"]),
    "not a model": ({"tiny_onnx": b"hello, this is text"}, ["tiny.onnx", "not an ONNX model"]),
    "unknown opset": ({"tiny_onnx": model(opset=99)}, ["tiny.onnx", "opset 99", "knows 7 to"]),
    "custom operator": (
        {"tiny_onnx": model(op_type="MyRelu", domain="my.company")}, ["'last'", "'MyRelu'", "my.company"],
    ),
    "samples of another name": (
        {"tiny_npz": npz(xx=good_arrays()["x"])}, ["tiny.npz", "no array 'x'", "'xx'", "did you mean 'xx'"],
    ),
    "samples of another shape": (
        {"tiny_npz": samples(x=np.zeros((40, 5), np.float32))}, ["tiny.npz", "[40, 5]", "[batch, 4]"],
    ),
    "samples of another dtype": (
        {"tiny_npz": samples(x=np.ones((40, 4), np.uint8))}, ["tiny.npz", "uint8", "float32", "preprocess"],
    ),
    "NaN in samples": (
        {"tiny_npz": samples(x=np.where(np.arange(160).reshape(40, 4) == 12, np.nan, 1).astype(np.float32))},
        ["tiny.npz", "1 of 40 samples", "sample 3"],
    ),
    "labels of another length": (
        {"tiny_npz": samples(labels=np.zeros(39, np.int64))}, ["tiny.npz", "39 labels for 40 samples"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", IN_FILES)
def test_what_is_wrong_in_a_file_is_told_at_the_place_that_names_it_and_nothing_changes(
    running: Rig, project: Project, case: str
) -> None:
    files, words = IN_FILES[case]
    result = fleet(running.home.root, "apply", str(project(**files)))
    said = complaint(result, "manifest.yaml:3:", "next: ", *words)
    assert said.count("error: ") == 1
    nothing_changed(running)


@pytest.mark.parametrize("target", ["site=moon", "jetson"])
def test_a_target_that_matches_no_device_is_told_with_those_there_are(
    running: Rig, project: Project, target: str
) -> None:
    path = project(MANIFEST.replace("to: all", f"to: '{target}'"))
    complaint(fleet(running.home.root, "apply", str(path)), "manifest.yaml:5:", target, "local")
    nothing_changed(running)


def test_a_samples_bomb_is_refused_by_its_size_and_not_unpacked(running: Rig, project: Project) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 4)})
        archive.writestr("x.npy", head.getvalue() + bytes(2**20))
    complaint(fleet(running.home.root, "apply", str(project(tiny_npz=stream.getvalue()))), "tiny.npz")
    nothing_changed(running)


def test_a_disk_that_fills_up_while_fetching_ends_the_apply_with_the_reason_and_the_old_model_serves(
    tmp_path: Path, project: Project
) -> None:
    options = StackOptions(shared=True, programs=Programs(agent=AGENT), env={DISK_BYTES: "16384"})
    with Rig(tmp_path / "home", options) as rig:
        assert fleet(rig.home.root, "apply", str(project())).exit_code == 0
        before = rig.active("tiny")
        larger = {"x": np.random.default_rng(1).normal(size=(4000, 4)).astype(np.float32)}
        result = fleet(rig.home.root, "apply", str(project(tiny_npz=npz(**larger))))
        assert result.exit_code == 3, result.output
        assert "local/tiny: refused" in result.stderr
        assert "No space left on device" in result.stderr
        assert "next: fleet evidence" in result.stderr
        assert before is not None
        assert rig.active("tiny") == before
        assert (before / "model.onnx").is_file()
    assert rig.orphans() == []


def test_onnx_is_what_the_models_here_are_made_with() -> None:
    onnx.checker.check_model(onnx.load_from_string(model()))
