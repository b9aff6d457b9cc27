"""Fixtures of the runtimes' tests: small TFLite files, and a LiteRT delegate compiled here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefleet_agent.samples import load_samples, save_arrays
from edgefleet_agent.tasks import open_model, outputs_of
from edgefleet_contract.artifact import (
    ArtifactDocument,
    ArtifactFile,
    FileRole,
    InputTransform,
    IoContract,
    TensorMap,
)
from edgefleet_contract.base import digest_bytes

NATIVE = Path(__file__).parent / "native"
ROLES = {
    "model.tflite": FileRole.MODEL,
    "samples.npz": FileRole.SAMPLES,
    "source_outputs.npz": FileRole.SOURCE_OUTPUTS,
    "artifact_outputs.npz": FileRole.ARTIFACT_OUTPUTS,
}
_FLOAT16 = 1
"""In schema.fbs's enumeration of tensor types."""
CHANNELS_LAST = TensorMap(name="image", axes=(0, 2, 3, 1))


@pytest.fixture(scope="session")
def tflite_data(repository: Path) -> Path:
    return repository / "tests/data/tflite"


@pytest.fixture(scope="session")
def digits_tflite(tflite_data: Path) -> Path:
    return tflite_data / "digits_fp32.tflite"


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Eight inputs of the digit model in the source's order, f32[8,1,28,28]."""
    return np.random.default_rng(7).standard_normal((8, 1, 28, 28)).astype(np.float32)


@pytest.fixture(scope="session")
def compile_native(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that compiles a C file of `native/` into a shared library; skips where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    folder = tmp_path_factory.mktemp("native")

    def compiled(name: str) -> Path:
        if compiler is None:
            pytest.skip("no C compiler here, so no delegate can be compiled; install gcc")
        library = folder / f"lib{name}.so"
        argv = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
        subprocess.run([*argv, "-o", str(library), str(NATIVE / f"{name}.c")], check=True)
        return library

    return compiled


@pytest.fixture(scope="session")
def delegate_library(compile_native: Callable[[str], Path]) -> Path:
    """A LiteRT external delegate that takes FULLY_CONNECTED and does what its option `mode` says."""
    return compile_native("delegate")


UseDelegate = Callable[[str, str], None]


@pytest.fixture
def use_delegate(delegate_library: Path, monkeypatch: pytest.MonkeyPatch) -> UseDelegate:
    """A function that makes an engine (`gpu`) the test delegate in a mode (`crash`), here and in workers."""

    def use(engine: str, mode: str) -> None:
        variable = f"EDGEFLEET_TFLITE_DELEGATE_{engine.upper()}"
        monkeypatch.setenv(variable, str(delegate_library))
        monkeypatch.setenv(f"{variable}_OPTIONS", f"mode={mode}")

    return use


@pytest.fixture(scope="session")
def digits_files(
    digit_model: Path,
    digit_samples: Path,
    digits_tflite: Path,
    digit_preprocess: dict[str, InputTransform],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The digit model converted to TFLite, its samples, and both outputs, as a builder would lay them out."""
    folder = tmp_path_factory.mktemp("tflite-artifact")
    shutil.copy(digits_tflite, folder / "model.tflite")
    shutil.copy(digit_samples, folder / "samples.npz")
    outputs = outputs_of(open_model(digit_model, "ort/cpu/fp32"), load_samples(digit_samples), digit_preprocess)
    save_arrays(folder / "source_outputs.npz", outputs)
    save_arrays(folder / "artifact_outputs.npz", outputs)
    return folder


MakeTflite = Callable[[str], tuple[Path, ArtifactDocument]]


@pytest.fixture
def tflite_artifact(
    digits_files: Path, digit_model: Path, digit_preprocess: dict[str, InputTransform], tmp_path: Path
) -> MakeTflite:
    """A function that makes an artifact folder of a variant, and returns it with its document."""
    source = open_model(digit_model, "ort/cpu/fp32")
    io = IoContract(
        inputs=source.inputs,
        outputs=source.outputs,
        preprocess=digit_preprocess,
        input_map={"image": CHANNELS_LAST},
    )

    def make(variant: str) -> tuple[Path, ArtifactDocument]:
        files = []
        for name, role in ROLES.items():
            data = (digits_files / name).read_bytes()
            files.append(ArtifactFile(name=name, role=role, size_bytes=len(data), digest=digest_bytes(data)))
        document = ArtifactDocument(
            model="digits",
            variant=variant,
            source=digest_bytes(b"source"),
            io=io,
            files=tuple(files),
            build_key=digest_bytes(b"key"),
        )
        folder = tmp_path / document.digest.removeprefix("sha256:")
        if not folder.exists():
            shutil.copytree(digits_files, folder)
            (folder / "artifact.json").write_bytes(document.canonical_json())
        return folder, document

    return make


@pytest.fixture(scope="session")
def odd_type(tmp_path_factory: pytest.TempPathFactory, tflite_data: Path) -> Path:
    """The wake word with a constant declared float16: sound as a file, but the kernel it is for does not take it."""
    data = bytearray((tflite_data / "okay_nabu.tflite").read_bytes())
    data[_type_of_tensor(data, b"model_1/tf.split_3/Const")] = _FLOAT16
    path = tmp_path_factory.mktemp("odd") / "odd.tflite"
    path.write_bytes(data)
    return path


def _type_of_tensor(data: bytearray, name: bytes) -> int:
    """Return where the type byte of the tensor of this name lies; field 1 of table Tensor in schema.fbs."""

    def offset(at: int, size: int = 4, *, signed: bool = False) -> int:
        return int.from_bytes(data[at : at + size], "little", signed=signed)

    def field(table: int, index: int) -> int:
        vtable = table - offset(table, signed=True)
        return table + offset(vtable + 4 + 2 * index, 2)

    def table_at(at: int) -> int:
        return at + offset(at)

    model = table_at(0)
    subgraphs = table_at(field(model, 2))
    tensors = table_at(field(table_at(subgraphs + 4), 0))
    for index in range(offset(tensors)):
        tensor = table_at(tensors + 4 + 4 * index)
        text = table_at(field(tensor, 3))
        if bytes(data[text + 4 : text + 4 + offset(text)]) == name:
            return field(tensor, 1)
    raise LookupError(name)
