"""Run one step of a build in a child process: a compile step, or a job of the agent's worker.

A step that does not end in the answer asked for raises `StepError`, which says whose fault it is and holds all that is
needed to repeat it.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from edgefleet_contract.base import Record, clip_reason
from edgefleet_contract.child import ChildEnd, ChildLimits, ChildOutcome, run_child
from edgefleet_contract.errors import EdgefleetError
from edgefleet_contract.evidence import Verdict
from edgefleet_contract.job import Answer, CompareAnswer, CompareJob, ErrorAnswer, OutputsAnswer, OutputsJob
from edgefleet_controller.compile.protocol import (
    BuildAnswer,
    BuildRequest,
    CompileAnswer,
    CoverageAnswer,
    CoverageRequest,
    FaultAnswer,
    IngestAnswer,
    IngestRequest,
    JoinAnswer,
    JoinRequest,
    RandomSamplesAnswer,
    RandomSamplesRequest,
)

COMPILE_ARGV = (sys.executable, "-m", "edgefleet_controller.compile")
WORKER_ARGV = (sys.executable, "-m", "edgefleet_agent.worker")

REPRODUCE_COMMAND = "command.sh"
"""In a failed step's folder: what repeats it."""
_GIB = 1024**3
_CHECK = ChildLimits(timeout_s=180.0, memory_bytes=6 * _GIB)
_BUILD = ChildLimits(timeout_s=900.0, memory_bytes=8 * _GIB)
_RUN = ChildLimits(timeout_s=600.0, memory_bytes=6 * _GIB)
_COMPILE_ANSWER: TypeAdapter[Record] = TypeAdapter(CompileAnswer)
_WORKER_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
_VERDICTS = {ChildEnd.TIMEOUT: Verdict.TIMEOUT, ChildEnd.OUT_OF_MEMORY: Verdict.OUT_OF_MEMORY}
_Got = TypeVar("_Got", bound=Record)
_STOPPING: ContextVar[threading.Event | None] = ContextVar("stopping", default=None)


@dataclass(frozen=True)
class StepLimits:
    """Bounds on each step. Large on purpose: they stop what hangs or leaks, not what is slow.

    Attributes:
        check: checking a model and its samples.
        build: making a model file; calibration by several methods is the longest.
        run: one job of the agent's worker on all golden samples.
    """

    check: ChildLimits = _CHECK
    build: ChildLimits = _BUILD
    run: ChildLimits = _RUN


@dataclass(frozen=True)
class Command:
    """What was run, so it can be run again."""

    argv: tuple[str, ...]
    request: bytes
    stderr_tail: str = ""

    @property
    def shell(self) -> str:
        """Return the command line that repeats it, with `request.json` beside it; the answer goes to `answer.json`."""
        return f"EDGEFLEET_ANSWER_FD=3 {shlex.join(self.argv)} < request.json 3> answer.json"


class StepError(EdgefleetError):
    """A step of a build did not give what it was run for.

    Args:
        verdict: what the attempt ends in.
        message: why.
        command: what was run.
        lasting: whether the same inputs would fail again, so the failure may be remembered.
        fault: the user's fault it was, where the compiler named one.
    """

    def __init__(
        self,
        verdict: Verdict,
        message: str,
        command: Command,
        *,
        lasting: bool = False,
        fault: FaultAnswer | None = None,
    ) -> None:
        super().__init__(message)
        self.verdict = verdict
        self.command = command
        self.lasting = lasting
        self.fault = fault


class StoppedError(EdgefleetError):
    """A step was not run, or killed, because whoever asked for the build wants no more of it. Says nothing of it."""


@contextmanager
def stopped_by(stopping: threading.Event) -> Iterator[None]:
    """While inside, let the steps of this thread raise StoppedError once the event is set; what runs is killed."""
    token = _STOPPING.set(stopping)
    try:
        yield
    finally:
        _STOPPING.reset(token)


class Steps(Protocol):
    """The steps of checks and builds. Each raises StepError when it does not give its answer."""

    def ingest(self, request: IngestRequest) -> IngestAnswer:
        """Check a model with its samples."""

    def build(self, request: BuildRequest) -> BuildAnswer:
        """Make a model file."""

    def outputs(self, job: OutputsJob) -> OutputsAnswer:
        """Run a model on samples."""

    def compare(self, job: CompareJob) -> CompareAnswer:
        """Ask for parity of two files of outputs."""


class ChildSteps:
    """Each step in a child process of its own, within limits."""

    def __init__(self, limits: StepLimits | None = None) -> None:
        self._limits = limits or StepLimits()

    def ingest(self, request: IngestRequest) -> IngestAnswer:
        """Check a model with its samples. Raises StepError."""
        exports = Path(request.source).suffix in {".keras", ".pt2", ".py"}
        return _compile(request, self._limits.build if exports else self._limits.check, IngestAnswer)

    def build(self, request: BuildRequest) -> BuildAnswer:
        """Make a model file. Raises StepError."""
        return _compile(request, self._limits.build, BuildAnswer)

    def join(self, request: JoinRequest) -> JoinAnswer:
        """Write a model and the files of its weights as one file. Raises StepError."""
        return _compile(request, self._limits.check, JoinAnswer)

    def random_samples(self, request: RandomSamplesRequest) -> RandomSamplesAnswer:
        """Draw samples. Raises StepError."""
        return _compile(request, self._limits.check, RandomSamplesAnswer)

    def coverage(self, request: CoverageRequest) -> CoverageAnswer:
        """Say where operators would run. Raises StepError."""
        return _compile(request, self._limits.build, CoverageAnswer)

    def outputs(self, job: OutputsJob) -> OutputsAnswer:
        """Run a model on samples. Raises StepError."""
        return _work(job, self._limits.run, OutputsAnswer)

    def compare(self, job: CompareJob) -> CompareAnswer:
        """Ask for parity of two files of outputs. Raises StepError."""
        return _work(job, self._limits.run, CompareAnswer)


def keep_for_reproduction(command: Command, work_dir: Path, dest: Path) -> None:
    """Copy a failed step's folder to `dest`, with its request, the command that repeats it, and what it printed."""
    shutil.rmtree(dest, ignore_errors=True)
    dest.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(work_dir, dest)
    request = command.request.replace(str(work_dir).encode(), str(dest).encode())
    (dest / "request.json").write_bytes(request)
    (dest / "stderr.txt").write_text(command.stderr_tail, encoding="utf-8")
    # Last: a folder that has it is complete.
    (dest / REPRODUCE_COMMAND).write_text(f"cd {shlex.quote(str(dest))} && {command.shell}\n", encoding="utf-8")


def _compile(request: Record, limits: ChildLimits, wanted: type[_Got]) -> _Got:
    command, outcome = _run(COMPILE_ARGV, request, limits)
    answer = _parse(_COMPILE_ANSWER, outcome, command)
    if isinstance(answer, FaultAnswer):
        verdict = Verdict.UNSUPPORTED if answer.family == "unsupported" else Verdict.BUILD_FAILED
        raise StepError(verdict, answer.reason, command, lasting=True, fault=answer)
    return _expect(answer, wanted, command)


def _work(job: Record, limits: ChildLimits, wanted: type[_Got]) -> _Got:
    command, outcome = _run(WORKER_ARGV, job, limits)
    answer = _parse(_WORKER_ANSWER, outcome, command)
    if isinstance(answer, ErrorAnswer):
        raise StepError(Verdict.BUILD_FAILED, answer.reason, command, lasting=answer.family == "input")
    return _expect(answer, wanted, command)


def _run(argv: Sequence[str], request: Record, limits: ChildLimits) -> tuple[Command, ChildOutcome]:
    data = request.model_dump_json().encode()
    stopping = _STOPPING.get()
    if stopping is not None and stopping.is_set():
        raise StoppedError("was not started")
    outcome = run_child(argv, data, limits, cancelled=stopping)
    if outcome.end is ChildEnd.CANCELLED:
        raise StoppedError(outcome.reason)
    command = Command(tuple(argv), data, outcome.stderr_tail)
    if outcome.end is not ChildEnd.ANSWERED:
        last = outcome.stderr_tail.strip().rpartition("\n")[2]
        said = f"; its last words: {last}" if last and outcome.end is ChildEnd.EXITED else ""
        step = getattr(request, "kind", "step")
        raise StepError(
            _VERDICTS.get(outcome.end, Verdict.CRASHED), clip_reason(f"{step} step {outcome.reason}{said}"), command
        )
    return command, outcome


def _parse(adapter: TypeAdapter[_Got], outcome: ChildOutcome, command: Command) -> _Got:
    try:
        return adapter.validate_json(outcome.answer or b"")
    except ValidationError as error:
        raise StepError(
            Verdict.CRASHED, f"answered what is no answer: {error.error_count()} faults", command
        ) from error


def _expect(answer: Record, wanted: type[_Got], command: Command) -> _Got:
    if not isinstance(answer, wanted):
        raise StepError(Verdict.CRASHED, f"answered {type(answer).__name__}, not {wanted.__name__}", command)
    return answer
