"""PyTorch as a source: exported to ONNX, and compared with what PyTorch itself computes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_contract.base import digest_bytes
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import Verdict
from edgefleet_controller.build import Built, ChildSteps, NotBuilt
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.protocol import IngestAnswer, Origin
from edgefleet_controller.compile.sources import formats as sources
from edgefleet_controller.compile.sources import torch as sources_torch

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is an extra and is not installed here")

NET = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 8)
        self.last = nn.Linear(8, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.last(self.dropout(torch.relu(self.inner(x))))


def make():
    torch.manual_seed(0)
    return Net()


def unseeded():
    return Net()


def nothing():
    return 3


def broken():
    raise KeyError("weights")
"""


# -- what a source is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "head", "form"),
    [
        ("m.onnx", b"\x08\x08", "onnx"),
        ("m.tflite", b"\x1c\0\0\0TFL3", "tflite"),
        ("m.pt2", b"PK\x03\x04", "torch-program"),
        ("net:make", b"import torch", "torch-module"),
        ("nets.small:make", b"", "torch-module"),
    ],
)
def test_the_format_is_told_by_name_and_first_bytes(text: str, head: bytes, form: str) -> None:
    assert sources.format_of(text, head) == form


def test_a_function_names_the_file_it_stands_in() -> None:
    assert sources.hook_of("nets.small:make") == ("nets/small.py", "make")
    assert sources.hook_of("models/m.onnx") is None


# -- without PyTorch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("found", "words"), [(None, "no PyTorch is installed"), ("2.4.1", r"PyTorch 2\.4\.1 is")])
def test_pytorch_that_is_missing_or_too_old_is_said_with_the_extras_name(
    monkeypatch: pytest.MonkeyPatch, found: str | None, words: str
) -> None:
    def version(name: str) -> str:
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(sources_torch, "version", version)
    with pytest.raises(CompileFaultError, match=words) as caught:
        sources_torch.open_program(Path("m.pt2"))
    assert "edgefleet[torch]" in (caught.value.next_step or "")


@pytest.mark.skipif(find_spec("torch") is not None, reason="PyTorch is installed here")
def test_an_apply_is_refused_where_pytorch_is_not_installed(bench: Any) -> None:
    bench.put("net:make", NET.encode())
    with pytest.raises(UserInputError, match="no PyTorch is installed on the controller") as caught:
        bench.check(source="net:make")
    assert "edgefleet[torch]" in (caught.value.next_step or "")


class Exporting(ChildSteps):
    """Checks as if the ONNX source had been exported from PyTorch, which computed `factor` times as much."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def ingest(self, request: Any) -> IngestAnswer:
        answer = super().ingest(request)
        folder = Path(request.out_dir)
        (folder / "exported.onnx").write_bytes(Path(request.source).read_bytes())
        with np.load(folder / "samples.npz") as golden:
            outputs = outputs_of(Path(request.source), {"x": golden["x"]})
        npz.write(folder / "reference.npz", {"logits": outputs * np.float32(self.factor)})
        return answer.model_copy(
            update={
                "origin": Origin(
                    digest=digest_bytes(b"the user's file"), framework="PyTorch 2.13.0", tools={"torch": "2.13.0"}
                )
            }
        )


def outputs_of(model: Path, feeds: Mapping[str, Any]) -> Any:
    from edgefleet_controller.compile.ort import session

    return session.Session(model).run(feeds)[0]


def test_an_export_that_computes_something_else_is_refused(bench: Any) -> None:
    builder = bench.another_builder(steps=Exporting(1.04))
    bench.builder = builder
    outcome = builder.build(bench.check(), "ort/cpu/fp32")
    assert isinstance(outcome, NotBuilt)
    assert outcome.tried.verdict is Verdict.BUILD_FAILED
    assert "parity with the source failed" in (outcome.tried.reason or "")


def test_an_artifact_says_that_pytorch_was_the_reference_and_what_it_was_exported_from(bench: Any) -> None:
    builder = bench.another_builder(steps=Exporting(1.0))
    bench.builder = builder
    checked = bench.check()
    built = builder.build(checked, "ort/cpu/fp32")
    assert isinstance(built, Built)
    assert built.document.provenance is not None
    assert built.document.provenance.materials[0].digest == digest_bytes(b"the user's file")
    assert built.document.toolchain["torch"] == "2.13.0"
    assert built.document.host_check is not None
    assert "PyTorch 2.13.0 itself" in (built.document.host_check.reason or "")
    assert built.key != builder.key(checked.model_copy(update={"reference": None}), "ort/cpu/fp32")


# -- with PyTorch ------------------------------------------------------------------------------------------------


@pytest.fixture
def torch_bench(bench: Any) -> Any:
    bench.put("net:make", NET.encode())
    for name in ("unseeded", "nothing", "broken", "absent"):
        bench.put(f"net:{name}", NET.encode())
    return bench


@needs_torch
def test_a_function_of_the_users_becomes_an_artifact(torch_bench: Any) -> None:
    checked = torch_bench.check(source="net:make")
    assert [each.name for each in checked.model.inputs] == ["x"]
    assert checked.origin.digest == digest_bytes(NET.encode())
    built = torch_bench.builder.build(checked, "ort/cpu/fp32")
    assert isinstance(built, Built)
    assert built.document.host_check is not None
    assert (built.document.host_check.verdict, built.document.host_check.agreement) == ("pass", 1.0)


@needs_torch
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unseeded", "is nondeterministic"),
        ("nothing", r"nothing\(\) returned int, not a torch.nn.Module"),
        ("broken", r"broken\(\) failed: KeyError: 'weights'"),
        ("absent", "names 'absent', which is no function"),
    ],
)
def test_code_that_gives_no_model_is_refused_with_what_it_did(torch_bench: Any, name: str, words: str) -> None:
    with pytest.raises(UserInputError, match=words):
        torch_bench.check(source=f"net:{name}")


@needs_torch
def test_samples_are_named_as_forwards_parameters(torch_bench: Any) -> None:
    torch_bench.put_arrays("other.npz", {"y": np.zeros((4, 4), np.float32)})
    with pytest.raises(UserInputError, match=r"have no array 'x', which forward\(\) takes; they have 'y'"):
        torch_bench.check(source="net:make", samples="other.npz")
    checked = torch_bench.check(source="net:make", samples={"file": "other.npz", "inputs": {"x": "y"}})
    assert checked.samples_record.given_n == 4


@needs_torch
def test_an_exported_program_keeps_its_dynamic_batch(bench: Any, tmp_path: Path) -> None:
    import torch  # type: ignore[import-not-found,unused-ignore]  # an extra

    scope: dict[str, Any] = {}
    exec(NET, scope)  # noqa: S102 - the test's own text
    batch = torch.export.Dim("batch", min=1, max=64)
    model = scope["make"]().eval()
    program = torch.export.export(model, (torch.zeros(2, 4),), dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, tmp_path / "net.pt2")
    bench.put("net.pt2", (tmp_path / "net.pt2").read_bytes())
    checked = bench.check(source="net.pt2")
    assert checked.model.batch_is_dynamic
    assert checked.model.opset == sources_torch.OPSET
    assert sources_torch.input_specs(tmp_path / "net.pt2")[0].shape[1] == 4


@needs_torch
def test_an_archive_that_is_no_program_is_refused(bench: Any) -> None:
    bench.put("net.pt2", b"PK\x03\x04 and so on")
    with pytest.raises(UserInputError, match="is no program PyTorch"):
        bench.check(source="net.pt2")
