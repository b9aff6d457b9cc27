"""Models that pass state on: what a manifest may say of them, what samples become, and what is built."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgefleet_contract.artifact import FileRole
from edgefleet_controller.build import Built, NotBuilt
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.check import UnfitModelError
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph import onnx_graph
from edgefleet_controller.compile.ingest import split, states
from edgefleet_controller.compile.ingest.model import ingest
from edgefleet_controller.compile.protocol import IngestRequest
from edgefleet_controller.compile.rewrite import bind_constants
from edgefleet_controller.export import export_artifact

STATE = {"hidden": "before"}
CONSTANTS = {"rate": 16000}
LENGTHS = (50, 30, 40, 24)
SAID = {"state": STATE, "constants": CONSTANTS, "task": "regression"}


def recurrent(*, kept: str = "next", sizes: tuple[int | str, ...] = (1, 8)) -> onnx.ModelProto:
    """Return `y`, `hidden` = f(x, before, rate): a recurrent net that the rate chooses the weights of."""
    random = np.random.default_rng(3)
    held = {
        "w16": random.normal(size=(4, 8)) * 0.7,
        "w8": random.normal(size=(4, 8)),
        "wh": random.normal(size=(8, 8)) * 0.3,
        "wy": random.normal(size=(8, 5)),
    }
    value = helper.make_tensor_value_info

    def branch(weights: str) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["x", weights], [f"by_{weights}"])
        return helper.make_graph([node], weights, [], [value(f"by_{weights}", TensorProto.FLOAT, None)])

    nodes = [
        helper.make_node("Equal", ["rate", "wanted"], ["is_16"]),
        helper.make_node("If", ["is_16"], ["left"], then_branch=branch("w16"), else_branch=branch("w8")),
        helper.make_node("MatMul", ["before", "wh"], ["right"]),
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["next"]),
        helper.make_node("MatMul", ["next", "wy"], ["y"]),
        helper.make_node("Identity", [kept], ["hidden"]),
    ]
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [
            value("x", TensorProto.FLOAT, ["n", 4]),
            value("before", TensorProto.FLOAT, sizes),
            value("rate", TensorProto.INT64, []),
        ],
        [value("y", TensorProto.FLOAT, ["n", 5]), value("hidden", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(each.astype(np.float32), name) for name, each in held.items()]
        + [numpy_helper.from_array(np.asarray(16000, np.int64), "wanted")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def walk() -> dict[str, np.ndarray[Any, Any]]:
    x = np.random.default_rng(4).normal(size=(sum(LENGTHS), 4)).astype(np.float32)
    return {"x": x, "sequences": np.repeat(np.arange(len(LENGTHS)), LENGTHS)}


def ingested(folder: Path, model: onnx.ModelProto, arrays: dict[str, Any], **said: Any) -> None:
    """Check a model and its samples in this process."""
    onnx.save(model, folder / "m.onnx")
    np.savez(folder / "s.npz", **arrays)
    ingest(
        IngestRequest.model_validate({
            "model": "tiny", "source": str(folder / "m.onnx"), "source_shown_as": "m.onnx", "out_dir": str(folder),
            "samples": {"path": str(folder / "s.npz"), "shown_as": "s.npz"}, "top1": False,
            "state": STATE, "constants": CONSTANTS, **said,
        })
    )  # fmt: skip


@pytest.fixture
def stateful(bench: Any) -> Any:
    bench.put("m.onnx", recurrent().SerializeToString())
    bench.put_arrays("s.npz", walk())
    return bench


def read(bench: Any, digest: str, tmp_path: Path) -> dict[str, np.ndarray[Any, Any]]:
    bench.blobs.materialise(digest, tmp_path / "read.npz")
    return npz.read(tmp_path / "read.npz")


def by_hand(arrays: dict[str, np.ndarray[Any, Any]], first: np.ndarray[Any, Any]) -> list[tuple[Any, Any]]:
    """Return the state each sample meets and the answer it gets, by the plain runtime."""
    session = ort.InferenceSession(recurrent().SerializeToString(), providers=["CPUExecutionProvider"])
    found, hidden = [], first
    for index, number in enumerate(arrays["sequences"]):
        if index and number != arrays["sequences"][index - 1]:
            hidden = first
        feeds = {"x": arrays["x"][index : index + 1], "before": hidden, "rate": np.asarray(16000)}
        y, after = session.run(["y", "hidden"], feeds)
        found.append((hidden, y))
        hidden = after
    return found


@pytest.mark.parametrize("begin", [None, 0.5])
def test_samples_become_whole_sequences_with_the_state_of_the_source_at_each_step(
    tmp_path: Path, begin: float | None
) -> None:
    given_arrays = walk()
    first = np.full((1, 8), begin or 0.0, np.float32)
    ingested(tmp_path, recurrent(), given_arrays if begin is None else {**given_arrays, "before": first})
    golden, calibration = (npz.read(tmp_path / name) for name in ("samples.npz", "calibration.npz"))
    steps = by_hand(given_arrays, first)
    rows = {each.tobytes(): place for place, each in enumerate(given_arrays["x"])}
    for arrays in (golden, calibration):
        places = [rows[each.tobytes()] for each in arrays["x"]]
        np.testing.assert_array_equal(arrays["before"], np.stack([steps[place][0] for place in places]))
        assert set(arrays["rate"].tolist()) == {16000}
    assert not set(map(bytes, golden["x"])) & set(map(bytes, calibration["x"]))
    for number in set(golden["sequences"].tolist()):
        kept = golden["x"][golden["sequences"] == number]
        np.testing.assert_array_equal(kept, given_arrays["x"][given_arrays["sequences"] == number][: len(kept)])
    assert "sequences" not in calibration


@given(st.lists(st.integers(1, 90), min_size=1, max_size=6), st.integers(1, 200), st.booleans())
def test_golden_samples_are_sequences_from_their_beginning_and_calibration_is_apart_from_them(
    lengths: list[int], limit: int, given_elsewhere: bool
) -> None:
    ends = list(itertools.accumulate(lengths))
    bounds = list(itertools.pairwise([0, *ends]))
    chosen = split.choose_sequences(
        bounds, golden_limit=limit, calibration_limit=128, calibration_given=given_elsewhere
    )
    golden = set(chosen.golden.tolist())
    assert 1 <= len(golden) <= limit
    cut = [
        (start, stop)
        for start, stop in bounds
        if golden & set(range(start, stop)) not in (set(), {*range(start, stop)})
    ]
    assert len(cut) <= 1
    assert all(min(golden & set(range(start, stop))) == start for start, stop in cut)
    assert bool(golden & set(chosen.calibration.tolist())) == chosen.overlaps
    assert chosen.overlaps == (ends[-1] < split.MIN_APART_N and not given_elsewhere)


@pytest.mark.parametrize(
    ("said", "path", "words"),
    [
        ({"state": {"hiden": "before"}}, ("state", "hiden"), ["output 'hiden'", "did you mean 'hidden'?"]),
        ({"state": {"hidden": "befor"}}, ("state", "hidden"), ["input 'befor'", "did you mean 'before'?"]),
        ({"state": {"y": "before"}}, ("state", "y"), ["float32 [n, 5]", "float32 [1, 8]", "must be the same"]),
        ({"state": {"hidden": "rate"}}, ("state", "hidden"), ["which is a constant"]),
        ({"state": {**STATE, "y": "before"}}, ("state", "hidden"), ["given by two outputs"]),
        ({"constants": {"rat": 1}}, ("constants", "rat"), ["input 'rat'", "did you mean 'rate'?"]),
        ({"constants": {"rate": 0.5}}, ("constants", "rate"), ["int64 cannot hold it"]),
        ({"constants": {"rate": 1, "x": 1}}, ("constants", "x"), ["dynamic size [n, 4]"]),
        ({"preprocess": {"before": {"scale": 2}}}, ("state", "hidden"), ["which is preprocessed"]),
    ],
)
def test_what_does_not_fit_the_model_is_refused_at_its_key(
    tmp_path: Path, said: dict[str, Any], path: tuple[str, ...], words: list[str]
) -> None:
    with pytest.raises(CompileFaultError) as caught:
        ingested(tmp_path, recurrent(), walk(), **said)
    assert (caught.value.what, *caught.value.at) == path
    for word in words:
        assert word in caught.value.message, caught.value.message


def test_a_refusal_names_its_key_of_the_manifest(stateful: Any) -> None:
    with pytest.raises(UnfitModelError) as caught:
        stateful.check(**{**SAID, "state": {"hiden": "before"}})
    assert caught.value.path == ("models", "tiny", "state", "hiden")


def test_a_state_whose_size_follows_the_samples_is_refused_by_what_came_out(tmp_path: Path) -> None:
    arrays = walk() | {"x": np.repeat(walk()["x"][:, None], 2, axis=1)}
    with pytest.raises(CompileFaultError, match=r"\[2, 8\].*\[1, 8\].*must be the same"):
        ingested(tmp_path, recurrent(kept="sum", sizes=("m", 8)), arrays)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"sequences": np.repeat([0, 1, 0, 2], LENGTHS)}, "comes back to sequence 0"),
        ({"sequences": np.zeros(3, np.int64)}, "numbers the sequence of each of 144 samples"),
        ({"before": np.zeros((1, 7), np.float32)}, "initial state 'before' does not fit"),
        ({"before": np.zeros((3, 1, 8), np.float32)}, "3 states for 144 samples"),
    ],
)
def test_samples_that_are_no_sequences_are_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(CompileFaultError, match=words):
        ingested(tmp_path, recurrent(), {**walk(), **arrays})


def test_a_tflite_file_keeps_state_by_its_operators_only() -> None:
    from edgefleet_controller.compile.protocol import ModelRecord

    plain = ModelRecord(
        source="sha256:" + "0" * 64, format="tflite", inputs=(), outputs=(), nodes_n=1, parameters_n=0, domains=(),
        batch_is_dynamic=False, operators={"CONV_2D": 1},
    )  # fmt: skip
    assert not states.keeps_state(plain)
    assert states.keeps_state(plain.model_copy(update={"operators": {"CONV_2D": 1, "VAR_HANDLE": 2}}))


def test_bound_constants_take_their_branch_and_compute_the_same() -> None:
    made = bind_constants.bind(recurrent(), {"rate": np.asarray(16000)}, {"x": (1, 4), "before": (1, 8)})
    assert [value.name for value in made.graph.input] == ["x", "before"]
    assert not any(node.op_type in {"If", "Equal"} for node in onnx_graph.all_nodes(made.graph))
    assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    feeds = {"x": np.ones((3, 4), np.float32), "before": np.ones((1, 8), np.float32)}
    before, after = (ort.InferenceSession(each.SerializeToString()) for each in (recurrent(), made))
    for wanted, got in zip(before.run(None, {**feeds, "rate": np.asarray(16000)}), after.run(None, feeds), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    other = bind_constants.bind(recurrent(), {"rate": np.asarray(8000)}, {"x": (1, 4), "before": (1, 8)})
    assert not np.allclose(ort.InferenceSession(other.SerializeToString()).run(None, feeds)[1], got)


@pytest.mark.parametrize(
    ("variant", "bound"),
    [
        ("ort/cpu/int8", ("rate",)),
        pytest.param("ort/cpu/fp32", (), marks=pytest.mark.slow),
        pytest.param("tensorrt/gpu/fp16", ("rate",), marks=pytest.mark.slow),
    ],
)
def test_artifacts_are_judged_with_their_own_states_and_say_what_is_bound(
    stateful: Any, tmp_path: Path, variant: str, bound: tuple[str, ...]
) -> None:
    built = stateful.builder.build(stateful.check(**SAID), variant)
    assert isinstance(built, Built), built
    document = built.document
    assert (document.io.state, document.io.bound) == (STATE, bound)
    assert [spec.name for spec in document.io.inputs] == ["x", "before", *([] if bound else ["rate"])]
    assert (bind_constants.NAME in document.rewrites) == bool(bound)
    assert document.options.get("bound rate") == (16000 if bound else None)
    outputs = document.file(FileRole.SOURCE_OUTPUTS)
    samples = document.file(FileRole.SAMPLES)
    assert outputs is not None
    assert samples is not None
    golden = read(stateful, samples.digest, tmp_path)
    wanted = np.concatenate([y for _, y in by_hand(golden, np.zeros((1, 8), np.float32))])
    found = read(stateful, outputs.digest, tmp_path)
    assert set(found) == {"y"}
    np.testing.assert_array_equal(found["y"].reshape(wanted.shape), wanted)
    places = {file.name: stateful.blobs.path_of(file.digest) for file in document.files}
    script = export_artifact(document, lambda name: places[name], tmp_path / "out")
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=60).stdout
    assert len(said.splitlines()) == len(wanted)


@pytest.mark.slow
def test_a_failure_with_states_fed_back_says_whether_single_steps_fail_too(stateful: Any) -> None:
    from edgefleet_controller.compile.steps import ChildSteps

    class Spoilt(ChildSteps):
        """Builds a file that keeps the state it was given: each step is right, and the next one is not."""

        def build(self, request: Any) -> Any:
            made = super().build(request)
            Path(request.out).write_bytes(recurrent(kept="before").SerializeToString())
            return made

    builder = stateful.another_builder(steps=Spoilt())
    failed = builder.build(stateful.check(**SAID), "ort/cpu/fp32")
    assert isinstance(failed, NotBuilt)
    assert failed.tried.reason is not None
    assert "single steps from the source's own states pass" in failed.tried.reason
