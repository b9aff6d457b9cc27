"""The agent's rules: `step(state, event, facts) -> (state, actions)`. No I/O, no clock.

Each model's chain is walked in order, one candidate of one model at a time: a second trial, or a transfer beside it,
would disturb the latencies that are measured. A model's serving artifact changes only through `Activated`, which
only follows a trial that qualified that artifact under the wished release.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
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
    CollectGarbage,
    Deactivate,
    DesiredReceived,
    EnvironmentSeen,
    Event,
    Facts,
    Fetch,
    FetchFailed,
    Finding,
    ModelProgress,
    RequalifyAsked,
    RetryDue,
    RetryLater,
    Say,
    Serving,
    Settled,
    Stage,
    Started,
    StartTrial,
    TrialDone,
    Undone,
)
from edgefleet_agent.turn import Turn, is_open, release_words, serving_of, with_conditions
from edgefleet_contract.accept import Choose
from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_contract.base import clip_reason
from edgefleet_contract.desired import Candidate, DesiredModel, DesiredState
from edgefleet_contract.errors import InternalError
from edgefleet_contract.evidence import Gate, Trial, Verdict
from edgefleet_contract.profile import unsupported_reason
from edgefleet_contract.report import DeviceState, Transition
from edgefleet_contract.variant import parse_variant

STRIKE_LIMIT = 2
"""After so many trials that ended with the death of the worker, the agent or the machine an artifact is refused.

One may be somebody else's doing: a kill, the kernel short of memory. A third is not risked: each may be a reboot.
"""

RETRY_FIRST_S = 60.0
"""First wait after failures that may pass; doubled each time: a full disk is not emptied in seconds."""
RETRY_LONGEST_S = 3600.0

REOPENED: Mapping[str, object] = {"findings": (), "settled": None}
"""What a model that is walked anew has not got."""

KEPT_REASON = "no change: this release already serves"


def step(state: AgentState, event: Event, facts: Facts) -> tuple[AgentState, tuple[Action, ...]]:
    """Return the state after an event and what to do now.

    The state must be written down, together with the reports among the actions, before the actions are carried out.
    Answers of cancelled work, generations not above the present one and unknown models change nothing.
    """
    turn = Turn(state, facts)
    _RULES[type(event)](turn, event)
    _advance(turn)
    return turn.state, tuple(turn.actions)


def _advance(turn: Turn) -> None:
    """Walk on until something is in hand or every model is settled."""
    was_open = any(is_open(progress) for progress in turn.state.models)
    while turn.state.work is None:
        progress = next((progress for progress in turn.state.models if is_open(progress)), None)
        if progress is None or progress.wish is None:
            break
        _walk(turn, progress, progress.wish)
    else:
        return
    if was_open or turn.actions:
        turn.actions.append(CollectGarbage(turn.state.wanted))


def _walk(turn: Turn, progress: ModelProgress, wish: DesiredModel) -> None:
    candidate = next((step for step in wish.chain if progress.finding(step.artifact) is None), None)
    if candidate is None or (wish.choose is Choose.FIRST and progress.qualified):
        _decide(turn, progress, wish)
        return
    struck = turn.state.strikes.get(candidate.artifact, ())
    lacking = unsupported_reason(turn.facts.profile, parse_variant(candidate.variant))
    if lacking is not None:
        _rule_out(turn, progress, wish, candidate, (Verdict.UNSUPPORTED, lacking))
    elif len(struck) >= STRIKE_LIMIT:
        reason = f"not tried again after {len(struck)} trials that ended like this: {struck[-1]}"
        _rule_out(turn, progress, wish, candidate, (Verdict.CRASHED, reason))
    else:
        token = turn.hand(progress, candidate, Stage.FETCH)
        turn.say_working(progress, wish, DeviceState.FETCHING, candidate)
        turn.actions.append(Fetch(token, candidate))


def _rule_out(
    turn: Turn, progress: ModelProgress, wish: DesiredModel, candidate: Candidate, cause: tuple[Verdict, str]
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


def _decide(turn: Turn, progress: ModelProgress, wish: DesiredModel) -> None:
    winner, _ = choose_winner(wish.choose, progress.qualified)
    if winner is None:
        _refuse(turn, progress, wish, "no variant qualified")
        return
    candidate = next(step for step in wish.chain if step.artifact == winner.artifact)
    token = turn.hand(progress, candidate, Stage.ACTIVATE)
    turn.actions.append(Activate(token, wish.model, serving_of(wish, candidate), winner))


def _refuse(turn: Turn, progress: ModelProgress, wish: DesiredModel, cause: str) -> None:
    held = progress.serving
    rest = f"{held.variant} of the previous release still serves" if held else "nothing serves"
    if held is not None and held.release == wish.release:
        rest = f"{held.variant} still serves"
    progress = turn.put(progress.model_copy(update={"settled": Settled.REFUSED}))
    _plan_retry(turn, _say_refused(turn, progress, wish, f"{cause}; {rest}"))


def _say_refused(turn: Turn, progress: ModelProgress, wish: DesiredModel, reason: str) -> ModelProgress:
    refused = Transition(
        model=wish.model,
        state=DeviceState.REFUSED,
        generation=turn.state.generation,
        release=wish.release,
        tried=tried_entries(wish, progress.findings, None),
        reason=clip_reason(reason),
    )
    return turn.say(progress, refused)


def _plan_retry(turn: Turn, progress: ModelProgress) -> None:
    may_pass = any(finding.transient for finding in progress.findings) or bool(progress.qualified)
    if progress.settled is Settled.REFUSED and may_pass:
        delay_s = min(RETRY_FIRST_S * 2.0 ** min(progress.retries_n, 10), RETRY_LONGEST_S)
        turn.actions.append(RetryLater(progress.model, delay_s))


def _on_started(turn: Turn, event: Started) -> None:
    for artifact, how in event.strikes.items():
        _strike(turn, artifact, how)
    known = {progress.model for progress in turn.state.models}
    found = tuple(
        ModelProgress(model=model, serving=serving) for model, serving in event.on_disk.items() if model not in known
    )
    environment = turn.facts.profile.environment
    changed = _is_elsewhere(turn)
    turn.state = replace(turn.state, work=None, models=turn.state.models + found, environment=environment)
    for progress in turn.state.models:
        met = _met_with_disk(turn, progress, event.on_disk.get(progress.model))
        met = turn.put(_proved_elsewhere(met) if changed else met)
        if met.settled is Settled.UNDONE and met.said is None and met.wish is not None:
            _say_undone(turn, met, met.wish)  # while no agent ran
        _plan_retry(turn, met)


def _is_elsewhere(turn: Turn) -> bool:
    """Tell whether what was proved here was proved under another driver, runtime, kernel or power mode."""
    return turn.state.environment not in {"", turn.facts.profile.environment}


def _proved_elsewhere(progress: ModelProgress) -> ModelProgress:
    """Reopen what was proved elsewhere, half a chain too; what serves serves on while it is proved again."""
    if progress.wish is None or progress.settled is Settled.UNDONE:
        return progress
    return progress.model_copy(update=REOPENED)


def _on_environment(turn: Turn, _: EnvironmentSeen) -> None:
    changed = _is_elsewhere(turn)
    turn.state = replace(turn.state, environment=turn.facts.profile.environment)
    for progress in turn.state.models if changed else ():
        turn.put(_proved_elsewhere(_dropped(turn, progress)))


def _met_with_disk(turn: Turn, progress: ModelProgress, on_disk: Serving | None) -> ModelProgress:
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


def _engine_came(turn: Turn, finding: Finding) -> bool:
    return finding.probed and unsupported_reason(turn.facts.profile, parse_variant(finding.variant)) is None


def _on_desired(turn: Turn, event: DesiredReceived) -> None:
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


def _remove(turn: Turn, progress: ModelProgress) -> None:
    turn.drop_work(progress.model)
    removed = Transition(model=progress.model, state=DeviceState.REMOVED, generation=turn.state.generation)
    turn.actions += [Deactivate(progress.model), Say(removed)]


def _take_over(turn: Turn, wish: DesiredModel) -> None:
    progress = turn.state.progress(wish.model) or ModelProgress(model=wish.model)
    if progress.wish is None or progress.wish.release != wish.release:
        progress = _dropped(turn, progress)
        fresh = {"wish": wish, "findings": (), "settled": None, "retries_n": 0}
        turn.put(progress.model_copy(update=fresh))
    elif progress.settled is Settled.UNDONE:
        _say_undone(turn, progress, wish)
    elif progress.settled is Settled.ACTIVE:
        _say_active(turn, progress, wish, KEPT_REASON)
    elif progress.settled is Settled.REFUSED:
        turn.put(progress.model_copy(update={"findings": (), "settled": None, "retries_n": 0}))
    else:
        _say_again(turn, progress, wish)


def _dropped(turn: Turn, progress: ModelProgress) -> ModelProgress:
    """Cancel a model's work in hand; return how far it has come with that."""
    turn.drop_work(progress.model)
    return turn.state.progress(progress.model) or progress


def _say_again(turn: Turn, progress: ModelProgress, wish: DesiredModel) -> None:
    """Say under the new generation what is already in hand."""
    work = turn.state.work
    if work is None or work.model != wish.model or work.stage is Stage.ACTIVATE:
        return
    state = DeviceState.FETCHING if work.stage is Stage.FETCH else DeviceState.QUALIFYING
    turn.say_working(progress, wish, state, work.candidate)


def _say_active(turn: Turn, progress: ModelProgress, wish: DesiredModel, reason: str | None) -> None:
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


def _on_ready(turn: Turn, event: ArtifactReady) -> None:
    done = turn.finish(event.token, Stage.FETCH)
    if done is None:
        return
    work, progress, wish = done
    token = turn.hand(progress, work.candidate, Stage.TRIAL)
    turn.say_working(progress, wish, DeviceState.QUALIFYING, work.candidate)
    turn.actions.append(StartTrial(token, work.candidate.artifact, wish.accept, wish.task))


def _on_fetch_failed(turn: Turn, event: FetchFailed) -> None:
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


def _on_trial(turn: Turn, event: TrialDone) -> None:
    done = turn.finish(event.token, Stage.TRIAL)
    if done is None:
        return
    work, progress, wish = done
    trial = with_conditions(event.trial, work.candidate.variant, turn.facts.profile)
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
    if trial.verdict is Verdict.QUALIFIED:
        turn.state = _forgiven(turn.state, {finding.artifact})
    if trial.verdict is Verdict.CRASHED and _strike(turn, finding.artifact, trial.reason or "the worker died"):
        turn.testify(wish, finding, trial, span=span)
    else:
        turn.record(progress, wish, finding, trial, span=span)


def _strike(turn: Turn, artifact: str, how: str) -> bool:
    """Note how a trial of an artifact ended, and tell whether it is below the limit: then it is walked to once more."""
    struck = (*turn.state.strikes.get(artifact, ()), how)
    turn.state = replace(turn.state, strikes={**turn.state.strikes, artifact: struck})
    return len(struck) < STRIKE_LIMIT


def _forgiven(state: AgentState, artifacts: Collection[str]) -> AgentState:
    """Forget the strikes of artifacts that qualified (crashes years apart are no habit) or that somebody asks for."""
    strikes = {artifact: struck for artifact, struck in state.strikes.items() if artifact not in artifacts}
    return replace(state, strikes=strikes)


def _chain_of(progress: ModelProgress) -> frozenset[str]:
    return frozenset(candidate.artifact for candidate in progress.wish.chain) if progress.wish else frozenset()


def _on_activated(turn: Turn, event: Activated) -> None:
    done = turn.finish(event.token, Stage.ACTIVATE)
    if done is None:
        return
    work, progress, wish = done
    _, note = choose_winner(wish.choose, progress.qualified)
    active = {"serving": serving_of(wish, work.candidate), "settled": Settled.ACTIVE, "retries_n": 0}
    _say_active(turn, turn.put(progress.model_copy(update=active)), wish, note)


def _on_activation_failed(turn: Turn, event: ActivationFailed) -> None:
    done = turn.finish(event.token, Stage.ACTIVATE)
    if done is not None:
        _refuse(turn, done[1], done[2], f"could not switch: {event.reason}")


def _on_requalify(turn: Turn, event: RequalifyAsked) -> None:
    progress = turn.state.progress(event.model)
    if progress is not None and progress.wish is not None:
        if event.forgives:
            turn.state = _forgiven(turn.state, _chain_of(progress))
        turn.put(_dropped(turn, progress).model_copy(update=REOPENED))


def _on_undone(turn: Turn, event: Undone) -> None:
    """Somebody at the device went back to the previous release: until another is wished, or `requalify`."""
    progress = turn.state.progress(event.model)
    if progress is None:
        return
    turn.drop_work(event.model)
    undone = {"serving": event.serving, "settled": Settled.UNDONE if progress.wish is not None else None}
    progress = turn.put(progress.model_copy(update=undone))
    if progress.wish is not None:
        _say_undone(turn, progress, progress.wish)


def undone_while_stopped(state: AgentState, model: str, serving: Serving) -> AgentState:
    """Return the state after `undo` with no agent running: the next start reports it."""
    return _with_progress(state, model, {"serving": serving, "settled": Settled.UNDONE, "said": None})


def reopened_while_stopped(state: AgentState, model: str) -> AgentState:
    """Return the state after `requalify` with no agent running: the next start proves the model again."""
    progress = state.progress(model)
    forgiven = _forgiven(state, _chain_of(progress)) if progress is not None else state
    return _with_progress(forgiven, model, dict(REOPENED))


def _with_progress(state: AgentState, model: str, update: dict[str, object]) -> AgentState:
    models = tuple(
        progress.model_copy(update=update) if progress.model == model and progress.wish is not None else progress
        for progress in state.models
    )
    return replace(state, models=models)


def _say_undone(turn: Turn, progress: ModelProgress, wish: DesiredModel) -> None:
    held = progress.serving
    serves = f"{release_words(held, wish)} serves" if held else "nothing serves"
    _say_refused(turn, progress, wish, f"undone by hand on the device; {serves}")


def _on_retry(turn: Turn, event: RetryDue) -> None:
    progress = turn.state.progress(event.model)
    if progress is None or progress.settled is not Settled.REFUSED:
        return
    kept = tuple(finding for finding in progress.findings if not finding.transient)
    again = {"findings": kept, "settled": None, "retries_n": progress.retries_n + 1}
    turn.put(progress.model_copy(update=again))


_RULES: dict[type[Any], Callable[[Turn, Any], None]] = {
    Started: _on_started,
    EnvironmentSeen: _on_environment,
    DesiredReceived: _on_desired,
    ArtifactReady: _on_ready,
    FetchFailed: _on_fetch_failed,
    TrialDone: _on_trial,
    Activated: _on_activated,
    ActivationFailed: _on_activation_failed,
    RequalifyAsked: _on_requalify,
    RetryDue: _on_retry,
    Undone: _on_undone,
}
