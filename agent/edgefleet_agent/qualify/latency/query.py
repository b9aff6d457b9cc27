"""Makes the calls that latency is measured of: what one query of a scenario is, on one session."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edgefleet_agent.outputs import Feeder
from edgefleet_agent.preprocess import InputMismatchError
from edgefleet_agent.qualify.latency.loop import Call
from edgefleet_agent.runtimes.base import Feeds, InferenceFailedError, Session
from edgefleet_contract.base import clip_reason
from edgefleet_contract.errors import DeviceError, UserInputError
from edgefleet_contract.evidence import MemoryResult, OperatorProfile
from edgefleet_contract.job import LatencyBudget

MAX_PROFILED_BYTES = 256 * 1024**2
"""A second copy of this size still fits into the smallest devices a runtime fits into."""


@dataclass(frozen=True)
class Query:
    """One query.

    Attributes:
        call: runs it.
        inferences_n: how many inferences it is.
        batch_n: samples in each of them.
    """

    call: Call
    inferences_n: int = 1
    batch_n: int = 1

    @property
    def samples_n(self) -> int:
        """Samples in a query."""
        return self.inferences_n * self.batch_n


def make_query(session: Session, feeder: Feeder, samples_n: int) -> Query:
    """Bind a query of some samples: one inference on a batch where the model takes any batch, else one after another.

    Args:
        session: the model.
        feeder: its samples; they are repeated when there are too few.
        samples_n: samples in a query; rounded up to whole inferences where the model has a fixed batch.

    Raises:
        InferenceFailedError: an inference fails.
    """
    if samples_n > 1 and _takes_any_batch(feeder) and samples_n <= feeder.samples.n:
        batch = dataclasses.replace(feeder, batch_n=samples_n)
        try:
            return Query(session.bind(batch.feeds(0)), batch_n=samples_n)
        except (InferenceFailedError, InputMismatchError):
            pass  # an axis that is declared dynamic need not be one that the graph can follow
    inferences_n = -(-samples_n // feeder.batch_n)
    starts = [index * feeder.batch_n % feeder.samples.n for index in range(inferences_n)]
    calls = [session.bind(feeder.feeds(start)) for start in starts]
    return Query(calls[0] if inferences_n == 1 else _in_sequence(calls), inferences_n, feeder.batch_n)


@contextmanager
def inference_errors(doing: str) -> Iterator[None]:
    """Turn what bound calls raise into InferenceFailedError: they are the vendor's own, and raise what it raises.

    Its trace goes to standard error, so that a bug of ours can be told from a model's failure.

    Args:
        doing: what was being done, for the message.
    """
    try:
        yield
    except (DeviceError, UserInputError, MemoryError):
        raise
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        said = str(error).strip() or type(error).__name__
        msg = f"an inference failed while {doing}: {said}"
        raise InferenceFailedError(clip_reason(msg)) from error


def _takes_any_batch(feeder: Feeder) -> bool:
    return not feeder.whole and all(spec.shape and not isinstance(spec.shape[0], int) for spec in feeder.specs)


def _in_sequence(calls: Sequence[Call]) -> Call:
    def run() -> None:
        for call in calls:
            call()

    return run


@runtime_checkable
class ProfilesOperators(Protocol):
    """A session that can tell where time goes inside its model, in a pass of its own."""

    def profile_operators(self, feeds: Feeds, *, threads: int, limit_s: float) -> OperatorProfile | None:
        """Return each type of operator's share of the time. Raises InferenceFailedError."""
        ...


def profile_of(
    session: Session, feeder: Feeder, budget: LatencyBudget, memory: MemoryResult | None = None
) -> OperatorProfile | None:
    """Return the operator profile of a session, where its runtime tells and the budget leaves time for it.

    Profiling loads the model a second time: one that took much memory the first time is left alone, lest the device
    run out of it.
    """
    if budget.profile_max_s <= 0.0 or not isinstance(session, ProfilesOperators):
        return None
    if memory is not None and memory.peak_bytes - memory.baseline_bytes > MAX_PROFILED_BYTES:
        return None
    try:
        return session.profile_operators(feeder.feeds(0), threads=budget.threads, limit_s=budget.profile_max_s)
    except InferenceFailedError:
        return None  # it ran a moment ago: only its profile is not to be had
