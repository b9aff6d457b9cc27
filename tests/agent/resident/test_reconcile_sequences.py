"""Whatever happens in whatever order: what serves was proved, and nothing is said twice or out of turn."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgefleet_agent.consistency import check_consistency
from edgefleet_agent.reconcile import step
from edgefleet_agent.records import (
    Activate,
    Activated,
    ActivationFailed,
    AgentState,
    ArtifactReady,
    Deactivate,
    DesiredReceived,
    Event,
    Facts,
    Fetch,
    FetchFailed,
    RequalifyAsked,
    RetryDue,
    Say,
    Serving,
    Stage,
    Started,
    StartTrial,
    TrialDone,
)
from edgefleet_contract.accept import Choose
from edgefleet_contract.desired import Candidate, DesiredModel, DesiredState
from edgefleet_contract.evidence import Trial, Verdict
from edgefleet_contract.profile import EngineProbe, ProbeStatus, Profile
from edgefleet_contract.report import DeviceState, Transition

VARIANTS = ("ort/cpu/fp32", "ort/cpu/int8", "ort/cuda/fp16")
PROFILE = Profile(
    device="one",
    site="lab",
    agent_version="0",
    arch="x86_64",
    os="Linux",
    kernel="6",
    python_version="3.11",
    cpu_model="test",
    cpu_count=2,
    memory_bytes=1,
    disk_free_bytes=1,
    engines=(EngineProbe(target="ort/cpu", status=ProbeStatus.AVAILABLE),),
)

candidates = st.builds(
    lambda variant, digit: Candidate(
        variant=variant, artifact="sha256:" + digit * 64, document_bytes=1, total_bytes=int(digit, 16)
    ),
    st.sampled_from(VARIANTS),
    st.sampled_from("123456"),
)
wishes = st.builds(
    lambda model, chain, choose, release: DesiredModel(
        model=model, chain=tuple(chain), choose=choose, release="sha256:" + release * 64
    ),
    st.sampled_from(("m1", "m2")),
    st.lists(candidates, min_size=1, max_size=3, unique_by=lambda candidate: candidate.artifact),
    st.sampled_from(Choose),
    st.sampled_from("abc"),
)


class Agent(RuleBasedStateMachine):
    """Drives `step` with everything the world may do, and plays the disk."""

    @initialize()
    def begin(self) -> None:
        self.state = AgentState()
        self.disk: dict[str, Serving] = {}
        self.proved: set[str] = set()
        self.pending: Activate | None = None
        self.trial_of: dict[int, str] = {}
        self.releases: dict[tuple[str, str], DesiredModel] = {}
        self.feed(Started())

    def feed(self, event: Event) -> None:
        self.state, actions = step(self.state, event, Facts(PROFILE, 0))
        check_consistency(self.state)
        assert sum(isinstance(action, (Fetch, StartTrial, Activate)) for action in actions) <= 1
        for action in actions:
            self.do(action)

    def do(self, action: Any) -> None:
        if isinstance(action, StartTrial):
            self.trial_of[action.token] = action.artifact
        elif isinstance(action, Activate):
            assert action.serving.artifact in self.proved
            self.pending = action
        elif isinstance(action, Deactivate):
            self.disk.pop(action.model, None)
        elif isinstance(action, Say) and isinstance(action.body, Transition):
            assert action.body.generation == self.state.generation
            if action.body.state is DeviceState.ACTIVE:
                assert self.disk[action.body.model].artifact == action.body.artifact

    def is_in(self, stage: Stage) -> bool:
        return self.state.work is not None and self.state.work.stage is stage

    @property
    def token(self) -> int:
        assert self.state.work is not None
        return self.state.work.token

    @rule(wished=st.lists(wishes, max_size=2, unique_by=lambda wish: wish.model), ahead=st.integers(-1, 2))
    def desired(self, wished: list[DesiredModel], ahead: int) -> None:
        # A release names one wish for ever: that is what its digest means.
        held = tuple(self.releases.setdefault((wish.model, wish.release), wish) for wish in wished)
        generation = max(0, self.state.generation + ahead)
        self.feed(
            DesiredReceived(
                DesiredState(site="lab", device="one", generation=generation, revision=1, issued_at_ns=0, models=held)
            )
        )

    @precondition(lambda self: self.is_in(Stage.FETCH))
    @rule()
    def arrives(self) -> None:
        self.feed(ArtifactReady(self.token))

    @precondition(lambda self: self.is_in(Stage.FETCH))
    @rule(verdict=st.sampled_from((Verdict.FAILED, Verdict.CORRUPT)), transient=st.booleans())
    def does_not_arrive(self, verdict: Verdict, transient: bool) -> None:
        self.feed(FetchFailed(self.token, verdict, "no", transient))

    @precondition(lambda self: self.is_in(Stage.TRIAL))
    @rule(verdict=st.sampled_from((Verdict.QUALIFIED, Verdict.FAILED, Verdict.CRASHED)))
    def is_tried(self, verdict: Verdict) -> None:
        if verdict is Verdict.QUALIFIED:
            self.proved.add(self.trial_of[self.token])
        self.feed(TrialDone(self.token, Trial(verdict=verdict), 0, 1.0))

    @rule(token=st.integers(0, 50), kind=st.sampled_from((ArtifactReady, Activated)))
    def an_answer_of_old_work_comes(self, token: int, kind: Any) -> None:
        if self.state.work is None or token != self.token:
            self.feed(kind(token))

    @precondition(lambda self: self.is_in(Stage.ACTIVATE))
    @rule(works=st.booleans())
    def is_switched(self, works: bool) -> None:
        assert self.pending is not None
        if works:
            self.disk[self.pending.model] = self.pending.serving
        self.feed(Activated(self.token) if works else ActivationFailed(self.token, "disk"))

    @rule(model=st.sampled_from(("m1", "m2", "m3")))
    def retry(self, model: str) -> None:
        self.feed(RetryDue(model))

    @rule(model=st.sampled_from(("m1", "m2", "m3")))
    def requalify(self, model: str) -> None:
        self.feed(RequalifyAsked(model))

    @rule(stopped=st.booleans(), switched=st.booleans())
    def restart(self, stopped: bool, switched: bool) -> None:
        """The agent is stopped or dies, perhaps between the switch and its answer, and comes back."""
        strikes = {}
        if self.is_in(Stage.TRIAL) and not stopped:
            strikes = {self.trial_of[self.token]: "the agent died"}
        if self.is_in(Stage.ACTIVATE) and switched and self.pending is not None:
            self.disk[self.pending.model] = self.pending.serving
        self.feed(Started(dict(self.disk), strikes))

    @invariant()
    def what_serves_was_proved(self) -> None:
        if hasattr(self, "disk"):
            assert {held.artifact for held in self.disk.values()} <= self.proved


TestAgent = Agent.TestCase
TestAgent.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
