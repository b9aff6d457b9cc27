"""What the planner is told: devices, the builder, and models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgefleet_contract.profile import Profile, merged_labels


@dataclass(frozen=True)
class DeviceFacts:
    """A device: what it says it is, and the labels an operator gave it."""

    profile: Profile
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the device's name."""
        return self.profile.device

    @property
    def selectable(self) -> dict[str, str]:
        """Return the labels selectors see. An operator's label overlays the device's own, but not its identity."""
        merged = merged_labels(self.profile.labels, self.labels.items())
        return self.profile.model_copy(update={"labels": merged}).selectable


@dataclass(frozen=True)
class BuilderFacts:
    """What this controller can build.

    Attributes:
        buildable: variants it can build.
        reasons: variant → why it cannot be built, where there is more to say than that.
    """

    buildable: frozenset[str]
    reasons: Mapping[str, str] = field(default_factory=dict)

    def unbuildable_reason(self, variant: str) -> str | None:
        """Return why a variant cannot be built, or None when it can."""
        if variant in self.buildable:
            return None
        listed = ", ".join(sorted(self.buildable)) or "nothing"
        return self.reasons.get(variant, f"this controller does not build {variant}; it builds {listed}")


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model's source and samples."""

    has_labels: bool
    n_samples: int
    own_chains: Mapping[str, tuple[str, ...]] | None = None
    """Built-in class → default chain, for a source the usual ones do not fit."""
