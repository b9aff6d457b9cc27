"""The ONNX Runtime backend: sound models, and files that are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgefleet_agent.runtimes.base import InferenceFailedError, LoadFailedError, UnsupportedError
from edgefleet_agent.runtimes.misbehave import WrongSession
from edgefleet_agent.runtimes.ort import RUNTIME, OrtSession, _spec
from edgefleet_agent.runtimes.ort_placement import count_nodes, profile_placement, summarise
from edgefleet_agent.runtimes.registry import find_runtime, probe_engines
from edgefleet_contract.profile import ProbeStatus
from edgefleet_contract.variant import parse_variant

CPU = parse_variant("ort/cpu/fp32")
PROVIDER = "CPUExecutionProvider"


def load(path: Path) -> OrtSession:
    return RUNTIME.load(path, variant=CPU, threads=1, spinning=False)


@pytest.fixture
def session(digit_model: Path) -> OrtSession:
    return load(digit_model)


@pytest.fixture
def feeds() -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(1).random((1, 1, 28, 28), np.float32)}


def one_node(path: Path, op: str, dtype: int = TensorProto.FLOAT, *, opset: int = 13, domain: str = "") -> Path:
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", dtype, ["n", 2])],
        [helper.make_tensor_value_info("y", dtype, ["n", 2])],
    )
    sets = [helper.make_opsetid("", opset), helper.make_opsetid("my.ops", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=sets, ir_version=8).SerializeToString())
    return path


def test_a_bound_call_computes_and_can_be_repeated(session: OrtSession, feeds: dict[str, np.ndarray]) -> None:
    call = session.bind(feeds)
    assert call() is None
    assert call() is None


def test_a_bound_call_works_where_the_wrappers_inside_is_not_known(
    session: OrtSession, feeds: dict[str, np.ndarray]
) -> None:
    class Public:
        """An InferenceSession of a version that keeps nothing under it."""

        def __init__(self, inner: Any) -> None:
            self.run, self.io_binding = inner.run, inner.io_binding
            self.run_with_iobinding = inner.run_with_iobinding

    session._session = Public(session._session)
    assert session.bind(feeds)() is None


def test_placement_is_read_back_from_the_session(session: OrtSession) -> None:
    placement = session.placement()
    assert placement is not None
    assert (placement.accelerated, list(placement.nodes)) == (1.0, [PROVIDER])
    assert placement.nodes[PROVIDER] >= 9


def test_an_old_runtime_tells_placement_by_a_profile(digit_model: Path, session: OrtSession) -> None:
    class Old:
        """A session from before 1.24."""

    session._session = Old()
    placement = session.placement()
    assert placement is not None
    assert (placement.accelerated, placement.source) == (1.0, "onnxruntime profile of one inference")


def test_a_model_zeros_do_not_suit_has_no_profile(digit_model: Path, tmp_path: Path) -> None:
    wrong = load(one_node(tmp_path / "m.onnx", "Relu")).inputs
    assert profile_placement(str(digit_model), wrong, wanted=PROVIDER) is None


def test_nodes_are_counted_once_however_often_they_ran() -> None:
    node = {"cat": "Node", "name": "conv", "args": {"provider": "GPU"}}
    other = {"cat": "Node", "name": "relu", "args": {"provider": "CPU"}}
    counted = count_nodes([node, node, other, {"cat": "Session", "name": "run"}])
    assert counted == {"GPU": 1, "CPU": 1}
    result = summarise(counted, wanted="GPU", source="test")
    assert result is not None
    assert result.accelerated == 0.5


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not a model", b"PK\x03\x04"])
def test_a_file_that_is_no_model_fails_to_load(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(LoadFailedError, match=r"cannot load m\.onnx"):
        load(path)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 255))
def test_a_damaged_model_loads_or_fails_to_load_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    path = one_node(tmp_path_factory.mktemp("ort") / "m.onnx", "Relu")
    data = bytearray(path.read_bytes())
    data[at % len(data)] = byte
    path.write_bytes(data)
    try:
        load(path)
    except (LoadFailedError, UnsupportedError) as error:
        assert str(error)  # noqa: PT017 - both outcomes are right; only another exception is wrong


def test_a_tensor_whose_name_is_no_text_fails_to_load() -> None:
    class Damaged:
        type = "tensor(float)"
        shape = (1,)

        @property
        def name(self) -> str:
            return b"\x80".decode()

    with pytest.raises(LoadFailedError, match="not UTF-8"):
        _spec(Damaged())


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"op": "Foo", "domain": "my.ops"}, "Foo"),
        ({"op": "Relu", "opset": 130}, "130"),
        ({"op": "Relu", "dtype": TensorProto.STRING}, "Relu|string"),
        ({"op": "Identity", "dtype": TensorProto.STRING}, "tensor.string."),
        ({"op": "Identity", "dtype": TensorProto.BFLOAT16}, "bfloat16"),
    ],
)
def test_a_sound_model_this_runtime_cannot_run_is_refused_with_the_reason(
    tmp_path: Path, said: dict[str, Any], word: str
) -> None:
    with pytest.raises((UnsupportedError, LoadFailedError), match=word):
        load(one_node(tmp_path / "m.onnx", **said))


def test_other_engines_of_the_runtime_are_refused(digit_model: Path) -> None:
    with pytest.raises(UnsupportedError, match="on the CPU only"):
        find_runtime(parse_variant("ort/cuda/fp16"), test_runtimes=False)
    with pytest.raises(UnsupportedError, match="on the CPU only"):
        RUNTIME.load(digit_model, variant=parse_variant("ort/cuda/fp16"), threads=1, spinning=False)


def test_feeds_that_do_not_fit_are_a_failed_inference_without_the_vendors_noise(session: OrtSession) -> None:
    with pytest.raises(InferenceFailedError) as caught:
        session.run({"image": np.zeros((1, 2), np.float32)})
    assert "ONNXRuntimeError" not in str(caught.value)


def test_an_allocation_that_fails_is_out_of_memory_and_not_a_damaged_model(
    session: OrtSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Starved:
        def run(self, *_: object) -> None:
            msg = "Failed to allocate memory for requested buffer of size 99"
            raise RuntimeError(msg)

    session._session = Starved()
    with pytest.raises(MemoryError):
        session.run({})


def test_dynamic_and_unnamed_axes_are_described(tmp_path: Path) -> None:
    path = one_node(tmp_path / "m.onnx", "Relu")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].ClearField("dim_value")
    path.write_bytes(model.SerializeToString())
    assert load(path).inputs[0].shape == ("n", "?")


def test_a_runtime_that_is_not_installed_is_missing_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    probe = RUNTIME.probe()[0]
    assert probe.status in {ProbeStatus.MISSING, ProbeStatus.BROKEN}
    assert probe.reason is not None


def test_every_engine_of_the_grammar_is_answered_for() -> None:
    targets = [engine.target for engine in probe_engines(test_runtimes=True)]
    assert len(set(targets)) == len(targets)
    assert {"tflite/edgetpu", "tensorrt/gpu", "tensorrt-rtx/gpu", "misbehave/hang"} <= set(targets)


def test_the_wrong_session_kills_one_class_and_nothing_else(session: OrtSession, feeds: dict[str, np.ndarray]) -> None:
    right, wrong = session.run(feeds)["logits"], WrongSession(session).run(feeds)["logits"]
    assert (wrong[..., 0] == 0).all()
    assert (wrong[..., 1:] == right[..., 1:]).all()
