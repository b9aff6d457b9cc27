"""Small models and samples for the compiler's tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_contract.manifest import ModelSpec
from edgefleet_controller.api import FileRef
from edgefleet_controller.blobs import BlobStore
from edgefleet_controller.build import Builder, MemoryBuildCache

Model = onnx.ModelProto


def classifier(
    *,
    opset: int = 17,
    ir_version: int = 8,
    input_type: int = TensorProto.FLOAT,
    shape: tuple[int | str, ...] = ("batch", 4),
    op_type: str = "Relu",
    domain: str = "",
) -> Model:
    """Return a model `x` f32[batch, 4] → `logits` f32[batch, 3]: Gemm and one more operator."""
    generator = np.random.default_rng(0)
    weights = numpy_helper.from_array(generator.normal(size=(4, 3)).astype(np.float32), "weights")
    nodes = [
        helper.make_node("Gemm", ["x", "weights"], ["hidden"], name="gemm"),
        helper.make_node(op_type, ["hidden"], ["logits"], name="last", domain=domain),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", input_type, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [weights],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = ir_version
    return model


@pytest.fixture
def make_classifier() -> Callable[..., Model]:
    return classifier


@pytest.fixture
def good_arrays() -> dict[str, np.ndarray[Any, Any]]:
    """80 samples that fit `classifier`, and labels of its three classes."""
    generator = np.random.default_rng(1)
    return {
        "x": generator.normal(size=(80, 4)).astype(np.float32),
        "labels": generator.integers(0, 3, size=80),
    }


class Bench:
    """A builder on a fresh folder, with the files of one model."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work_dir = root / "work"
        self.blobs = BlobStore(root / "blobs")
        self.cache = MemoryBuildCache()
        self.files: dict[str, FileRef] = {}
        self.builder = self.another_builder()

    def another_builder(self, **settings: Any) -> Builder:
        return Builder(self.blobs, self.cache, self.work_dir, **settings)

    def put(self, path: str, data: bytes) -> None:
        digest = self.blobs.put_bytes(data)
        self.files[path] = FileRef(digest=digest, size_bytes=len(data))

    def put_arrays(self, path: str, arrays: Mapping[str, Any]) -> None:
        file = self.root / "given.npz"
        np.savez(file, **arrays)
        self.put(path, file.read_bytes())

    def check(self, **spec: Any) -> Any:
        return self.builder.check(
            "tiny", ModelSpec.model_validate({"source": "m.onnx", "samples": "s.npz", **spec}), self.files
        )


@pytest.fixture
def bench(tmp_path: Path, good_arrays: Mapping[str, Any]) -> Bench:
    made = Bench(tmp_path)
    made.put("m.onnx", classifier().SerializeToString())
    made.put_arrays("s.npz", good_arrays)
    return made


@pytest.fixture(scope="session")
def quantised() -> Any:
    """Return the module beside this file that makes models and requests for quantisation: tests are no package."""
    spec = importlib.util.spec_from_file_location("quantised", Path(__file__).with_name("quantised.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
