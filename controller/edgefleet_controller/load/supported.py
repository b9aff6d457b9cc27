"""What the language says but this version does not do yet: refused before anything changes, never ignored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgefleet_contract.errors import ManifestError
from edgefleet_contract.manifest import DeploymentSpec, Manifest, ModelSpec
from edgefleet_controller.load.loaded import LoadedManifest
from edgefleet_controller.load.problem import raise_problems
from edgefleet_controller.words import shorten


@dataclass(frozen=True)
class Unsupported:
    """A part of a valid manifest this version cannot keep; `path` leads to it."""

    path: tuple[str | int, ...]
    message: str
    next_step: str
    offending: str | None = None


def check_supported(loaded: LoadedManifest) -> None:
    """Refuse what this version cannot keep: rollouts in waves, user functions.

    Raises:
        ManifestError: with the place of each such part.
    """
    raise_problems(
        ManifestError(
            part.message, location=loaded.locate(part.path), offending=part.offending, next_step=part.next_step
        )
        for part in find_unsupported(loaded.manifest)
    )


def find_unsupported(manifest: Manifest) -> Iterator[Unsupported]:
    """Yield each part of a manifest that this version cannot keep."""
    for name, model in manifest.models.items():
        yield from _hooks(("models", name), model)
    for index, deployment in enumerate(manifest.deployments):
        yield from _rollout(("deployments", index), deployment)


def _hooks(path: tuple[str | int, ...], model: ModelSpec) -> Iterator[Unsupported]:
    if isinstance(model.preprocess, str):
        yield Unsupported(
            (*path, "preprocess"),
            "preprocess by module:function is not in this version",
            "declare preprocess with the keys `fleet schema` lists",
            shorten(model.preprocess),
        )


def _rollout(path: tuple[str | int, ...], deployment: DeploymentSpec) -> Iterator[Unsupported]:
    if deployment.rollout is not None:
        yield Unsupported(
            (*path, "rollout"),
            "rollouts in waves with gates are not in this version; every device is served at once",
            "remove the `rollout` block",
        )
