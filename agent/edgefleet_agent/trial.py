"""Runs one trial in a worker process and turns whatever becomes of it into a verdict."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgefleet_agent.blobs import Storage
from edgefleet_agent.jobs import JobDeath, run_job
from edgefleet_agent.records import StartTrial, TrialDone
from edgefleet_agent.sensors.files import read_word
from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_contract.base import clip_reason
from edgefleet_contract.child import ChildLimits
from edgefleet_contract.evidence import Gate, Trial, Verdict
from edgefleet_contract.job import Answer, ErrorAnswer, QualifyAnswer, QualifyJob

_VERDICT_OF_FAMILY = {"input": Verdict.FAILED, "device": Verdict.UNSUPPORTED, "internal": Verdict.FAILED}

_LEAST_MEMORY_BYTES = 256 * 1024**2
"""A worker with numpy and a runtime takes about half of it before it has a model."""

RunTrialJob = Callable[[QualifyJob, ChildLimits, threading.Event], "Answer | JobDeath"]
"""Runs a job in a worker and returns its answer or its death."""


@dataclass(frozen=True)
class TrialPorts:
    """What a trial needs.

    Attributes:
        storage: where the artifact lies.
        limits: bounds of the worker.
        test_runtimes: whether runtimes that misbehave on purpose may be used.
        run_job: runs a job in a worker.
    """

    storage: Storage
    limits: ChildLimits
    test_runtimes: bool
    run_job: RunTrialJob


def trial_limits(timeout_s: float, memory_bytes: int | None = None, root: Path = Path("/")) -> ChildLimits:
    """Return the bounds of a trial that starts now.

    Args:
        timeout_s: wall time it may take.
        memory_bytes: resident memory it may take; None: 80 % of what the kernel says new processes can have without
            swapping, and of no more than this container may hold (its control group is the root it sees). The rest is
            left to what else runs on the device: beyond it the kernel would choose whom to kill.
        root: where the file system begins.
    """
    if memory_bytes is None:
        limit = read_word(root / "sys/fs/cgroup/memory.max")
        available_bytes: int = psutil.virtual_memory().available
        free_bytes = min(available_bytes, int(limit)) if limit.isdecimal() else available_bytes
        memory_bytes = max(_LEAST_MEMORY_BYTES, free_bytes * 4 // 5)
    return ChildLimits(timeout_s=timeout_s, memory_bytes=memory_bytes)


def run_trial(order: StartTrial, ports: TrialPorts, cancelled: threading.Event) -> TrialDone | None:
    """Qualify an artifact; blocks until the worker has ended. Return None when cancelled.

    Every byte of the artifact is checked against its digest before the trial, and again after one that qualified:
    what becomes active is what was proved.
    """
    started_at_ns, started_s = time.time_ns(), time.monotonic()
    trial = _corrupt(order, ports) or _judged(order, ports, cancelled)
    if trial is None:
        return None
    if trial.verdict is Verdict.QUALIFIED:
        trial = _corrupt(order, ports) or trial
    return TrialDone(order.token, trial, started_at_ns, time.monotonic() - started_s)


def _corrupt(order: StartTrial, ports: TrialPorts) -> Trial | None:
    problem = ports.storage.problem(order.artifact)
    if problem is None:
        return None
    with contextlib.suppress(OSError):
        ports.storage.discard(order.artifact)
    reason = clip_reason(f"the artifact on disk is damaged: {problem}")
    return Trial(verdict=Verdict.CORRUPT, gate=Gate.FETCH, reason=reason, level=EvidenceLevel.BUILT_NOT_EXECUTED)


def _judged(order: StartTrial, ports: TrialPorts, cancelled: threading.Event) -> Trial | None:
    job = QualifyJob(
        artifact_dir=str(ports.storage.folder(order.artifact)),
        accept=order.accept,
        task=order.task,
        test_runtimes=ports.test_runtimes,
    )
    return trial_of(ports.run_job(job, ports.limits, cancelled))


def run_in_worker(job: QualifyJob, limits: ChildLimits, cancelled: threading.Event | None = None) -> Answer | JobDeath:
    """Run a job in a worker of this installation."""
    return run_job(job, limits, cancelled=cancelled, on_started=_first_to_go)


def trial_of(answer: Answer | JobDeath) -> Trial | None:
    """Return what an answer, or a worker's death, means for its artifact; None when it was cancelled."""
    if isinstance(answer, QualifyAnswer):
        return answer.trial
    if isinstance(answer, ErrorAnswer):
        return Trial(verdict=_VERDICT_OF_FAMILY[answer.family], gate=Gate.LOAD, reason=answer.reason)
    if not isinstance(answer, JobDeath):
        return Trial(verdict=Verdict.CRASHED, reason=f"the worker answered {answer.kind} when asked to qualify")
    if answer.verdict is None:
        return None
    return Trial(verdict=answer.verdict, reason=clip_reason(answer.reason))


def _first_to_go(pid: int) -> None:
    """Let the kernel kill the worker, not the agent, when the machine runs out of memory."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000", encoding="ascii")
