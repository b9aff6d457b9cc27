"""States fed back, constants, and sequences: what an inference is fed with beside samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from edgefleet_agent.compare import compare
from edgefleet_agent.feeding import completed, judged
from edgefleet_agent.outputs import make_feeder, run_samples
from edgefleet_agent.preprocess import InputMismatchError
from edgefleet_agent.samples import Samples, SamplesError, load_samples, save_arrays
from edgefleet_agent.tasks import do_job
from edgefleet_contract.artifact import TensorSpec
from edgefleet_contract.evidence import BisectStatus, ParityVerdict
from edgefleet_contract.job import BenchAnswer, BenchJob, CompareJob, LatencyBudget, OutputsJob

STATE = {"hidden": "before"}
SPECS = [
    TensorSpec(name="x", dtype="float32", shape=(1, 2)),
    TensorSpec(name="before", dtype="float32", shape=(1, 2)),
    TensorSpec(name="rate", dtype="int64", shape=()),
]


class Recorder:
    """A session that adds: what it is fed with is what it shows."""

    def __init__(self) -> None:
        self.resets_n = 0

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        hidden = feeds["x"] + feeds["before"]
        return {"y": hidden * 2, "hidden": hidden}

    def reset(self) -> None:
        self.resets_n += 1


def summed(samples: Samples, session: Recorder | None = None) -> np.ndarray:
    whole = completed(samples, SPECS[:2], STATE, {})
    feeder = make_feeder(whole, SPECS[:2], {}, STATE)
    found = run_samples(session or Recorder(), feeder, limit_s=10.0, monotonic_s=lambda: 0.0)  # type: ignore[arg-type]
    assert set(found) == {"y"}
    return found["y"][:, 0] / 2


@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=5), start=st.integers(-3, 3))
def test_each_sequence_sums_its_own_samples_from_its_first_state_with_a_fresh_session(
    lengths: list[int], start: int
) -> None:
    n = sum(lengths)
    sequences = np.repeat(np.arange(len(lengths)), lengths)
    x = np.repeat(np.arange(1.0, n + 1)[:, None], 2, axis=1).astype(np.float32)
    session = Recorder()
    first = np.full((1, 2), start, np.float32)
    sums = summed(Samples({"x": x}, None, sequences, {"before": first}), session)
    wanted = np.concatenate([start + np.cumsum(x[sequences == each, 0]) for each in range(len(lengths))])
    assert sums.tolist() == wanted.tolist()
    assert session.resets_n == len(lengths)


def test_without_sequences_or_a_first_state_all_samples_are_one_sequence_from_zero() -> None:
    assert summed(Samples({"x": np.ones((4, 2), np.float32)}, None)).tolist() == [1, 2, 3, 4]


def test_states_of_each_step_are_taken_at_the_start_of_a_sequence_only() -> None:
    steps = np.arange(4.0, dtype=np.float32).reshape(4, 1, 1).repeat(2, axis=2) * 10
    samples = Samples({"x": np.ones((4, 2), np.float32), "before": steps}, None, np.array([5, 5, 2, 2]))
    assert summed(samples).tolist() == [1, 2, 21, 22]


def test_a_constant_is_the_same_in_every_inference() -> None:
    whole = completed(Samples({"x": np.ones((3, 2), np.float32)}, None), SPECS, STATE, {"rate": 16000})
    feeds = make_feeder(whole, SPECS, {}, STATE).feeds(2)
    assert (feeds["rate"].shape, feeds["rate"].dtype.name, int(feeds["rate"])) == ((), "int64", 16000)


@pytest.mark.parametrize("shape", [(2,), (1, 3), (3, 1, 2)])
def test_a_first_state_of_another_shape_is_refused_with_what_the_model_takes(shape: tuple[int, ...]) -> None:
    samples = Samples({"x": np.ones((4, 2), np.float32)}, None, None, {"before": np.zeros(shape, np.float32)})
    with pytest.raises(InputMismatchError, match=r"before.*float32\[1,2\]"):
        summed(samples)


def test_a_state_the_model_does_not_give_or_take_is_refused() -> None:
    samples = Samples({"x": np.ones((4, 2), np.float32)}, None)
    with pytest.raises(InputMismatchError, match="'none', which is no input"):
        completed(samples, SPECS, {"hidden": "none"}, {})
    feeder = make_feeder(completed(samples, SPECS[:2], STATE, {}), SPECS[:2], {}, {"none": "before"})
    with pytest.raises(InputMismatchError, match="'none', which is no output"):
        run_samples(Recorder(), feeder, limit_s=10.0, monotonic_s=lambda: 0.0)  # type: ignore[arg-type]


def test_states_are_judged_only_where_nothing_else_comes_out() -> None:
    assert judged(["y", "hidden"], STATE) == ("y",)
    assert judged(["hidden"], STATE) == ("hidden",)


@pytest.mark.parametrize(
    ("sequences", "said"),
    [
        (np.array([0, 0, 1, 0]), "comes back to number 0"),
        (np.array([0, 0, 1]), "numbers the sequence of each of 4 samples"),
        (np.array([0.0, 0.0, 1.0, 1.0]), "in integers"),
    ],
)
def test_sequences_that_are_no_runs_of_integers_are_refused(tmp_path: Path, sequences: np.ndarray, said: str) -> None:
    save_arrays(tmp_path / "s.npz", {"x": np.ones((4, 2)), "sequences": sequences})
    with pytest.raises(SamplesError, match=said):
        load_samples(tmp_path / "s.npz")


@pytest.fixture
def walk(tmp_path: Path) -> Path:
    random = np.random.default_rng(4)
    save_arrays(
        tmp_path / "walk.npz",
        {"x": random.normal(size=(96, 4)).astype(np.float32), "sequences": np.repeat([0, 1, 2], [40, 40, 16])},
    )
    return tmp_path / "walk.npz"


def judgement(reference: Path, candidate: Path, samples: Path, precision: str, **said: Any) -> Any:
    job = {"reference": str(reference), "candidate": str(candidate), "samples": str(samples), "precision": precision}
    return compare(CompareJob.model_validate({**job, "state": STATE, **said}))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_state_that_is_not_fed_on_fails_parity_under_every_claim(
    recurrent: Callable[..., Path], walk: Path, precision: str
) -> None:
    source = recurrent("source")
    stale = recurrent("stale", kept="before")
    assert judgement(source, stale, walk, precision).verdict is ParityVerdict.FAIL


def test_an_honest_half_precision_model_passes_with_its_own_states_fed_back(
    recurrent: Callable[..., Path], walk: Path
) -> None:
    answer = judgement(recurrent("a"), recurrent("b", half=True), walk, "fp16")
    assert answer.verdict is ParityVerdict.PASS, answer.reason
    assert [output.name for output in answer.parity.outputs] == ["y"]
    assert not answer.parity.outputs[0].bit_exact


def test_bisection_gives_both_models_the_states_of_the_reference(
    tmp_path: Path, recurrent: Callable[..., Path], walk: Path
) -> None:
    source = recurrent("source")
    model = onnx.load(source)
    weights = next(each for each in model.graph.initializer if each.name == "wy")
    spoilt = numpy_helper.to_array(weights).copy()
    spoilt[:, 2] *= 1.5
    weights.CopyFrom(numpy_helper.from_array(spoilt, "wy"))
    onnx.save(model, tmp_path / "faulty.onnx")
    found = judgement(source, tmp_path / "faulty.onnx", walk, "fp32", bisect=True).bisection
    assert found.status is BisectStatus.FOUND
    assert found.culprit.tensor == "y"
    sums = next(error for error in found.worst if error.tensor == "sum")
    assert sums.island_sqnr_db is None


def test_the_outputs_of_a_job_are_those_of_the_loop_written_out_by_hand(
    tmp_path: Path, recurrent: Callable[..., Path], walk: Path
) -> None:
    import onnxruntime as ort

    source = recurrent("source")
    arrays = dict(np.load(walk))
    arrays["before"] = np.zeros((96, 1, 8), np.float32)
    save_arrays(tmp_path / "s.npz", {**arrays, "bound": np.ones(96)})
    job = OutputsJob(
        model=str(source),
        variant="ort/cpu/fp32",
        samples=str(tmp_path / "s.npz"),
        out=str(tmp_path / "o.npz"),
        state=STATE,
        bound=("bound",),
    )
    do_job(job)
    session = ort.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    wanted, hidden = [], np.zeros((1, 8), np.float32)
    for index, sequence in enumerate(arrays["sequences"]):
        if index and sequence != arrays["sequences"][index - 1]:
            hidden = np.zeros((1, 8), np.float32)
        y, hidden = session.run(["y", "hidden"], {"x": arrays["x"][index : index + 1], "before": hidden})
        wanted.append(y)
    found = dict(np.load(tmp_path / "o.npz"))
    assert set(found) == {"y"}
    np.testing.assert_array_equal(found["y"].reshape(96, 5), np.concatenate(wanted))


def test_latency_is_taken_with_the_first_state(recurrent: Callable[..., Path], walk: Path) -> None:
    budget = LatencyBudget(min_n=20, max_n=30, min_duration_s=0.0, max_duration_s=1.0, warmup_max_s=0.02)
    job = BenchJob(model=str(recurrent("m")), samples=str(walk), latency=budget, state=STATE)
    answer = do_job(job)
    assert isinstance(answer, BenchAnswer)
    assert answer.latency.n >= 20
