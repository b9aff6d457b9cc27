"""Which of the variants that qualified becomes active, and in which words the others are told off."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgefleet_agent.records import Finding
from edgefleet_contract.accept import Choose
from edgefleet_contract.base import clip_reason
from edgefleet_contract.desired import DesiredModel
from edgefleet_contract.evidence import Verdict
from edgefleet_contract.report import Tried
from edgefleet_contract.units import format_bytes

_UNMEASURED = float("inf")


def choose_winner(choose: Choose, qualified: Sequence[Finding]) -> tuple[Finding | None, str | None]:
    """Return the finding that wins, and a remark when the objective could not be followed.

    Args:
        choose: the objective.
        qualified: candidates that passed every gate, in chain order; ties go to the earlier one.
    """
    if not qualified:
        return None, None
    if choose is Choose.LEAST_ENERGY and all(finding.per_inference_mj is None for finding in qualified):
        return qualified[0], "energy is unmeasured on this device, so the first variant that qualified was taken"
    return min(qualified, key=_cost_of(choose)), None


def _cost_of(choose: Choose) -> Callable[[Finding], float]:
    if choose is Choose.FASTEST:
        return lambda finding: _UNMEASURED if finding.p50_ms is None else finding.p50_ms
    if choose is Choose.LEAST_ENERGY:
        return lambda finding: _UNMEASURED if finding.per_inference_mj is None else finding.per_inference_mj
    if choose is Choose.SMALLEST:
        return lambda finding: finding.total_bytes
    return _no_cost  # `first`: all cost the same, and ties go to the earlier one


def _no_cost(_: Finding) -> float:
    return 0.0


def tried_entries(wish: DesiredModel, findings: Sequence[Finding], taken: str | None) -> tuple[Tried, ...]:
    """Return an entry with verdict and reason for each candidate that was tried and not taken, in chain order.

    Args:
        wish: the model's wish; its objective words the reason of those that qualified.
        findings: what was found out.
        taken: digest of the artifact that serves; None when none was taken.
    """
    winner = next((finding for finding in findings if finding.artifact == taken), None)
    place = {candidate.artifact: index for index, candidate in enumerate(wish.chain)}
    return tuple(
        Tried(variant=finding.variant, verdict=finding.verdict, reason=_why_not(wish.choose, finding, winner))
        for finding in sorted(findings, key=lambda finding: place.get(finding.artifact, -1))
        if finding.artifact != taken
    )


def _why_not(choose: Choose, finding: Finding, winner: Finding | None) -> str:
    if finding.verdict is not Verdict.QUALIFIED or winner is None:
        return clip_reason(finding.reason or finding.verdict.value)
    if choose is Choose.FASTEST and finding.p50_ms is not None and winner.p50_ms is not None:
        return f"slower: p50 {finding.p50_ms:.3g} ms against {winner.p50_ms:.3g} ms"
    if choose is Choose.SMALLEST:
        return f"larger: {format_bytes(finding.total_bytes)} against {format_bytes(winner.total_bytes)}"
    if choose is Choose.LEAST_ENERGY and winner.per_inference_mj is not None:
        return _more_energy(finding.per_inference_mj, winner.per_inference_mj)
    return "another variant was taken before it"


def _more_energy(energy_mj: float | None, winner_mj: float) -> str:
    if energy_mj is None:
        return "its energy is unmeasured"
    return f"more energy: {energy_mj:.3g} mJ against {winner_mj:.3g} mJ per inference"
