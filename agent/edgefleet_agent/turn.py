"""One step of the rules in the making: the state so far, the actions so far, and the words for reports."""

from __future__ import annotations

from dataclasses import replace

from edgefleet_agent.records import (
    Action,
    AgentState,
    CancelWork,
    Facts,
    Finding,
    ModelProgress,
    Said,
    Say,
    Serving,
    Stage,
    Work,
)
from edgefleet_contract.desired import Candidate, DesiredModel
from edgefleet_contract.errors import InternalError
from edgefleet_contract.evidence import Conditions, Evidence, Trial, Verdict
from edgefleet_contract.job import LatencyBudget
from edgefleet_contract.profile import Profile
from edgefleet_contract.report import DeviceState, EvidenceReport, Transition
from edgefleet_contract.variant import parse_variant

_DEATHS = frozenset({Verdict.CRASHED, Verdict.TIMEOUT, Verdict.OUT_OF_MEMORY})


def is_open(progress: ModelProgress) -> bool:
    """Tell whether a model is wished for and its walk has not ended."""
    return progress.wish is not None and progress.settled is None


def serving_of(wish: DesiredModel, candidate: Candidate) -> Serving:
    """Return what serves once a candidate of a wish is active."""
    return Serving(artifact=candidate.artifact, variant=candidate.variant, release=wish.release)


def release_words(serving: Serving, wish: DesiredModel | None) -> str:
    """Return which variant of which release an `undo` went to: a second one goes forward again."""
    if wish is not None and serving.release == wish.release:
        return f"{serving.variant} of the wished release"
    return f"{serving.variant} of the release before it"


def not_wished(model: str) -> str:
    """Return the answer to an order for a model that nobody wishes for, with what to do next."""
    return f"nobody wishes for {model} on this device (next: edgefleet-agent status lists the models)"


def with_conditions(trial: Trial, variant: str, profile: Profile) -> Trial:
    """Return a trial whose worker died with the conditions the profile tells: it had no time to tell them itself.

    `threads` is what every trial of an agent uses; `extra.told_by` says that the worker did not confirm it.
    """
    if trial.conditions is not None or trial.verdict not in _DEATHS:
        return trial
    parsed = parse_variant(variant)
    engine = profile.engine(parsed.target)
    modes = (mode.partition(" ") for mode in profile.power_mode.split(", ") if mode)
    conditions = Conditions(
        arch=profile.arch,
        os=profile.os,
        cpu_model=profile.cpu_model,
        cpu_count=profile.cpu_count,
        runtime=parsed.runtime,
        runtime_version=engine.version if engine and engine.version else "unknown",
        threads=LatencyBudget().threads,
        agent_version=profile.agent_version,
        extra={"told_by": "profile", **{name: value for name, _, value in modes}},
    )
    return trial.model_copy(update={"conditions": conditions})


class Turn:
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
        """Cancel the work in hand if it is this model's.

        A switch cannot be cancelled: it was made before anything else could happen, and only its answer is on the way.
        """
        work = self.state.work
        if work is None or work.model != model:
            return
        progress = self.state.progress(model)
        if work.stage is Stage.ACTIVATE and progress is not None and progress.wish is not None:
            self.put(progress.model_copy(update={"serving": serving_of(progress.wish, work.candidate)}))
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
