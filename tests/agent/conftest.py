"""Fixtures for the worker's tests: the digit model as an artifact folder, and small budgets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_agent.samples import save_arrays
from edgefleet_agent.tasks import open_model, outputs_of
from edgefleet_contract.artifact import ArtifactDocument, ArtifactFile, FileRole, InputTransform, IoContract, Layout
from edgefleet_contract.base import digest_bytes
from edgefleet_contract.job import LatencyBudget

SAMPLES_N = 64
FILES = {
    "model.onnx": FileRole.MODEL,
    "samples.npz": FileRole.SAMPLES,
    "source_outputs.npz": FileRole.SOURCE_OUTPUTS,
    "artifact_outputs.npz": FileRole.ARTIFACT_OUTPUTS,
}
ZERO_DIGEST = "sha256:" + "0" * 64


@pytest.fixture(scope="session")
def digit_model(examples: Path) -> Path:
    return examples / "models" / "mnist_cnn_fp32.onnx"


@pytest.fixture(scope="session")
def digit_preprocess() -> dict[str, InputTransform]:
    return {"image": InputTransform(sample_layout=Layout.NHW, layout=Layout.NCHW, mean=33.3285, std=78.5655)}


@pytest.fixture(scope="session")
def digit_samples(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "samples.npz"
    with np.load(examples / "data" / "digits.npz") as data:
        save_arrays(path, {"image": data["image"][:SAMPLES_N], "labels": data["labels"][:SAMPLES_N]})
    return path


@pytest.fixture
def small_budget() -> LatencyBudget:
    """A latency run of some milliseconds: what it measures is not the point."""
    return LatencyBudget(min_n=40, max_n=60, min_duration_s=0.0, max_duration_s=2.0, warmup_max_s=0.02)


@pytest.fixture(scope="session")
def golden_artifact(
    tmp_path_factory: pytest.TempPathFactory,
    digit_model: Path,
    digit_samples: Path,
    digit_preprocess: dict[str, InputTransform],
) -> Path:
    from edgefleet_agent.samples import load_samples

    folder = tmp_path_factory.mktemp("artifact")
    shutil.copy(digit_model, folder / "model.onnx")
    shutil.copy(digit_samples, folder / "samples.npz")
    session = open_model(digit_model, "ort/cpu/fp32")
    outputs = outputs_of(session, load_samples(digit_samples), digit_preprocess)
    save_arrays(folder / "source_outputs.npz", outputs)
    save_arrays(folder / "artifact_outputs.npz", outputs)
    write_document(folder, preprocess=digit_preprocess)
    return folder


def write_document(
    folder: Path,
    *,
    variant: str = "ort/cpu/fp32",
    preprocess: dict[str, InputTransform],
    leave_out: tuple[str, ...] = (),
    min_runtime: dict[str, str] | None = None,
    provider_options: dict[str, str] | None = None,
) -> ArtifactDocument:
    session = open_model(folder / "model.onnx", "ort/cpu/fp32")
    files = []
    for name, role in FILES.items():
        if name not in leave_out:
            data = (folder / name).read_bytes()
            files.append(ArtifactFile(name=name, role=role, size_bytes=len(data), digest=digest_bytes(data)))
    document = ArtifactDocument(
        model="digits",
        variant=variant,
        source=ZERO_DIGEST,
        io=IoContract(inputs=session.inputs, outputs=session.outputs, preprocess=preprocess),
        files=tuple(files),
        build_key=ZERO_DIGEST,
        min_runtime=min_runtime or {},
        provider_options=provider_options or {},
    )
    (folder / "artifact.json").write_bytes(document.canonical_json())
    return document


MakeArtifact = Callable[..., Path]


@pytest.fixture
def make_artifact(golden_artifact: Path, tmp_path: Path, digit_preprocess: dict[str, InputTransform]) -> MakeArtifact:
    """A function that copies the golden artifact and declares it as asked (variant, leave_out, min_runtime)."""

    def make(*, prepare: Callable[[Path], None] | None = None, **said: object) -> Path:
        folder = tmp_path / "artifact"
        shutil.copytree(golden_artifact, folder)
        if prepare is not None:
            prepare(folder)
        write_document(folder, preprocess=digit_preprocess, **said)  # type: ignore[arg-type]
        return folder

    return make


@pytest.fixture
def recurrent(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes `y`, `hidden` = f(x, before) as NAME.onnx, a small net that passes a state on.

    What it passes on is `kept` (`before`: what came in), its weights are those of half precision (`half`), its
    answer's are `gain` times the sound ones.
    """

    def write(name: str, *, kept: str = "next", half: bool = False, gain: float = 1.0) -> Path:
        random = np.random.default_rng(3)
        weights = {"wx": (4, 8, 0.7), "wh": (8, 8, 0.3), "wy": (8, 5, gain)}
        values = {name: random.normal(size=(rows, columns)) * size for name, (rows, columns, size) in weights.items()}
        rounded = {name: each.astype(np.float16 if half else np.float32) for name, each in values.items()}
        nodes = [
            helper.make_node("MatMul", ["x", "wx"], ["left"]),
            helper.make_node("MatMul", ["before", "wh"], ["right"]),
            helper.make_node("Add", ["left", "right"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["next"]),
            helper.make_node("MatMul", ["next", "wy"], ["y"]),
            helper.make_node("Identity", [kept], ["hidden"]),
        ]
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes,
            "recurrent",
            [value("x", TensorProto.FLOAT, [1, 4]), value("before", TensorProto.FLOAT, [1, 8])],
            [value("y", TensorProto.FLOAT, [1, 5]), value("hidden", TensorProto.FLOAT, [1, 8])],
            [numpy_helper.from_array(each.astype(np.float32), name) for name, each in rounded.items()],
        )
        path = tmp_path / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path

    return write
