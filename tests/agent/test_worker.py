"""The worker's boundary: every request gets an answer, and a bug is called one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from pydantic import TypeAdapter

from edgefleet_agent import tasks, worker
from edgefleet_agent.samples import save_arrays
from edgefleet_contract.errors import DeviceError, UserInputError
from edgefleet_contract.job import Answer, BenchJob, CompareJob, ErrorAnswer, InspectJob, ProbeJob
from edgefleet_contract.wire import decode_as, encode

ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)


def failing_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> ErrorAnswer:
    def fail(_: object) -> Answer:
        raise error

    monkeypatch.setattr(tasks, "do_job", fail)
    answer = decode_as(ANSWER, worker.handle(encode(ProbeJob())))
    assert isinstance(answer, ErrorAnswer)
    return answer


def one_string(path: Path) -> str:
    x, y = (helper.make_tensor_value_info(name, TensorProto.STRING, ["n", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return str(path)


@pytest.mark.parametrize(
    ("error", "family"),
    [(UserInputError("bad samples"), "input"), (DeviceError("no such engine"), "device")],
)
def test_errors_keep_their_family(monkeypatch: pytest.MonkeyPatch, error: Exception, family: str) -> None:
    answer = failing_with(monkeypatch, error)
    assert (answer.family, answer.reason) == (family, str(error))


@pytest.mark.parametrize("kind", ["compare", "bench", "inspect"])
def test_a_model_of_strings_is_wrong_input_and_no_fault_of_the_device(tmp_path: Path, kind: str) -> None:
    model, samples = one_string(tmp_path / "strings.onnx"), tmp_path / "samples.npz"
    save_arrays(samples, {"x": np.ones((3, 2), np.float32)})
    jobs = {
        "compare": CompareJob(reference=model, candidate=model, samples=str(samples)),
        "bench": BenchJob(model=model, samples=str(samples)),
        "inspect": InspectJob(model=model, variant="ort/cpu/fp32"),
    }
    answer = decode_as(ANSWER, worker.handle(encode(jobs[kind])))
    assert isinstance(answer, ErrorAnswer)
    assert (answer.family, "'x' is of type tensor(string)" in answer.reason) == ("input", True)


def test_a_bug_is_internal_and_its_traceback_is_kept(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = failing_with(monkeypatch, ZeroDivisionError("in our code"))
    assert (answer.family, answer.reason) == ("internal", "ZeroDivisionError: in our code")
    assert "Traceback" in capfd.readouterr().err


def test_running_out_of_memory_is_left_to_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryError):
        failing_with(monkeypatch, MemoryError())


@given(st.binary(max_size=100))
def test_any_bytes_get_an_answer(request_bytes: bytes) -> None:
    answer = decode_as(ANSWER, worker.handle(request_bytes))
    assert isinstance(answer, ErrorAnswer)
    assert answer.family == "internal"
