"""Which points of a search no other beats, and which recipe of each variant to choose. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgefleet_contract.artifact import HostCheck
from edgefleet_contract.tuning import Recipe, TunedPoint
from edgefleet_controller.paired import Outcomes, compare, p_value

RISK = 0.05
"""Chance of taking noise for a difference, for all comparisons of one variant together."""
SQNR_NOISE_DB = 1.0
"""Where outputs are no classes: differences of the worst sample below this count as none. One sample decides it."""
_SIZE_MATTERS = 0.01
_EXACT_DB = 200.0
"""Stands for outputs equal to the last bit, whose ratio is infinite; above every measured one."""


def accuracy_of(check: HostCheck | None) -> tuple[float | None, str | None]:
    """Return how well a point does and in what: the metric, else agreement, else the worst sample's SQNR in dB."""
    if check is None or check.verdict is None:
        return None, None
    if check.metric_measured is not None:
        return check.metric_measured, "metric"
    if check.agreement is not None:
        return check.agreement, "agreement"
    return (check.worst_sqnr_db if check.worst_sqnr_db is not None else _EXACT_DB), "worst_sqnr_db"


@dataclass(frozen=True)
class Noise:
    """What the samples can tell apart.

    Attributes:
        right: variant and recipe → outcome of each sample, where outcomes are known.
        tests_n: comparisons that share `RISK` (Bonferroni).
    """

    right: Mapping[tuple[str, Recipe], Outcomes] = field(default_factory=dict)
    tests_n: int = 1

    def differ(self, one: TunedPoint, other: TunedPoint) -> bool:
        """Tell whether two accuracies differ by more than noise.

        Without outcomes, the number of samples says the least that could make a difference; without that number any
        difference counts.
        """
        gap = abs((one.accuracy or 0.0) - (other.accuracy or 0.0))
        if one.accuracy_is == "worst_sqnr_db" or gap == 0.0:
            return gap >= SQNR_NOISE_DB
        ours, theirs = (self.right.get((each.variant, each.recipe)) for each in (one, other))
        if ours is not None and theirs is not None and len(ours) == len(theirs):
            return compare(ours, theirs) < RISK / self.tests_n
        samples_n = min(one.samples_n, other.samples_n)
        return samples_n == 0 or p_value(round(gap * samples_n), 0) < RISK / self.tests_n


NO_OUTCOMES = Noise()


def with_frontier(points: Sequence[TunedPoint], noise: Noise = NO_OUTCOMES) -> tuple[TunedPoint, ...]:
    """Return the points with those marked that no other on the frontier beats.

    A point that beats another never comes after it in order of latency, size and accuracy, so one pass finds them all.
    """
    front: list[TunedPoint] = []
    for point in sorted((each for each in points if _eligible(each)), key=_costs):
        if not any(_beats(other, point, noise) for other in front):
            front.append(point)
    return tuple(each.model_copy(update={"frontier": any(each is chosen for chosen in front)}) for each in points)


def _eligible(point: TunedPoint) -> bool:
    return point.verdict in {"pass", "weak"} and point.within_limits and point.accuracy is not None


def _beats(one: TunedPoint, other: TunedPoint, noise: Noise) -> bool:
    """Tell whether a point is at least as good in all that both have, and better in something."""
    if one.accuracy_is != other.accuracy_is or (one.p50_ms is None) != (other.p50_ms is None):
        return False
    gain = (one.accuracy or 0.0) - (other.accuracy or 0.0)
    costs = list(zip(_costs(one)[:2], _costs(other)[:2], strict=True))
    if any(ours > theirs for ours, theirs in costs):
        return False
    if any(ours < theirs for ours, theirs in costs):
        return gain >= 0 or not noise.differ(one, other)
    return gain > 0


def _costs(point: TunedPoint) -> tuple[float, float, float]:
    return point.p50_ms or 0.0, float(point.size_bytes or 0), -(point.accuracy or 0.0)


def choose_recipes(points: Iterable[TunedPoint], noise: Noise = NO_OUTCOMES) -> dict[str, Recipe]:
    """Return the recipe of each variant where one within the limits is better than the default.

    Whatever is less accurate than the best by more than noise falls out. Of the rest the default stays, unless another
    is faster, intervals of p50 apart, or as fast and over 1 % smaller.
    """
    by_variant: dict[str, list[TunedPoint]] = {}
    for point in points:
        if _eligible(point):
            by_variant.setdefault(point.variant, []).append(point)
    chosen = {variant: _chosen(each, noise) for variant, each in by_variant.items()}
    return {variant: point.recipe for variant, point in chosen.items() if not point.recipe.is_default}


def _chosen(points: Sequence[TunedPoint], noise: Noise) -> TunedPoint:
    noise = replace(noise, tests_n=max(1, len(points) - 1))
    best = max(points, key=lambda each: (each.accuracy or 0.0, each.recipe.is_default))
    equal = [each for each in points if each is best or not noise.differ(each, best)]
    held, *others = sorted(equal, key=lambda each: (not each.recipe.is_default, -(each.accuracy or 0.0)))
    for point in others:
        held = point if _is_cheaper(point, held) else held
    return held


def _is_cheaper(point: TunedPoint, held: TunedPoint) -> bool:
    if point.ci95_p50_ms is not None and held.ci95_p50_ms is not None:
        if point.ci95_p50_ms[1] < held.ci95_p50_ms[0]:
            return True
        if held.ci95_p50_ms[1] < point.ci95_p50_ms[0]:
            return False
    return (point.size_bytes or 0) < (1 - _SIZE_MATTERS) * (held.size_bytes or 0)
