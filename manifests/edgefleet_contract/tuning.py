"""Recipes: how a variant is to be made of a model, where there is a choice; and the record of a search over them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgefleet_contract.base import ByteCount, Digest, Name, Reason, Record, Share
from edgefleet_contract.variant import VariantName

CalibrationMethod = Literal[
    "best", "minmax", "entropy", "percentile", "mse",
    "smoothed", "minmax-products", "minmax-layers", "layers-as-they-come",
]  # fmt: skip
"""`entropy`, `percentile` and `mse` are ONNX Runtime's. `smoothed` (a moving average of ranges), `minmax-products`
(integers in products only), `minmax-layers` (in layers with weights only) and `layers-as-they-come` (the same, inputs
rounded at run time) are TFLite's."""
MAX_POINTS = 1024


class Recipe(Record):
    """What may be chosen about a static int8 build; the default lets the build choose by its own figures."""

    calibration: CalibrationMethod = "best"
    """How ranges of activations are taken from calibration samples; `best`: by comparison."""
    keep_share: Share | None = None
    """Share of the weights that goes back to float where it helps most; None: only what a missed target asks for."""
    smoothquant: Literal["auto", "off"] = "auto"
    """Whether outliers of transformer activations are moved into weights; `auto`: where it helps."""

    @property
    def is_default(self) -> bool:
        """Tell whether everything is left to the build."""
        return self == Recipe()

    @property
    def words(self) -> str:
        """Return the recipe as people read it; empty for the default."""
        parts: list[str] = [self.calibration] if self.calibration != "best" else []
        parts += [f"{self.keep_share:.0%} in float"] if self.keep_share is not None else []
        parts += ["no SmoothQuant"] if self.smoothquant == "off" else []
        return ", ".join(parts)


class TunedPoint(Record):
    """One artifact of a search, with what it costs and how well it does."""

    variant: VariantName
    recipe: Recipe
    verdict: Literal["pass", "weak", "unsupported", "failed"]
    reason: Reason | None = None
    artifact: Digest | None = None
    size_bytes: ByteCount | None = None
    """Of the model file."""
    accuracy: float | None = None
    """In `accuracy_is`, higher is better."""
    accuracy_is: Literal["metric", "agreement", "worst_sqnr_db"] | None = None
    samples_n: Annotated[int, Field(ge=0)] = 0
    """Golden samples the accuracy was found on; 0: not known."""
    p50_ms: Annotated[float, Field(ge=0)] | None = None
    """On this machine; None where the variant does not run here."""
    ci95_p50_ms: tuple[float, float] | None = None
    n: Annotated[int, Field(ge=0)] = 0
    frontier: bool = False
    """Whether no other on the frontier is at least as good in accuracy, latency and size, and better in one; accuracies
    that the samples cannot tell apart count as equal."""
    within_limits: bool = True


class TunedModel(Record):
    """What a search over recipes found, for one source; `fleet apply` builds by it."""

    format: Literal["edgefleet/tuned/v1"] = "edgefleet/tuned/v1"
    model: Name
    source: Digest
    """The source it was found for; for any other it says nothing."""
    conditions: str = Field(max_length=512)
    points: tuple[TunedPoint, ...] = Field(max_length=MAX_POINTS)
    recipes: dict[VariantName, Recipe] = Field(default={}, max_length=128)
    """Variant → the recipe chosen."""
