"""Starts a worker for one job. Imports no numerical library: the resident agent and the command line use it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from edgefleet_agent import host
from edgefleet_contract.child import ChildEnd, ChildLimits, ChildOutcome, run_child
from edgefleet_contract.errors import WireError
from edgefleet_contract.evidence import Verdict
from edgefleet_contract.job import Answer, ErrorAnswer, Job
from edgefleet_contract.wire import decode_as, encode

WORKER_ARGV = (sys.executable, "-m", "edgefleet_agent.worker")
_TAIL_CHARS = 600
"""How much of a dead worker's last words goes into the reason."""

_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
_VERDICTS = {
    ChildEnd.CRASHED: Verdict.CRASHED,
    ChildEnd.EXITED: Verdict.CRASHED,
    ChildEnd.GARBAGE: Verdict.CRASHED,
    ChildEnd.TIMEOUT: Verdict.TIMEOUT,
    ChildEnd.OUT_OF_MEMORY: Verdict.OUT_OF_MEMORY,
}


@dataclass(frozen=True)
class JobDeath:
    """A worker ended without an answer.

    Attributes:
        outcome: how it ended.
        upgraded: which version was installed under which, where that is why it gave no answer; else None.
    """

    outcome: ChildOutcome
    upgraded: str | None = None

    @property
    def verdict(self) -> Verdict | None:
        """Return what that says of the artifact tried; None when the job was cancelled, which says nothing."""
        if self.upgraded is not None and self.outcome.end is not ChildEnd.CANCELLED:
            return Verdict.UNSUPPORTED  # an agent that does not speak its worker's language proves nothing of a file
        return _VERDICTS.get(self.outcome.end)

    @property
    def reason(self) -> str:
        """Return how the worker ended and what it said last, for people."""
        last_words = self.outcome.stderr_tail.strip()[-_TAIL_CHARS:]
        ended = f"the worker {self.outcome.reason}"
        if self.upgraded is not None:
            ended = f"{self.upgraded}: restart the agent ({ended})"
        return f"{ended}; its last words: {last_words}" if last_words else ended


def run_job(
    job: Job,
    limits: ChildLimits,
    *,
    cancelled: threading.Event | None = None,
    on_started: Callable[[int], None] | None = None,
) -> Answer | JobDeath:
    """Run a job in a worker process and wait for its answer or its death.

    Args:
        job: what to do.
        limits: bounds on the worker's time and memory.
        cancelled: when set, the worker is killed.
        on_started: called with the worker's pid.
    """
    running = host.agent_version()
    outcome = run_child(WORKER_ARGV, encode(job), limits, cancelled=cancelled, on_started=on_started)
    upgraded = _upgrade(running)
    if outcome.answer is None:
        own_fault = outcome.end not in {ChildEnd.EXITED, ChildEnd.GARBAGE}
        return JobDeath(outcome, None if own_fault else upgraded)
    try:
        answer = decode_as(_ANSWER, outcome.answer)
    except WireError as error:
        reason = f"answered garbage: {error}"
        return JobDeath(replace(outcome, end=ChildEnd.GARBAGE, answer=None, reason=reason), upgraded)
    if upgraded is not None and isinstance(answer, ErrorAnswer) and answer.family == "internal":
        reason = f"did not do its job: {answer.reason}"
        return JobDeath(replace(outcome, end=ChildEnd.GARBAGE, answer=None, reason=reason), upgraded)
    return answer


def _upgrade(running: str) -> str | None:
    """Return which version was installed under this process, in words; None where it is the one that runs."""
    installed = host.installed_version()
    return None if installed == running else f"edgefleet {installed} was installed while {running} runs"
