"""The ONNX Runtime backend: sound models, and files that are not."""

from __future__ import annotations

import weakref
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
from edgefleet_agent.runtimes.ort import _PROBE_MODEL, RUNTIME, OrtSession, _spec
from edgefleet_agent.runtimes.ort_placement import (
    count_elsewhere,
    count_nodes,
    profile_placement,
    summarise,
    time_share,
    with_times,
)
from edgefleet_agent.runtimes.ort_providers import providers_of, tidy_log
from edgefleet_agent.runtimes.registry import find_runtime, options_here, probe_engines, with_options
from edgefleet_contract.evidence import PlacementResult
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


def test_a_bound_call_keeps_the_memory_it_reads_and_writes_and_no_longer_than_itself(
    session: OrtSession, feeds: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = session.run, [weakref.ref(feeds["image"])]

    def spy(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = run(given)
        seen.extend(weakref.ref(value) for value in outputs.values())
        return outputs

    monkeypatch.setattr(session, "run", spy)
    call = session.bind(feeds)
    feeds.clear()
    assert len(seen) == 2
    assert all(array() is not None for array in seen)
    del call
    assert all(array() is None for array in seen)


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
    assert (placement.accelerated, placement.source) == (1.0, "onnxruntime profile of some inferences")


def test_a_model_zeros_do_not_suit_has_no_profile(digit_model: Path, tmp_path: Path) -> None:
    wrong = load(one_node(tmp_path / "m.onnx", "Relu")).inputs
    assert profile_placement(str(digit_model), wrong, providers=[(PROVIDER, {})]) is None


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


@pytest.mark.parametrize(
    ("engine", "word"),
    [("cuda", "onnxruntime-gpu"), ("qnn", "onnxruntime-qnn"), ("openvino", "onnxruntime-openvino"),
     ("coreml", "macOS"), ("xnnpack", "--use_xnnpack"), ("tensorrt", "TensorRT itself")],
)  # fmt: skip
def test_a_provider_that_is_not_in_this_wheel_is_missing_with_what_it_comes_with(
    digit_model: Path, engine: str, word: str
) -> None:
    variant = parse_variant(f"ort/{engine}/fp16")
    with pytest.raises(UnsupportedError, match=word):
        find_runtime(variant, test_runtimes=False)
    with pytest.raises(UnsupportedError, match=word):
        RUNTIME.load(digit_model, variant=variant, threads=1, spinning=False)
    assert RUNTIME.probe_engine(engine).status is ProbeStatus.MISSING


@pytest.fixture
def claims_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that lists CUDA and cannot start it, as onnxruntime-gpu does on machines without a GPU."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", PROVIDER])


@pytest.mark.usefixtures("claims_cuda")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_is_claimed_and_does_not_start_is_not_believed(digit_model: Path) -> None:
    assert RUNTIME.check("cuda") is None
    assert RUNTIME.alone() == ("cuda",)
    found = RUNTIME.probe_engine("cuda")
    assert found.status is ProbeStatus.BROKEN
    assert "CUDAExecutionProvider does not start here" in str(found.reason)
    with pytest.raises(UnsupportedError, match="CUDAExecutionProvider does not start here"):
        RUNTIME.load(digit_model, variant=parse_variant("ort/cuda/fp16"), threads=1, spinning=False)


@pytest.mark.usefixtures("claims_cuda")
def test_options_of_the_device_reach_the_provider_or_break_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFLEET_ORT_OPTIONS_CUDA", "device_id=1, arena_extend_strategy=kSameAsRequested")
    wanted = {"device_id": "1", "arena_extend_strategy": "kSameAsRequested"}
    assert providers_of("cuda") == [("CUDAExecutionProvider", wanted), (PROVIDER, {})]
    monkeypatch.setenv("EDGEFLEET_ORT_OPTIONS_CUDA", "device one")
    found = RUNTIME.probe_engine("cuda")
    assert (found.status, "write key=value" in str(found.reason)) == (ProbeStatus.BROKEN, True)


def test_an_engine_that_computes_the_probe_model_wrongly_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OrtSession, "run", lambda *_: {"y": np.zeros((1, 1, 2, 2), np.float32)})
    found = RUNTIME.probe_engine("cpu")
    assert found.status is ProbeStatus.BROKEN
    assert "right is 9.0" in str(found.reason)


def test_an_engine_that_is_offered_and_left_out_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = PlacementResult(accelerated=0.0, nodes={"Other": 1}, source="test")
    monkeypatch.setattr(OrtSession, "placement", lambda _: elsewhere)
    assert "the probe model ran on Other" in str(RUNTIME.probe_engine("cpu").reason)


def test_the_probe_model_is_one_convolution() -> None:
    model = onnx.load_model_from_string(_PROBE_MODEL)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Conv"]


def test_a_providers_log_is_told_without_times_places_and_folders() -> None:
    log = (
        "\x1b[1;31m2026-01-02 03:04:05.678 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] "
        "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& Get() "
        "[ONNXRuntimeError] : 1 : FAIL : Failed to load library /opt/site-packages/libx.so with error: "
        "libcublas.so.13: cannot open shared object file\n\x1b[m\n"
    )
    said = "Failed to load library libx.so with error: libcublas.so.13: cannot open shared object file"
    assert tidy_log(log + log) == said


def test_time_is_shared_by_provider_and_first_runs_do_not_count() -> None:
    def ran(name: str, provider: str, duration_us: int) -> dict[str, Any]:
        return {"cat": "Node", "name": name, "dur": duration_us, "args": {"provider": provider, "op_name": name[:4]}}

    events = [ran("conv1", "GPU", 900), ran("relu1", "CPU", 800), ran("conv1", "GPU", 30), ran("relu1", "CPU", 10)]
    assert time_share(events, "GPU") == 0.75
    assert time_share(events[:2], "GPU") is None
    assert count_elsewhere(events, "GPU") == {"relu": 1}


def test_a_mixed_placement_is_timed_by_a_profile(digit_model: Path, session: OrtSession) -> None:
    mixed = PlacementResult(accelerated=0.5, nodes={PROVIDER: 1, "Other": 1}, source="test")
    timed = with_times(mixed, str(digit_model), session.inputs, [(PROVIDER, {})])
    assert (timed.accelerated, timed.time_accelerated) == (0.5, 1.0)
    unfit = load(digit_model).inputs[0].model_copy(update={"shape": (1, 2)})
    untimed = with_times(mixed, str(digit_model), [unfit], [(PROVIDER, {})])
    assert (untimed.time_accelerated, untimed.time_unmeasured_reason is None) == (None, False)


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


@pytest.mark.parametrize(
    "options", [{"backend_path": "libEvil.so"}, {"backend_path": "/tmp/x.so"}, {"vtcm_mb": "many"}]
)
def test_what_an_artifact_may_not_say_is_refused_before_anything_is_loaded(options: dict[str, str]) -> None:
    with pytest.raises(UnsupportedError, match="provider options are refused: ort/qnn"):
        with_options(RUNTIME, "ort/qnn", options)


def test_an_artifact_with_options_for_a_runtime_that_takes_none_is_refused() -> None:
    runtime = find_runtime(parse_variant("misbehave/segv/fp32"), test_runtimes=True)
    with pytest.raises(UnsupportedError, match="takes no options of an artifact; this one carries: x"):
        with_options(runtime, "misbehave/segv", {"x": "1"})
    assert with_options(runtime, "misbehave/segv", {}) is runtime


def test_what_the_device_says_comes_before_the_artifact_and_that_before_our_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    carried = {"vtcm_mb": "4", "htp_performance_mode": "burst"}
    monkeypatch.setenv("EDGEFLEET_ORT_OPTIONS_QNN", "vtcm_mb=8,backend_path=/opt/qnn.so")
    runtime = with_options(RUNTIME, "ort/qnn", carried)
    assert options_here(runtime, "qnn") == "backend_path=/opt/qnn.so,htp_performance_mode=burst,vtcm_mb=8"
    monkeypatch.delenv("EDGEFLEET_ORT_OPTIONS_QNN")
    assert options_here(runtime, "qnn") == "backend_path=libQnnHtp.so,htp_performance_mode=burst,vtcm_mb=4"
    assert options_here(RUNTIME, "cpu") == ""
