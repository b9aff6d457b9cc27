"""Run the agent's worker for one job: the host is a device like any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter, ValidationError

from edgefleet_contract.child import ChildEnd, ChildOutcome
from edgefleet_contract.errors import DeviceError, InternalError, UserInputError, WireError
from edgefleet_contract.job import Answer, ErrorAnswer
from edgefleet_controller.cli import output

if TYPE_CHECKING:
    from edgefleet_contract.base import Record
    from edgefleet_controller.cli.settings import Settings

A = TypeVar("A", bound="Record")

_FAMILIES = {"input": UserInputError, "device": DeviceError, "internal": InternalError}


def run_job(settings: Settings, job: Record, answer: type[A], *, timeout_s: float, doing: str) -> A:
    """Run one job and return its answer.

    Args:
        settings: whose backend starts the worker.
        job: the job record.
        answer: the answer's kind.
        timeout_s: when the worker is killed.
        doing: what to show beside the spinner.

    Raises:
        UserInputError: the worker says the input is wrong.
        DeviceError: the worker cannot do it here, or died; how it died is said.
        InternalError: the worker answered something else than was asked.
    """
    with spinner(doing):
        outcome = settings.backend.run_worker(job.model_dump_json().encode(), timeout_s)
    got = _parse(outcome)
    if isinstance(got, ErrorAnswer):
        raise _FAMILIES[got.family](got.reason)
    if not isinstance(got, answer):
        msg = f"asked the worker for {answer.__name__}, got {type(got).__name__}"
        raise InternalError(msg)
    return got


def _parse(outcome: ChildOutcome) -> object:
    if outcome.end is not ChildEnd.ANSWERED or outcome.answer is None:
        raise _death(outcome)
    adapter: TypeAdapter[Answer] = TypeAdapter(Answer)
    try:
        return adapter.validate_json(outcome.answer)
    except ValidationError as error:
        msg = f"the worker's answer does not follow the contract: {error.errors(include_url=False)[0]['msg']}"
        raise WireError(msg) from error


def _death(outcome: ChildOutcome) -> DeviceError:
    last_words = outcome.stderr_tail.strip().splitlines()[-1:]
    said = f"; it last said: {last_words[0][:300]}" if last_words else ""
    msg = f"the worker process ended after {outcome.duration_s:.1f} s without an answer: {outcome.end.value}, "
    return DeviceError(msg + outcome.reason + said)


@contextmanager
def spinner(doing: str) -> Iterator[None]:
    """Show that something is going on, on a terminal only."""
    console = output.stderr_console()
    if not console.is_terminal:
        yield
        return
    with console.status(doing):
        yield
