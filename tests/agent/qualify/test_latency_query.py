"""What one query is: a batch where the model takes any, else one inference after another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgefleet_agent.outputs import Feeder
from edgefleet_agent.qualify.latency.query import make_query, profile_of
from edgefleet_agent.runtimes.base import Feeds, InferenceFailedError
from edgefleet_agent.samples import Samples
from edgefleet_contract.artifact import Dim, TensorSpec
from edgefleet_contract.evidence import MemoryResult, OperatorProfile, PlacementResult
from edgefleet_contract.job import LatencyBudget


class Recorder:
    """A session that notes the first axes it was bound with, and the values of each call."""

    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, first: Dim, *, refuses_batches: bool = False) -> None:
        self.inputs = (TensorSpec(name="x", dtype="float32", shape=(first, 2)),)
        self.bound: list[int] = []
        self.called: list[float] = []
        self._refuses_batches = refuses_batches

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        if self._refuses_batches and len(feeds["x"]) > 1:
            msg = "Reshape: cannot"
            raise InferenceFailedError(msg)
        self.bound.append(len(feeds["x"]))
        return lambda: self.called.append(float(feeds["x"][0, 0]))

    def placement(self) -> PlacementResult | None:
        return None

    def close(self) -> None:
        pass


def feeder(session: Recorder, *, samples_n: int = 10, batch_n: int = 1) -> Feeder:
    samples = Samples({"x": np.arange(2 * samples_n, dtype=np.float32).reshape(samples_n, 2)}, None)
    return Feeder(samples, session.inputs, {}, batch_n, frozenset())


def test_a_model_with_a_dynamic_batch_takes_the_query_at_once() -> None:
    session = Recorder("batch")
    query = make_query(session, feeder(session), 8)
    query.call()
    assert (session.bound, query.inferences_n, query.batch_n, query.samples_n) == ([8], 1, 8, 8)
    assert len(session.called) == 1


@pytest.mark.parametrize(
    ("session", "samples_n"),
    [(Recorder(1), 10), (Recorder("batch", refuses_batches=True), 10), (Recorder("batch"), 4)],
    ids=["fixed at one", "dynamic in name only", "too few samples for a batch"],
)
def test_other_models_take_one_sample_after_another(session: Recorder, samples_n: int) -> None:
    query = make_query(session, feeder(session, samples_n=samples_n), 8)
    query.call()
    assert session.bound == [1] * 8
    assert (query.inferences_n, query.samples_n, len(session.called)) == (8, 8, 8)
    assert len(set(session.called)) == min(8, samples_n)


def test_a_fixed_batch_is_filled_and_the_query_rounded_up() -> None:
    session = Recorder(4)
    query = make_query(session, feeder(session, samples_n=8, batch_n=4), 6)
    assert (session.bound, query.inferences_n, query.samples_n) == ([4, 4], 2, 8)


def test_a_query_of_one_sample_is_the_sessions_own_call() -> None:
    session = Recorder("batch")
    query = make_query(session, feeder(session), 1)
    query.call()
    assert (session.bound, session.called, query.samples_n) == ([1], [0.0], 1)


def test_a_runtime_that_does_not_profile_has_no_profile() -> None:
    session = Recorder("batch")
    assert profile_of(session, feeder(session), LatencyBudget()) is None


class Telling(Recorder):
    """A session that tells where time goes."""

    def profile_operators(self, feeds: Feeds, *, threads: int, limit_s: float) -> OperatorProfile | None:
        return OperatorProfile(operators=(), inferences_n=threads, source=f"{limit_s} s")


def test_a_profile_takes_the_time_it_is_given_and_no_second_copy_of_a_large_model() -> None:
    session = Telling("batch")
    small = MemoryResult(peak_bytes=300 * 1024**2, baseline_bytes=100 * 1024**2)
    large = small.model_copy(update={"peak_bytes": 400 * 1024**2})
    found = profile_of(session, feeder(session), LatencyBudget(profile_max_s=0.5, threads=2), small)
    assert found is not None
    assert (found.inferences_n, found.source) == (2, "0.5 s")
    assert profile_of(session, feeder(session), LatencyBudget(), large) is None
    assert profile_of(session, feeder(session), LatencyBudget(profile_max_s=0.0)) is None
