"""Sources whose weights lie in other files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from edgefleet_contract.errors import ManifestError, UserInputError
from edgefleet_controller.compile.sources import one_file
from edgefleet_controller.load import load_manifest
from edgefleet_controller.resolve import resolve_files

WEIGHTS = np.random.default_rng(1).normal(size=(64, 32)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])],
        [onnx.numpy_helper.from_array(WEIGHTS, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path = tmp_path / "fleet" / "m.onnx"
    path.parent.mkdir()
    onnx.save(made, path, save_as_external_data=True, location="m.weights", size_threshold=0)
    return path


def relocated(path: Path, **entries: str) -> None:
    """Let the weight lie elsewhere, as the model file says."""
    made = onnx.load(path, load_external_data=False)
    for entry in made.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(made.SerializeToString())


def test_a_model_is_joined_with_its_weights_and_computes_the_same(model: Path) -> None:
    joined = one_file.plain(model, model.parent, "m.onnx")
    x = np.ones((1, 64), np.float32)
    alone = ort.InferenceSession(joined.read_bytes()).run(None, {"x": x})[0]
    np.testing.assert_array_equal(alone, ort.InferenceSession(str(model)).run(None, {"x": x})[0])
    assert one_file.plain(joined, joined.parent, "m.onnx") == joined


def test_the_same_content_gives_the_same_bytes_wherever_it_lies(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    model.parent.rename(other)
    model.parent.mkdir()
    for name in ("m.onnx", "m.weights"):
        (model.parent / name).write_bytes((other / name).read_bytes())
    one, two = (one_file.plain(folder / "m.onnx", folder, "m").read_bytes() for folder in (other, model.parent))
    assert one == two


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda path: (path.parent / "m.weights").unlink(), "not there"),
        (lambda path: (path.parent / "m.weights").write_bytes(b"short"), "has 5"),
        (lambda path: relocated(path, location="../outside"), "leaves the folder"),
        (lambda path: relocated(path, location="/etc/passwd"), "leaves the folder"),
        (lambda path: relocated(path, offset="99999999"), "from byte 99999999"),
    ],
)
def test_weights_that_cannot_be_had_are_named_and_nothing_is_read(
    break_it: Callable[[Path], object], said: str, model: Path
) -> None:
    (model.parent.parent / "outside").write_bytes(WEIGHTS.tobytes())
    break_it(model)
    with pytest.raises(UserInputError, match=said) as caught:
        one_file.plain(model, model.parent, "m.onnx")
    assert "'w'" in str(caught.value)


def test_a_manifest_takes_such_a_model_and_says_where_it_is_wrong(model: Path) -> None:
    np.savez(model.parent / "s.npz", x=np.ones((4, 64), np.float32))
    manifest = model.parent / "fleet.yaml"
    manifest.write_text(
        "fleet: v1\nmodels: {m: {source: m.onnx, samples: s.npz}}\ndeployments: [{model: m, to: all}]\n"
    )
    found = resolve_files(load_manifest(manifest))
    assert found["m.onnx"].size_bytes > WEIGHTS.nbytes
    (model.parent / "m.weights").unlink()
    with pytest.raises(ManifestError, match=r"m\.weights"):
        resolve_files(load_manifest(manifest))
