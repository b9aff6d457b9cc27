"""The agent's rules without an agent: a test plays the world, event by event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from edgefleet_agent.consistency import check_consistency
from edgefleet_agent.reconcile import step
from edgefleet_agent.records import (
    Action,
    Activated,
    AgentState,
    ArtifactReady,
    Event,
    Facts,
    Say,
    TrialDone,
)
from edgefleet_contract.evidence import Evidence, Trial, Verdict
from edgefleet_contract.report import EvidenceReport, Transition

A = TypeVar("A", bound=Action)


@dataclass
class Drive:
    """Feeds events to `step` as the agent's loop would, and keeps what came of them."""

    facts: Facts
    state: AgentState
    actions: list[Action]

    def __call__(self, event: Event) -> tuple[Action, ...]:
        """Let an event happen; return what the rules want done."""
        self.state, actions = step(self.state, event, self.facts)
        check_consistency(self.state)
        self.actions += actions
        return actions

    @property
    def token(self) -> int:
        """Return the token of the work in hand."""
        assert self.state.work is not None, "nothing is in hand"  # noqa: S101 - a test's misuse
        return self.state.work.token

    def last(self, kind: type[A]) -> A:
        """Return the last action of a kind."""
        return next(action for action in reversed(self.actions) if isinstance(action, kind))

    def said(self) -> list[Transition]:
        """Return the transitions reported."""
        bodies = [action.body for action in self.actions if isinstance(action, Say)]
        return [body for body in bodies if isinstance(body, Transition)]

    def evidence(self) -> list[Evidence]:
        """Return the evidence reported."""
        bodies = [action.body for action in self.actions if isinstance(action, Say)]
        return [body.evidence for body in bodies if isinstance(body, EvidenceReport)]

    def try_next(self, trial: Trial) -> None:
        """Let the artifact in work arrive and be tried with this outcome."""
        self(ArtifactReady(self.token))
        self(TrialDone(self.token, trial, 5, 1.5))

    def qualify_and_activate(self) -> None:
        """Let the artifact in work qualify and become active."""
        self.try_next(Trial(verdict=Verdict.QUALIFIED))
        self(Activated(self.token))
