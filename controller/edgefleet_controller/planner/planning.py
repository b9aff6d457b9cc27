"""Manifest and facts to a plan: which artifacts to build, and what each device shall try."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgefleet_contract.accept import Accept, Choose, MetricAccept
from edgefleet_contract.base import clip_reason
from edgefleet_contract.evidence import Task, Verdict
from edgefleet_contract.labels import Selector
from edgefleet_contract.manifest import DeploymentSpec, Manifest, MetricSpec, ModelSpec, metric_accept
from edgefleet_contract.profile import unsupported_reason
from edgefleet_contract.report import Tried
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.planner.facts import BuilderFacts, DeviceFacts, ModelFacts
from edgefleet_controller.planner.selection import (
    PlanError,
    builtin_class,
    class_selectors,
    lookup_order,
    select_devices,
)

DEFAULT_CHAINS: Mapping[str, tuple[str, ...]] = {
    "jetson": ("tensorrt/gpu/int8", "tensorrt/gpu/fp16", "ort/cuda/fp16", "ort/cpu/int8", "ort/cpu/fp32"),
    "coral": ("tflite/edgetpu/int8", "tflite/xnnpack/int8", "ort/cpu/int8", "ort/cpu/fp32"),
    "phone": ("tflite/gpu/fp16", "tflite/xnnpack/int8", "ort/cpu/int8", "ort/cpu/fp32"),
    "cpu": ("ort/cpu/int8", "ort/cpu/fp32"),
}
"""Built-in class → its chain: the accelerator's fastest precision first, fp32 on the CPU as what always runs."""


@dataclass(frozen=True, order=True)
class Build:
    """An artifact that is needed."""

    model: str
    variant: str


@dataclass(frozen=True)
class ModelPlan:
    """What one device shall try for one model.

    Attributes:
        model: its name.
        chain: variants to try there, in order; empty when there is none, so that the device's row is `refused`.
        skipped: variants of the wanted chain that cannot be tried, with the reason.
        wanted: the whole chain the manifest wants there, in order.
        choose: which of those that qualify is taken.
        accept: what must hold.
        task: what the outputs mean, where the manifest says so.
        deployment: index of the deployment that asks for it.
    """

    model: str
    chain: tuple[str, ...]
    skipped: tuple[Tried, ...]
    wanted: tuple[str, ...]
    choose: Choose
    accept: Accept
    task: Task | None
    deployment: int


@dataclass(frozen=True)
class DevicePlan:
    """What one device shall do; no models where no deployment reaches it."""

    device: str
    site: str
    models: tuple[ModelPlan, ...]


@dataclass(frozen=True)
class Plan:
    """The builds that are needed, in the order of first need, and every known device's part."""

    builds: tuple[Build, ...]
    devices: tuple[DevicePlan, ...]


def plan(
    manifest: Manifest, devices: Sequence[DeviceFacts], builder: BuilderFacts, models: Mapping[str, ModelFacts]
) -> Plan:
    """Say what is to be built and what each device shall try.

    Args:
        manifest: a valid manifest.
        devices: every device the controller knows, with distinct names.
        builder: what this controller can build.
        models: facts of every model some deployment names.

    Raises:
        PlanError: no devices, a deployment or selector reaches none, two deployments bring one model to one device,
            or a metric needs labels the samples do not have. `path` says where in the manifest.
    """
    if not devices:
        raise PlanError("the controller knows no device yet", next_step="start an agent: edgefleet-agent run")
    claims: dict[tuple[str, str], ModelPlan] = {}
    classes = class_selectors(manifest)
    for index, deployment in enumerate(manifest.deployments):
        own_chains = models[deployment.model].own_chains or DEFAULT_CHAINS
        metric = _metric(deployment.model, manifest.models[deployment.model], models[deployment.model])
        for facts in select_devices(index, deployment, classes, devices):
            key = (facts.name, deployment.model)
            if key in claims:
                raise _conflict(index, claims[key].deployment, facts.name, deployment)
            claims[key] = _model_plan(
                index, manifest, metric, _wanted_chain(deployment, classes, facts, own_chains), facts, builder
            )
    parts = tuple(
        DevicePlan(
            facts.name, facts.profile.site, tuple(part for (device, _), part in claims.items() if device == facts.name)
        )
        for facts in devices
    )
    return Plan(tuple(_builds(claims.values())), parts)


def _builds(parts: Iterable[ModelPlan]) -> dict[Build, None]:
    return dict.fromkeys(Build(part.model, variant) for part in parts for variant in part.chain)


def _metric(name: str, spec: ModelSpec, facts: ModelFacts) -> MetricAccept | None:
    """Return the metric a model is judged by: the manifest's, else top-1 where the samples have labels."""
    if spec.metric is None:
        return MetricAccept() if facts.has_labels else None
    path = ("models", name, "metric")
    if isinstance(spec.metric, MetricSpec) and not facts.has_labels:
        msg = f"metric {spec.metric.kind.value} needs labels, and the samples of {name} have none"
        raise PlanError(msg, path=path, next_step="add an array `labels` to the samples, or remove the metric")
    return metric_accept(spec.metric)


def _conflict(index: int, earlier: int, device: str, deployment: DeploymentSpec) -> PlanError:
    return PlanError(
        f"deployments[{earlier}] and deployments[{index}] both bring model {deployment.model} to device {device}",
        path=("deployments", index, "to"),
        next_step="narrow one of the two selections",
    )


def _wanted_chain(
    deployment: DeploymentSpec,
    classes: Mapping[str, Selector],
    facts: DeviceFacts,
    defaults: Mapping[str, tuple[str, ...]],
) -> tuple[str, ...]:
    """Return the chain the manifest wants on a device; of chains by class, the first class it is of decides."""
    if isinstance(deployment.chain, tuple):
        return deployment.chain
    labels, chains = facts.selectable, deployment.chain or {}
    fitting = (name for name in lookup_order(deployment, classes) if name in chains and classes[name].matches(labels))
    name = next(fitting, None)
    return defaults[builtin_class(labels)] if name is None else chains[name]


def _model_plan(
    index: int,
    manifest: Manifest,
    metric: MetricAccept | None,
    wanted: Sequence[str],
    facts: DeviceFacts,
    builder: BuilderFacts,
) -> ModelPlan:
    deployment = manifest.deployments[index]
    reasons = {variant: _skip_reason(variant, facts, builder) for variant in wanted}
    return ModelPlan(
        model=deployment.model,
        chain=tuple(variant for variant, reason in reasons.items() if reason is None),
        skipped=tuple(
            Tried(variant=variant, verdict=Verdict.UNSUPPORTED, reason=clip_reason(reason))
            for variant, reason in reasons.items()
            if reason is not None
        ),
        wanted=tuple(reasons),
        choose=deployment.choose,
        accept=deployment.accept.resolve(metric),
        task=manifest.models[deployment.model].task,
        deployment=index,
    )


def _skip_reason(variant: str, facts: DeviceFacts, builder: BuilderFacts) -> str | None:
    """Return why a variant need not be tried; what the device lacks says more than what the builder lacks."""
    return unsupported_reason(facts.profile, parse_variant(variant)) or builder.unbuildable_reason(variant)
