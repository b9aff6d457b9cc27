"""A plan and its artifacts to desired states: only what differs from what a device was already told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from edgefleet_contract.desired import MAX_MODELS, Candidate, DesiredModel, DesiredState, release_digest
from edgefleet_contract.errors import InternalError
from edgefleet_contract.report import Tried
from edgefleet_controller.planner.planning import DevicePlan, ModelPlan, Plan
from edgefleet_controller.planner.selection import PlanError

Action = Literal["deploy", "update", "no-change", "remove"]

Artifacts = Mapping[tuple[str, str], Candidate | Tried]
"""(model, variant) → what was built, or why it could not be."""


@dataclass(frozen=True)
class ModelAction:
    """What becomes of one model on one device.

    Attributes:
        model: its name.
        action: what is done.
        reason: why, in words.
        chain: variants the device would try, in order; empty when it is refused, removed or left alone.
        tried: variants that fell out before the device saw them: unsupported, or not built.
        wish: what the device is to hold of this model; None when it holds nothing, or an artifact is still to be built.
        refused: whether a deployment asks for it and no variant is left.
    """

    model: str
    action: Action
    reason: str
    chain: tuple[str, ...] = ()
    tried: tuple[Tried, ...] = ()
    wish: DesiredModel | None = None
    refused: bool = False


@dataclass(frozen=True)
class DeviceWish:
    """What one device is told: a new desired state, or None when it already has this wish."""

    device: str
    site: str
    actions: tuple[ModelAction, ...]
    desired: DesiredState | None


@dataclass(frozen=True)
class DesiredPlan:
    """Every device's wish, in the plan's order."""

    devices: tuple[DeviceWish, ...]

    @property
    def changed(self) -> bool:
        """Tell whether any device is told anything new."""
        return any(wish.desired is not None for wish in self.devices)


def actions_for(
    part: DevicePlan, artifacts: Artifacts, current: DesiredState | None, *, prune: bool
) -> tuple[ModelAction, ...]:
    """Say what becomes of each model on one device; an artifact that is not in `artifacts` is still to be built.

    Args:
        part: the device's part of a plan.
        artifacts: those that are known.
        current: what the device was last told; None for a new one.
        prune: remove models that no deployment brings to the device any more.
    """
    held = {wish.model: wish for wish in current.models} if current else {}
    planned = tuple(_planned(model, artifacts, held.get(model.model)) for model in part.models)
    named = {model.model for model in part.models}
    return planned + tuple(_left_over(wish, prune=prune) for name, wish in held.items() if name not in named)


def desired_for(
    plan: Plan,
    artifacts: Artifacts,
    current: Mapping[str, DesiredState],
    *,
    revision: int,
    issued_at_ns: int,
    prune: bool,
) -> DesiredPlan:
    """Return what each device is told, with the next generation where its wish differs from the current one.

    Args:
        plan: what shall be.
        artifacts: the outcome of every build of the plan.
        current: device → what it was last told.
        revision: the apply's number.
        issued_at_ns: wall-clock time since the epoch, in nanoseconds.
        prune: as in `actions_for`.

    Raises:
        PlanError: a device would hold more than `MAX_MODELS` models.
        InternalError: a build of the plan has no outcome.
    """
    missing = [build for build in plan.builds if (build.model, build.variant) not in artifacts]
    if missing:
        msg = f"no outcome for the build of {missing[0].model} as {missing[0].variant}"
        raise InternalError(msg)
    stamp = _Stamp(revision, issued_at_ns)
    return DesiredPlan(
        tuple(_device_wish(part, artifacts, current.get(part.device), stamp, prune=prune) for part in plan.devices)
    )


@dataclass(frozen=True)
class _Stamp:
    revision: int
    issued_at_ns: int


def _device_wish(
    part: DevicePlan, artifacts: Artifacts, current: DesiredState | None, stamp: _Stamp, *, prune: bool
) -> DeviceWish:
    actions = actions_for(part, artifacts, current, prune=prune)
    wishes = tuple(action.wish for action in actions if action.wish is not None)
    if len(wishes) > MAX_MODELS:
        msg = f"device {part.device} would hold {len(wishes)} models; allowed: {MAX_MODELS}"
        raise PlanError(msg, next_step="deploy fewer models to it, or remove old ones with --prune")
    new = DesiredState(
        site=part.site,
        device=part.device,
        generation=current.generation + 1 if current else 1,
        revision=stamp.revision,
        issued_at_ns=stamp.issued_at_ns,
        models=wishes,
    )
    changed = new.wish_digest != current.wish_digest if current else bool(wishes)
    return DeviceWish(part.device, part.site, actions, new if changed else None)


def _planned(part: ModelPlan, artifacts: Artifacts, held: DesiredModel | None) -> ModelAction:
    outcomes = {variant: artifacts.get((part.model, variant)) for variant in part.chain}
    tried = part.skipped + tuple(outcome for outcome in outcomes.values() if isinstance(outcome, Tried))
    chain = tuple(variant for variant, outcome in outcomes.items() if not isinstance(outcome, Tried))
    if not chain:
        return _refused(part, tried, held)
    action: Action = "deploy" if held is None else "update"
    built = tuple(outcome for outcome in outcomes.values() if isinstance(outcome, Candidate))
    if len(built) < len(chain):
        waiting = ", ".join(variant for variant in chain if outcomes[variant] is None)
        return ModelAction(part.model, action, f"still to be built: {waiting}", chain, tried)
    wish = _desired_model(part, built)
    if wish == held:
        return ModelAction(part.model, "no-change", "the device was already told this release", chain, tried, wish)
    return ModelAction(part.model, action, _difference(wish, held), chain, tried, wish)


def _refused(part: ModelPlan, tried: tuple[Tried, ...], held: DesiredModel | None) -> ModelAction:
    after = "what it was told before stays" if held else "nothing is sent"
    last = f": {tried[-1].reason}" if tried else ""
    reason = f"no variant of the chain can be tried on this device; {after}{last}"
    return ModelAction(part.model, "no-change", reason, (), tried, held, refused=True)


def _desired_model(part: ModelPlan, built: tuple[Candidate, ...]) -> DesiredModel:
    release = release_digest(part.model, built, part.choose, part.accept, part.task)
    return DesiredModel(
        model=part.model, release=release, chain=built, choose=part.choose, accept=part.accept, task=part.task
    )


def _difference(wish: DesiredModel, held: DesiredModel | None) -> str:
    if held is None:
        return "the device does not have this model yet"
    return "changed: " + ", ".join(_changed_parts(wish, held))


def _changed_parts(wish: DesiredModel, held: DesiredModel) -> Iterator[str]:
    if wish.chain != held.chain:
        same = [step.variant for step in wish.chain] == [step.variant for step in held.chain]
        yield "artifacts" if same else "chain"
    for name in ("choose", "accept", "task"):
        if getattr(wish, name) != getattr(held, name):
            yield name


def _left_over(held: DesiredModel, *, prune: bool) -> ModelAction:
    if prune:
        return ModelAction(held.model, "remove", "no deployment brings it to this device")
    reason = "no deployment brings it to this device; it is kept, --prune removes it"
    return ModelAction(held.model, "no-change", reason, wish=held)
