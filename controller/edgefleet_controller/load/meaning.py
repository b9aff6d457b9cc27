"""What a manifest's shape cannot say: names must be known, and one device must not get a model twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from edgefleet_contract.errors import Location, ManifestError
from edgefleet_contract.labels import parse_selector
from edgefleet_contract.manifest import ALL, BUILTIN_CLASSES, DeploymentSpec, Manifest, ModelSpec, is_class_name
from edgefleet_controller.words import nearest, shorten

Locate = Callable[[Sequence[str | int]], Location]


def check_meaning(manifest: Manifest, locate: Locate) -> Iterator[ManifestError]:
    """Yield every problem of meaning, each at its place."""
    for name, model in manifest.models.items():
        yield from _check_dynamic(name, model, locate)
    for name in manifest.classes:
        if name in BUILTIN_CLASSES or name == ALL:
            at = locate(("classes", name))
            yield ManifestError("a class of this name is built in; choose another name", location=at, offending=name)
    for index, deployment in enumerate(manifest.deployments):
        yield from _check_model(index, deployment, manifest, locate)
        yield from _check_targets(index, deployment, manifest, locate)
        yield from _check_chain(index, deployment, manifest, locate)
    yield from _check_twice(manifest, locate)


def _check_dynamic(name: str, model: ModelSpec, locate: Locate) -> Iterator[ManifestError]:
    for tensor, axes in model.dynamic.items():
        for axis, (smallest, usual, largest) in axes.items():
            if not 1 <= smallest <= usual <= largest:
                yield ManifestError(
                    f"sizes of axis {axis!r} must be [smallest, usual, largest], each at least 1",
                    location=locate(("models", name, "dynamic", tensor, axis)),
                    offending=shorten(f"[{smallest}, {usual}, {largest}]"),
                )


def _check_model(index: int, deployment: DeploymentSpec, manifest: Manifest, locate: Locate) -> Iterator[ManifestError]:
    if deployment.model not in manifest.models:
        yield ManifestError(
            f"unknown model; declared: {', '.join(manifest.models)}",
            location=locate(("deployments", index, "model")),
            offending=deployment.model,
            suggestion=nearest(deployment.model, manifest.models),
        )


def _check_targets(
    index: int, deployment: DeploymentSpec, manifest: Manifest, locate: Locate
) -> Iterator[ManifestError]:
    known = dict.fromkeys((ALL, *BUILTIN_CLASSES, *manifest.classes))
    for position, target in enumerate(deployment.to):
        at = locate(("deployments", index, "to", position))
        if not is_class_name(target):
            yield from _check_selector(target, at)
        elif target not in known:
            yield ManifestError(
                f"unknown class; known: {', '.join(known)}",
                location=at,
                offending=shorten(target),
                suggestion=nearest(target, known),
                next_step="declare it under `classes`, or write a selector such as site=lobby",
            )


def _check_selector(text: str, at: Location) -> Iterator[ManifestError]:
    try:
        parse_selector(text)
    except ValueError as error:
        yield ManifestError(f"neither a class nor a selector: {error}", location=at, offending=shorten(text))


def _check_chain(index: int, deployment: DeploymentSpec, manifest: Manifest, locate: Locate) -> Iterator[ManifestError]:
    """Yield classes with a chain of their own that the deployment does not go to.

    A deployment to `all` or to a selector may reach devices of any class.
    """
    if not isinstance(deployment.chain, dict):
        return
    named = list(deployment.to)
    open_ended = ALL in named or not all(is_class_name(target) for target in named)
    allowed = [*BUILTIN_CLASSES, *manifest.classes] if open_ended else named
    for name in deployment.chain:
        if name not in allowed:
            yield ManifestError(
                f"a chain for a class this deployment does not go to; it goes to: {', '.join(allowed)}",
                location=locate(("deployments", index, "chain", name)),
                offending=name,
                suggestion=nearest(name, allowed),
            )


def _check_twice(manifest: Manifest, locate: Locate) -> Iterator[ManifestError]:
    first: dict[tuple[str, str], tuple[int, int]] = {}
    for index, deployment in enumerate(manifest.deployments):
        for position, target in enumerate(deployment.to):
            earlier, place = first.setdefault((deployment.model, target), (index, position))
            if earlier != index:
                at = locate(("deployments", earlier, "to", place))
                yield ManifestError(
                    f"model {deployment.model!r} is deployed to this twice, first at {at}",
                    location=locate(("deployments", index, "to", position)),
                    offending=shorten(target),
                    next_step="keep one of the two",
                )
