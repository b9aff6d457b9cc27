"""What a trial has found out so far, and how it ends when a gate is missed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgefleet_agent.qualify.verdict import Ruling
from edgefleet_contract.base import clip_reason
from edgefleet_contract.evidence import Gate, Trial, Verdict

MAX_WARNINGS = 16
"""As many as a trial's record holds."""


class GateMissedError(Exception):
    """A gate was missed: the trial ends with this verdict."""

    def __init__(self, verdict: Verdict, gate: Gate, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.gate = gate
        self.reason = clip_reason(reason)


@dataclass
class Findings:
    """Figures by their field of `Trial`, and warnings."""

    measured: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def rule(self, ruling: Ruling, gate: Gate) -> None:
        """Take over a ruling's warnings. Raises GateMissedError when it missed its gate."""
        for text in ruling.warnings:
            self.warn(text)
        if ruling.missed is not None:
            raise GateMissedError(Verdict.FAILED, gate, ruling.missed)

    def warn(self, text: str) -> None:
        """Note something worth saying that misses no gate."""
        self.warnings.append(clip_reason(text))

    def trial(self, missed: GateMissedError | None = None) -> Trial:
        """Return everything as a trial: qualified, or ended at the gate that was missed."""
        return Trial(
            verdict=missed.verdict if missed else Verdict.QUALIFIED,
            gate=missed.gate if missed else None,
            reason=missed.reason if missed else None,
            warnings=tuple(self.warnings[:MAX_WARNINGS]),
            **self.measured,
        )
