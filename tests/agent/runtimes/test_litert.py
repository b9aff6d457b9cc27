"""The LiteRT backend: sound models, state, sizes, and files that are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgefleet_agent.jobs import run_job
from edgefleet_agent.outputs import make_feeder, run_samples
from edgefleet_agent.runtimes.base import InferenceFailedError, LoadFailedError, UnsupportedError, reset_state
from edgefleet_agent.runtimes.litert import RUNTIME, _load_failed
from edgefleet_agent.runtimes.litert_library import LibraryAbsentError, find_library
from edgefleet_agent.runtimes.litert_session import LitertSession, _spec
from edgefleet_agent.runtimes.registry import find_runtime, probe_engines
from edgefleet_agent.samples import Samples
from edgefleet_contract.child import ChildLimits
from edgefleet_contract.job import ErrorAnswer, InspectAnswer, InspectJob
from edgefleet_contract.profile import ProbeStatus
from edgefleet_contract.variant import parse_variant

LIMITS = ChildLimits(timeout_s=60.0)


def load(path: Path, engine: str = "xnnpack") -> LitertSession:
    return RUNTIME.load(path, variant=parse_variant(f"tflite/{engine}/fp32"), threads=1, spinning=False)


@pytest.fixture
def feeds(images: np.ndarray) -> dict[str, np.ndarray]:
    return {"image": images[:1].transpose(0, 2, 3, 1)}


def test_a_model_says_what_it_takes_and_gives(digits_tflite: Path) -> None:
    session = load(digits_tflite)
    assert [(spec.name, spec.dtype, spec.shape) for spec in session.inputs] == [("image", "float32", ("?", 28, 28, 1))]
    assert [(spec.name, spec.dtype, spec.shape) for spec in session.outputs] == [("logits", "float32", ("?", 10))]


def test_builtin_kernels_and_xnnpack_agree_with_onnx_runtime(
    digits_tflite: Path, digit_model: Path, feeds: dict[str, np.ndarray], images: np.ndarray
) -> None:
    from edgefleet_agent.tasks import open_model

    truth = open_model(digit_model, "ort/cpu/fp32").run({"image": images[:1]})["logits"]
    for engine in ("cpu", "xnnpack"):
        assert np.allclose(load(digits_tflite, engine).run(feeds)["logits"], truth, atol=1e-4)


@pytest.mark.parametrize("engine", ["cpu", "xnnpack"])
def test_a_bound_call_computes_on_its_feeds_and_can_be_repeated(
    digits_tflite: Path, feeds: dict[str, np.ndarray], engine: str
) -> None:
    session = load(digits_tflite, engine)
    call = session.bind(feeds)
    assert session.run(feeds)  # a bound call that is kept does not stand in the way
    before = session._interpreter.get_tensor(session._output_index["logits"])
    for _ in range(3):
        call()
    after = session._interpreter.get_tensor(session._output_index["logits"])
    assert np.array_equal(before, after)
    assert np.array_equal(after, session.run(feeds)["logits"])
    assert "Invoke" in repr(call)  # the library's own call, not the wrapper's


def test_inputs_of_dynamic_size_take_the_size_they_are_fed(digits_tflite: Path, images: np.ndarray) -> None:
    session = load(digits_tflite)
    whole = session.run({"image": images.transpose(0, 2, 3, 1)})["logits"]
    assert whole.shape == (8, 10)
    one = session.run({"image": images[3:4].transpose(0, 2, 3, 1)})["logits"]
    assert np.allclose(whole[3:4], one, atol=1e-4)


def test_a_bound_call_outlives_a_change_of_size(digits_tflite: Path, images: np.ndarray) -> None:
    session = load(digits_tflite)
    call = session.bind({"image": images.transpose(0, 2, 3, 1)})
    assert session.run({"image": images[:1].transpose(0, 2, 3, 1)})["logits"].shape == (1, 10)
    call()


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": np.zeros((1, 1, 28, 28), np.float32)},
        {"image": np.zeros((1, 28, 28), np.float32)},
        {"image": np.zeros((1, 28, 28, 1), np.float64)},
        {"picture": np.zeros((1, 28, 28, 1), np.float32)},
        {},
    ],
)
def test_feeds_that_do_not_fit_fail_the_inference_and_say_what_fits(
    digits_tflite: Path, wrong: dict[str, np.ndarray]
) -> None:
    with pytest.raises(InferenceFailedError, match="image"):
        load(digits_tflite).run(wrong)


def test_the_engines_share_of_operators_is_read_back(digits_tflite: Path) -> None:
    whole = load(digits_tflite, "cpu").placement()
    assert whole is not None
    assert (whole.accelerated, whole.time_accelerated, whole.nodes) == (1.0, 1.0, {"builtin kernels": 30})
    partial = load(digits_tflite).placement()
    assert partial is not None
    assert partial.nodes == {"xnnpack": 14, "builtin kernels": 16}
    assert partial.accelerated == pytest.approx(14 / 30)
    assert partial.elsewhere["SHAPE"] == 2
    assert partial.time_unmeasured_reason


def test_placement_stays_right_after_inputs_took_another_size(digits_tflite: Path, images: np.ndarray) -> None:
    session = load(digits_tflite)
    session.run({"image": images.transpose(0, 2, 3, 1)})
    placement = session.placement()
    assert placement is not None
    assert placement.nodes == {"xnnpack": 14, "builtin kernels": 16}


@pytest.fixture(scope="session")
def wake_word(tflite_data: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    with np.load(tflite_data / "okay_nabu_frames.npz") as data:
        return tflite_data / "okay_nabu.tflite", data["frames"], data["expected"]


@pytest.mark.parametrize("engine", ["cpu", "xnnpack"])
def test_a_model_with_state_starts_each_run_of_samples_afresh(
    wake_word: tuple[Path, np.ndarray, np.ndarray], engine: str
) -> None:
    path, frames, expected = wake_word
    session = load(path, engine)
    assert session.stateful
    samples = Samples({session.inputs[0].name: frames}, None)
    feeder = make_feeder(samples, session.inputs, {})
    session.bind(feeder.feeds(40))()  # a warm-up leaves state behind
    for _ in range(2):
        given = run_samples(session, feeder, limit_s=60.0, monotonic_s=lambda: 0.0)[session.outputs[0].name]
        assert given.dtype == np.uint8
        # 2.3 gives these very values; kernels of other versions and machines round by some units of 255.
        assert np.abs(given.reshape(-1).astype(int) - expected.astype(int)).max() <= 8


def test_state_carries_over_unless_it_is_forgotten(wake_word: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, frames, expected = wake_word
    session = load(path)
    name, given = session.inputs[0].name, session.outputs[0].name
    for frame in frames[: expected.argmax() + 1]:
        session.run({name: frame})
    heard = int(session.run({name: frames[0]})[given].reshape(-1)[0])
    reset_state(session)
    fresh = int(session.run({name: frames[0]})[given].reshape(-1)[0])
    assert heard > 100
    assert fresh == int(expected[0]) == 0


def test_a_model_without_state_keeps_its_interpreter(digits_tflite: Path) -> None:
    session = load(digits_tflite)
    interpreter = session._interpreter
    session.reset()
    assert session._interpreter is interpreter
    assert not session.stateful


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 64, b"not a model", b"\x1c\x00\x00\x00TFL3", b"\x1c\x00\x00\x00TFL3" + b"\x00" * 200]
)
def test_a_file_that_is_no_model_fails_to_load(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    with pytest.raises(LoadFailedError, match=r"cannot load m\.tflite"):
        load(path)


def test_a_cut_file_fails_to_load_without_naming_this_machines_folders(digits_tflite: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(digits_tflite.read_bytes()[:50_000])
    with pytest.raises(LoadFailedError) as caught:
        load(path)
    assert "lies outside of its 50000 bytes" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_damaged_models_end_in_typed_errors_or_in_the_death_of_their_child(digits_tflite: Path) -> None:
    helper = Path(__file__).parent / "native" / "damage.py"
    done = subprocess.run([sys.executable, str(helper), str(digits_tflite), "80"], capture_output=True, check=True)
    ends: dict[str, int] = json.loads(done.stdout)
    assert sum(ends.values()) == 80
    escaped = [end for end in ends if end.startswith("escaped")]
    assert not escaped, ends
    assert ends.get("LoadFailedError", 0) >= 1
    assert ends.get("ran", 0) >= 1  # most damage is silent, which is why files travel with digests


def test_a_damaged_model_in_the_worker_is_an_answer(digits_tflite: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(digits_tflite.read_bytes()[:60_000])
    answer = run_job(InspectJob(model=str(path), variant="tflite/xnnpack/fp32"), LIMITS)
    assert isinstance(answer, ErrorAnswer)
    assert (answer.family, answer.reason.startswith("cannot load m.tflite")) == ("input", True)
    sound = run_job(InspectJob(model=str(digits_tflite), variant="tflite/cpu/fp32"), LIMITS)
    assert isinstance(sound, InspectAnswer)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (
            "tflite/kernels/conv.cc:378 input_type was not true.Node number 0 (CONV_2D) failed to prepare.",
            UnsupportedError,
        ),
        ("Encountered unresolved custom op: ONNX_LSTM.Node number 4 (ONNX_LSTM) failed to prepare.", UnsupportedError),
        ("Didn't find op for builtin opcode 'FULLY_CONNECTED' version '12'. An older version", UnsupportedError),
        ("Invalid tensor index 92 in node outputs. The subgraph has 57 tensors", LoadFailedError),
        ("", LoadFailedError),
    ],
)
def test_what_the_library_says_tells_unsupported_from_damaged(said: str, kind: type[Exception]) -> None:
    error = _load_failed(RuntimeError(said), said, Path("/secret/m.tflite"), "xnnpack")
    assert type(error) is kind
    assert "m.tflite" in str(error)
    assert "/secret" not in str(error)
    assert "kernels/conv.cc" not in str(error)


def test_a_kernel_that_does_not_take_a_type_is_unsupported_with_its_node(odd_type: Path) -> None:
    with pytest.raises(UnsupportedError, match=r" Node number \d+ \(SPLIT_V\) failed to prepare"):
        load(odd_type, "cpu")


def test_tensors_of_text_are_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="'t' is of type bytes"):
        _spec({"name": "t", "dtype": np.bytes_, "shape": np.array([1]), "shape_signature": np.array([1])})


def importer(**modules: object) -> Any:
    def load_module(name: str) -> object:
        if name not in modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
        module = modules[name]
        if isinstance(module, Exception):
            raise module
        return module

    return load_module


def test_the_older_twin_serves_where_litert_is_absent_and_its_version_satisfies_no_newer_one() -> None:
    from edgefleet_agent.qualify.trial import release_of

    found = find_library(
        importer(**{"tflite_runtime.interpreter": "twin", "numpy": SimpleNamespace(__version__="1.26")})
    )
    assert found.interpreter == "twin"
    assert found.version.startswith("tflite-runtime ")
    assert release_of(found.version) < release_of("2.3.0")


@pytest.mark.parametrize(
    ("modules", "status", "word"),
    [
        ({}, ProbeStatus.MISSING, r"edgefleet\[agent,tflite\]"),
        ({"ai_edge_litert.interpreter": ImportError("libc too old")}, ProbeStatus.BROKEN, "libc too old"),
        (
            {"tflite_runtime.interpreter": 1, "numpy": SimpleNamespace(__version__="2.1.0")},
            ProbeStatus.BROKEN,
            "needs numpy<2; this device has numpy 2.1.0",
        ),
    ],
)
def test_a_library_that_is_missing_or_broken_says_why(modules: dict[str, Any], status: ProbeStatus, word: str) -> None:
    with pytest.raises(LibraryAbsentError, match=word) as caught:
        find_library(importer(**modules))
    assert caught.value.status is status


def test_without_a_library_every_engine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise LibraryAbsentError(ProbeStatus.MISSING, "no library")

    monkeypatch.setattr("edgefleet_agent.runtimes.litert.find_library", absent)
    probes = [probe for probe in probe_engines(test_runtimes=False) if probe.target.startswith("tflite/")]
    assert len(probes) == 7
    assert {(probe.status, probe.reason) for probe in probes} == {(ProbeStatus.MISSING, "no library")}
    with pytest.raises(UnsupportedError, match="no library"):
        find_runtime(parse_variant("tflite/cpu/fp32"), test_runtimes=False)


def test_threads_are_taken(digits_tflite: Path, feeds: dict[str, np.ndarray]) -> None:
    variant = parse_variant("tflite/xnnpack/fp32")
    two = RUNTIME.load(digits_tflite, variant=variant, threads=2, spinning=False)
    assert np.allclose(two.run(feeds)["logits"], load(digits_tflite).run(feeds)["logits"], atol=1e-4)
    two.close()
