"""The agent's rules: `step(state, event, facts) -> (state, actions)`. No I/O, no clock.

Each model's chain is walked in order, one candidate of one model at a time: a second trial, or a transfer beside it,
would disturb the latencies that are measured. A model's serving artifact changes only through `Activated`, which
only follows a trial that qualified that artifact under the wished release.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgefleet_agent.choose import choose_winner, tried_entries
from edgefleet_agent.records import (
    Action,
    Activate,
    Activated,
    ActivationFailed,
    AgentState,
    ArtifactReady,
    CancelWork,
    CollectGarbage,
    Deactivate,
    DesiredReceived,
    Event,
    Facts,
    Fetch,
    FetchFailed,
    Finding,
    ModelProgress,
    RequalifyAsked,
    RetryDue,
    RetryLater,
    Said,
    Say,
    Serving,
    Settled,
    Stage,
    Started,
    StartTrial,
    TrialDone,
    Work,
)
from edgefleet_contract.accept import Choose
from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_contract.base import clip_reason
from edgefleet_contract.desired import Candidate, DesiredModel, DesiredState
from edgefleet_contract.errors import InternalError
from edgefleet_contract.evidence import Evidence, Gate, Trial, Verdict
from edgefleet_contract.profile import unsupported_reason
from edgefleet_contract.report import DeviceState, EvidenceReport, Transition
from edgefleet_contract.variant import parse_variant

REBOOT_POINTS = 10
"""Strike points when the machine went down during an attempt: nearly always the artifact's doing."""
RESTART_POINTS = 1
"""Strike points when only the agent went down: mostly somebody stopped it, or the kernel wanted its memory."""
CRASH_POINTS = 10
"""Strike points when the worker died: once may be somebody else's doing (a kill, the kernel short of memory)."""
STRIKE_LIMIT = 20
"""At this many points an artifact is refused: two crashes or reboots, or an agent that died twenty times on it."""

RETRY_FIRST_S = 60.0
"""First wait after failures that may pass; doubled each time: a full disk is not emptied in seconds."""
RETRY_LONGEST_S = 3600.0

KEPT_REASON = "no change: this release already serves"


def step(state: AgentState, event: Event, facts: Facts) -> tuple[AgentState, tuple[Action, ...]]:
    """Return the state after an event and what to do now.

    The state must be written down, together with the reports among the actions, before the actions are carried out.
    Answers of cancelled work, generations not above the present one and unknown models change nothing.
    """
    turn = _Turn(state, facts)
    _RULES[type(event)](turn, event)
    turn.advance()
    return turn.state, tuple(turn.actions)


class _Turn:
    """One step in the making: the state so far and the actions so far."""

    def __init__(self, state: AgentState, facts: Facts) -> None:
        self.state = state
        self.facts = facts
        self.actions: list[Action] = []

    def put(self, progress: ModelProgress) -> ModelProgress:
        """Replace one model's progress."""
        models = tuple(progress if old.model == progress.model else old for old in self.state.models)
        self.state = replace(self.state, models=models)
        return progress

    def hand(self, progress: ModelProgress, candidate: Candidate, stage: Stage) -> int:
        """Take new work in hand and return its token."""
        token = self.state.next_token
        work = Work(token, progress.model, candidate, stage)
        self.state = replace(self.state, work=work, next_token=token + 1)
        return token

    def drop_work(self, model: str) -> None:
        """Cancel the work in hand if it is this model's."""
        work = self.state.work
        if work is not None and work.model == model:
            self.state = replace(self.state, work=None)
            self.actions.append(CancelWork(work.token))

    def finish(self, token: int, stage: Stage) -> tuple[Work, ModelProgress, DesiredModel] | None:
        """Return the work with this token and lay it down, or None when it was cancelled."""
        work = self.state.work
        progress = self.state.progress(work.model) if work is not None else None
        if work is None or work.token != token or work.stage is not stage:
            return None
        if progress is None or progress.wish is None:
            msg = f"work in hand for {work.model}, which nobody wishes for"
            raise InternalError(msg)
        self.state = replace(self.state, work=None)
        return work, progress, progress.wish

    def advance(self) -> None:
        """Walk on until something is in hand or every model is settled."""
        was_open = any(_is_open(progress) for progress in self.state.models)
        while self.state.work is None:
            progress = next((progress for progress in self.state.models if _is_open(progress)), None)
            if progress is None or progress.wish is None:
                break
            _walk(self, progress, progress.wish)
        else:
            return
        if was_open or self.actions:
            self.actions.append(CollectGarbage(_wanted(self.state)))

    def say(self, progress: ModelProgress, transition: Transition) -> ModelProgress:
        """Report a transition, unless the same was the last thing said of this model."""
        said = Said(state=transition.state, generation=transition.generation, variant=transition.variant)
        if progress.said == said and transition.state in {DeviceState.FETCHING, DeviceState.QUALIFYING}:
            return progress
        self.actions.append(Say(transition))
        return self.put(progress.model_copy(update={"said": said}))

    def say_working(
        self, progress: ModelProgress, wish: DesiredModel, state: DeviceState, candidate: Candidate
    ) -> None:
        """Report that a candidate is being fetched or qualified."""
        self.say(
            progress,
            Transition(
                model=wish.model,
                state=state,
                generation=self.state.generation,
                release=wish.release,
                variant=candidate.variant,
                artifact=candidate.artifact,
            ),
        )

    def record(
        self, progress: ModelProgress, wish: DesiredModel, finding: Finding, trial: Trial, *, span: tuple[int, float]
    ) -> None:
        """Note a finding and report its evidence. `span`: start in ns since the epoch, and duration in seconds."""
        self.put(progress.model_copy(update={"findings": (*progress.findings, finding)}))
        self.testify(wish, finding, trial, span=span)

    def testify(self, wish: DesiredModel, finding: Finding, trial: Trial, *, span: tuple[int, float]) -> None:
        """Report the evidence of a finding. `span` as in `record`."""
        measured = {name: getattr(trial, name) for name in Trial.model_fields}
        evidence = Evidence(
            **measured,
            model=wish.model,
            variant=finding.variant,
            artifact=finding.artifact,
            release=wish.release,
            generation=self.state.generation,
            started_at_ns=span[0],
            duration_s=span[1],
        )
        self.actions.append(Say(EvidenceReport(evidence=evidence)))


def _is_open(progress: ModelProgress) -> bool:
    return progress.wish is not None and progress.settled is None


def _wanted(state: AgentState) -> frozenset[str]:
    wishes = [progress.wish for progress in state.models if progress.wish is not None]
    return frozenset(candidate.artifact for wish in wishes for candidate in wish.chain)


def _walk(turn: _Turn, progress: ModelProgress, wish: DesiredModel) -> None:
    candidate = next((step for step in wish.chain if progress.finding(step.artifact) is None), None)
    if candidate is None or (wish.choose is Choose.FIRST and progress.qualified):
        _decide(turn, progress, wish)
        return
    lacking = unsupported_reason(turn.facts.profile, parse_variant(candidate.variant))
    if lacking is not None:
        _rule_out(turn, progress, wish, candidate, (Verdict.UNSUPPORTED, lacking))
    elif turn.state.strikes.get(candidate.artifact, 0) >= STRIKE_LIMIT:
        _rule_out(turn, progress, wish, candidate, (Verdict.CRASHED, "crashed the device or its agent again and again"))
    else:
        token = turn.hand(progress, candidate, Stage.FETCH)
        turn.say_working(progress, wish, DeviceState.FETCHING, candidate)
        turn.actions.append(Fetch(token, candidate))


def _rule_out(
    turn: _Turn, progress: ModelProgress, wish: DesiredModel, candidate: Candidate, cause: tuple[Verdict, str]
) -> None:
    """Note a finding that needs no trial: `cause` is its verdict and reason."""
    verdict, reason = cause[0], clip_reason(cause[1])
    unsupported = verdict is Verdict.UNSUPPORTED
    level = EvidenceLevel.TABLE_ONLY if unsupported else EvidenceLevel.EXECUTED_ON_DEVICE
    finding = Finding(
        artifact=candidate.artifact, variant=candidate.variant, verdict=verdict, reason=reason, probed=unsupported
    )
    trial = Trial(verdict=verdict, gate=Gate.LOAD, reason=reason, level=level)
    turn.record(progress, wish, finding, trial, span=(turn.facts.now_ns, 0.0))


def _decide(turn: _Turn, progress: ModelProgress, wish: DesiredModel) -> None:
    winner, _ = choose_winner(wish.choose, progress.qualified)
    if winner is None:
        _refuse(turn, progress, wish, "no variant qualified")
        return
    candidate = next(step for step in wish.chain if step.artifact == winner.artifact)
    token = turn.hand(progress, candidate, Stage.ACTIVATE)
    turn.actions.append(Activate(token, wish.model, _serving(wish, candidate), winner))


def _serving(wish: DesiredModel, candidate: Candidate) -> Serving:
    return Serving(artifact=candidate.artifact, variant=candidate.variant, release=wish.release)


def _refuse(turn: _Turn, progress: ModelProgress, wish: DesiredModel, cause: str) -> None:
    held = progress.serving
    rest = f"{held.variant} of the previous release still serves" if held else "nothing serves"
    if held is not None and held.release == wish.release:
        rest = f"{held.variant} still serves"
    progress = turn.put(progress.model_copy(update={"settled": Settled.REFUSED}))
    progress = turn.say(
        progress,
        Transition(
            model=wish.model,
            state=DeviceState.REFUSED,
            generation=turn.state.generation,
            release=wish.release,
            tried=tried_entries(wish, progress.findings, None),
            reason=clip_reason(f"{cause}; {rest}"),
        ),
    )
    _plan_retry(turn, progress)


def _plan_retry(turn: _Turn, progress: ModelProgress) -> None:
    may_pass = any(finding.transient for finding in progress.findings) or bool(progress.qualified)
    if progress.settled is Settled.REFUSED and may_pass:
        delay_s = min(RETRY_FIRST_S * 2.0 ** min(progress.retries_n, 10), RETRY_LONGEST_S)
        turn.actions.append(RetryLater(progress.model, delay_s))


def _on_started(turn: _Turn, event: Started) -> None:
    strikes = dict(turn.state.strikes)
    for artifact, points in event.strikes.items():
        strikes[artifact] = strikes.get(artifact, 0) + points
    known = {progress.model for progress in turn.state.models}
    found = tuple(
        ModelProgress(model=model, serving=serving) for model, serving in event.on_disk.items() if model not in known
    )
    turn.state = replace(turn.state, work=None, strikes=strikes, models=turn.state.models + found)
    for progress in turn.state.models:
        _plan_retry(turn, turn.put(_met_with_disk(turn, progress, event.on_disk.get(progress.model))))


def _met_with_disk(turn: _Turn, progress: ModelProgress, on_disk: Serving | None) -> ModelProgress:
    """Believe the disk: a model that does not serve what was noted is walked again; a new engine reopens a refusal."""
    held = progress.serving
    if (held.artifact if held else None) != (on_disk.artifact if on_disk else None):
        return progress.model_copy(update={"serving": on_disk, "findings": (), "settled": None})
    if progress.settled is not Settled.REFUSED:
        return progress
    kept = tuple(finding for finding in progress.findings if not _engine_came(turn, finding))
    if len(kept) == len(progress.findings):
        return progress
    return progress.model_copy(update={"findings": kept, "settled": None})


def _engine_came(turn: _Turn, finding: Finding) -> bool:
    return finding.probed and unsupported_reason(turn.facts.profile, parse_variant(finding.variant)) is None


def _on_desired(turn: _Turn, event: DesiredReceived) -> None:
    desired = event.desired
    if desired.generation <= turn.state.generation:
        return
    turn.state = replace(turn.state, generation=desired.generation, strikes={})
    wished = {wish.model for wish in desired.models}
    for progress in turn.state.models:
        if progress.model not in wished:
            _remove(turn, progress)
    turn.state = replace(turn.state, models=_ordered(turn.state, desired))
    for wish in desired.models:
        _take_over(turn, wish)


def _ordered(state: AgentState, desired: DesiredState) -> tuple[ModelProgress, ...]:
    return tuple(state.progress(wish.model) or ModelProgress(model=wish.model) for wish in desired.models)


def _remove(turn: _Turn, progress: ModelProgress) -> None:
    turn.drop_work(progress.model)
    removed = Transition(model=progress.model, state=DeviceState.REMOVED, generation=turn.state.generation)
    turn.actions += [Deactivate(progress.model), Say(removed)]


def _take_over(turn: _Turn, wish: DesiredModel) -> None:
    progress = turn.state.progress(wish.model) or ModelProgress(model=wish.model)
    if progress.wish is None or progress.wish.release != wish.release:
        turn.drop_work(wish.model)
        fresh = {"wish": wish, "findings": (), "settled": None, "retries_n": 0}
        turn.put(progress.model_copy(update=fresh))
    elif progress.settled is Settled.ACTIVE:
        _say_active(turn, progress, wish, KEPT_REASON)
    elif progress.settled is Settled.REFUSED:
        turn.put(progress.model_copy(update={"findings": (), "settled": None, "retries_n": 0}))
    else:
        _say_again(turn, progress, wish)


def _say_again(turn: _Turn, progress: ModelProgress, wish: DesiredModel) -> None:
    """Say under the new generation what is already in hand."""
    work = turn.state.work
    if work is None or work.model != wish.model or work.stage is Stage.ACTIVATE:
        return
    state = DeviceState.FETCHING if work.stage is Stage.FETCH else DeviceState.QUALIFYING
    turn.say_working(progress, wish, state, work.candidate)


def _say_active(turn: _Turn, progress: ModelProgress, wish: DesiredModel, reason: str | None) -> None:
    held = progress.serving
    if held is None:
        msg = f"{progress.model} is settled as active and serves nothing"
        raise InternalError(msg)
    turn.say(
        progress,
        Transition(
            model=wish.model,
            state=DeviceState.ACTIVE,
            generation=turn.state.generation,
            release=wish.release,
            variant=held.variant,
            artifact=held.artifact,
            tried=tried_entries(wish, progress.findings, held.artifact),
            reason=reason,
        ),
    )


def _on_ready(turn: _Turn, event: ArtifactReady) -> None:
    done = turn.finish(event.token, Stage.FETCH)
    if done is None:
        return
    work, progress, wish = done
    token = turn.hand(progress, work.candidate, Stage.TRIAL)
    turn.say_working(progress, wish, DeviceState.QUALIFYING, work.candidate)
    turn.actions.append(StartTrial(token, work.candidate.artifact, wish.accept, wish.task))


def _on_fetch_failed(turn: _Turn, event: FetchFailed) -> None:
    done = turn.finish(event.token, Stage.FETCH)
    if done is None:
        return
    work, progress, wish = done
    reason = clip_reason(event.reason)
    finding = Finding(
        artifact=work.candidate.artifact,
        variant=work.candidate.variant,
        verdict=event.verdict,
        reason=reason,
        transient=event.transient,
    )
    trial = Trial(verdict=event.verdict, gate=Gate.FETCH, reason=reason, level=EvidenceLevel.BUILT_NOT_EXECUTED)
    turn.record(progress, wish, finding, trial, span=(turn.facts.now_ns, 0.0))


def _on_trial(turn: _Turn, event: TrialDone) -> None:
    done = turn.finish(event.token, Stage.TRIAL)
    if done is None:
        return
    work, progress, wish = done
    trial = event.trial
    finding = Finding(
        artifact=work.candidate.artifact,
        variant=work.candidate.variant,
        verdict=trial.verdict,
        reason=trial.reason,
        p50_ms=trial.latency.p50_ms if trial.latency else None,
        per_inference_mj=trial.energy.per_inference_mj if trial.energy else None,
        total_bytes=work.candidate.total_bytes,
    )
    span = (event.started_at_ns, event.duration_s)
    if trial.verdict is Verdict.CRASHED and _may_try_again(turn, finding.artifact):
        turn.testify(wish, finding, trial, span=span)
    else:
        turn.record(progress, wish, finding, trial, span=span)


def _may_try_again(turn: _Turn, artifact: str) -> bool:
    """Count a crash against an artifact, and tell whether it is below the limit: then it is walked to once more."""
    points = turn.state.strikes.get(artifact, 0) + CRASH_POINTS
    turn.state = replace(turn.state, strikes={**turn.state.strikes, artifact: points})
    return points < STRIKE_LIMIT


def _on_activated(turn: _Turn, event: Activated) -> None:
    done = turn.finish(event.token, Stage.ACTIVATE)
    if done is None:
        return
    work, progress, wish = done
    _, note = choose_winner(wish.choose, progress.qualified)
    active = {"serving": _serving(wish, work.candidate), "settled": Settled.ACTIVE, "retries_n": 0}
    _say_active(turn, turn.put(progress.model_copy(update=active)), wish, note)


def _on_activation_failed(turn: _Turn, event: ActivationFailed) -> None:
    done = turn.finish(event.token, Stage.ACTIVATE)
    if done is not None:
        _refuse(turn, done[1], done[2], f"could not switch: {event.reason}")


def _on_requalify(turn: _Turn, event: RequalifyAsked) -> None:
    progress = turn.state.progress(event.model)
    if progress is not None and progress.wish is not None:
        turn.drop_work(event.model)
        turn.put(progress.model_copy(update={"findings": (), "settled": None}))


def _on_retry(turn: _Turn, event: RetryDue) -> None:
    progress = turn.state.progress(event.model)
    if progress is None or progress.settled is not Settled.REFUSED:
        return
    kept = tuple(finding for finding in progress.findings if not finding.transient)
    again = {"findings": kept, "settled": None, "retries_n": progress.retries_n + 1}
    turn.put(progress.model_copy(update=again))


_RULES: dict[type[Any], Callable[[_Turn, Any], None]] = {
    Started: _on_started,
    DesiredReceived: _on_desired,
    ArtifactReady: _on_ready,
    FetchFailed: _on_fetch_failed,
    TrialDone: _on_trial,
    Activated: _on_activated,
    ActivationFailed: _on_activation_failed,
    RequalifyAsked: _on_requalify,
    RetryDue: _on_retry,
}


def check_consistency(state: AgentState) -> None:
    """Refuse a state that no sequence of events may lead to. Raises InternalError that names it."""
    names = [progress.model for progress in state.models]
    _require(len(set(names)) == len(names), "a model stands twice")
    for progress in state.models:
        _check_progress(progress)
    if state.work is not None:
        progress_in_work = state.progress(state.work.model)
        _require(progress_in_work is not None and _is_open(progress_in_work), "work for a model that is settled")


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
