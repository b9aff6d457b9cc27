"""What every state of the agent's rules must hold, whatever led to it."""

from __future__ import annotations

from edgefleet_agent.records import AgentState, ModelProgress, Settled
from edgefleet_agent.turn import is_open
from edgefleet_contract.errors import InternalError


def check_consistency(state: AgentState) -> None:
    """Refuse a state that no sequence of events may lead to. Raises InternalError that names it."""
    names = [progress.model for progress in state.models]
    _require(len(set(names)) == len(names), "a model stands twice")
    for progress in state.models:
        _check_progress(progress)
    if state.work is not None:
        progress_in_work = state.progress(state.work.model)
        _require(progress_in_work is not None and is_open(progress_in_work), "work for a model that is settled")


def _check_progress(progress: ModelProgress) -> None:
    artifacts = [finding.artifact for finding in progress.findings]
    _require(len(set(artifacts)) == len(artifacts), f"two findings on one artifact of {progress.model}")
    if progress.settled is None:
        return
    _require(progress.wish is not None, f"{progress.model} is settled though nobody wishes for it")
    if progress.settled is Settled.ACTIVE:
        held = progress.serving
        _require(held is not None, f"{progress.model} is active and serves nothing")
        proved = held is not None and held.artifact in {finding.artifact for finding in progress.qualified}
        _require(proved, f"{progress.model} serves an artifact that did not qualify")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise InternalError(problem)
