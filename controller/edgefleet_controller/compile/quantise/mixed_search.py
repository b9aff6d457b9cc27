"""Which layers stay in float when int8 misses its target, for any target that can make such a file. Pure.

Noise of layers adds up (predicted .0573, measured .0608 on MiniLM), so which layers to keep is an integer programme:
least bytes under a budget of noise. How much noise the task bears nobody knows beforehand: budgets are tried from
large to small, each by a real file on real samples, until one meets the target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from edgefleet_controller.compile.protocol import OptionValue

_SHARES = (0.5, 0.5, 0.5, 0.3, 0.3, 0.2, 0.1, 0.1)
"""Shares of the noise the last plan left that the next one may leave."""
MAX_KEPT_SHARE = 0.5
"""With more of the weights in float than this, a file is int8 in name only: the search ends."""
_REFINE_N = 2
_LISTED_N = 96
File = TypeVar("File")
Rank = tuple[float, float]
"""The larger, the better."""


@dataclass(frozen=True)
class Candidate:
    """One layer that may stay in float.

    Attributes:
        name: the node's name.
        operator: its type.
        weight_bytes: bytes of its weights in float32.
        moved_bytes: bytes of the float32 inputs it would read.
        noise: noise power it adds alone, relative to the outputs' power.
    """

    name: str
    operator: str
    weight_bytes: int
    moved_bytes: int
    noise: float


@dataclass(frozen=True)
class Made(Generic[File]):
    """A file made by a plan.

    Attributes:
        file: what the target made.
        rank: how good it is.
        met: whether it meets the target.
    """

    file: File
    rank: Rank
    met: bool


@dataclass(frozen=True)
class Tried(Generic[File]):
    """A file and the layers it keeps in float."""

    keep: frozenset[str]
    made: Made[File]


@dataclass(frozen=True)
class Found(Generic[File]):
    """The file a search ended with: it meets the target, or is the best there was."""

    keep: frozenset[str]
    made: Made[File]
    tried_n: int


@dataclass(frozen=True)
class Search(Generic[File]):
    """A search over plans.

    Attributes:
        candidates: layers with their bytes and noise.
        plain: the file that keeps nothing.
        make: makes and judges the file that keeps the layers of these names; the number tells files apart.
        share: share of all weights that lies in the layers of these names.
        max_share: of the weights, 0 to 1, that no file may exceed in float; None: the search ends beyond
            `MAX_KEPT_SHARE`.
    """

    candidates: Sequence[Candidate]
    plain: Made[File]
    make: Callable[[frozenset[str], int], Made[File]]
    share: Callable[[frozenset[str]], float]
    max_share: float | None = None

    def run(self) -> Found[File]:
        """Return a file that meets the target with as few bytes in float as was found, else the best."""
        tried = [Tried(frozenset[str](), self.plain)]
        passed, failed = None, tried[0]
        for share in _SHARES:
            budget = share * self._left(failed.keep)
            made = self._attempt(_bounded(self.candidates, solve(self.candidates, budget), self.max_share), tried)
            if made is None:
                break
            if made.made.met:
                passed = made
                break
            failed = made
            if self.share(made.keep) > MAX_KEPT_SHARE:
                break
        if passed is not None:
            passed = self._refined(failed, passed, tried)
        best = passed or max(tried, key=lambda each: each.made.rank)
        return Found(best.keep, best.made, len(tried) - 1)

    def spend(self, share: float) -> Found[File]:
        """Return the file whose layers in float hold at most a share of the candidates' weights and save most noise."""
        tried = [Tried(frozenset[str](), self.plain)]
        bytes_n = share * sum(each.weight_bytes for each in self.candidates)
        made = self._attempt(solve_within(self.candidates, bytes_n), tried) or tried[0]
        return Found(made.keep, made.made, len(tried) - 1)

    def _refined(self, failed: Tried[File], passed: Tried[File], tried: list[Tried[File]]) -> Tried[File]:
        """Return a plan between the last that failed and the first that passed, where one passes."""
        for _ in range(_REFINE_N):
            most, least = self._left(failed.keep), self._left(passed.keep)
            budget = float(np.sqrt(max(most, 1e-30) * max(least, 1e-30)))
            made = self._attempt(solve(self.candidates, budget), tried)
            if made is None:
                break
            passed, failed = (made, failed) if made.made.met else (passed, made)
        return passed

    def _left(self, keep: frozenset[str]) -> float:
        """Return the noise of all layers that are not kept in float."""
        return sum(each.noise for each in self.candidates if each.name not in keep)

    def _attempt(self, keep: frozenset[str], tried: list[Tried[File]]) -> Tried[File] | None:
        """Make and judge a plan; None where it was tried before."""
        if any(each.keep == keep for each in tried):
            return None
        tried.append(Tried(keep, self.make(keep, len(tried))))
        return tried[-1]

    def options(self, found: Found[File]) -> dict[str, OptionValue]:
        """Return what was kept, of what, as an artifact's record says it."""
        listed = sorted(self.candidates, key=lambda each: -each.noise)[:_LISTED_N]
        return {
            "kept_float": ", ".join(each.name for each in self.candidates if each.name in found.keep),
            "kept_float_layers_n": len(found.keep),
            "kept_float_weights_share": round(self.share(found.keep), 6),
            "mixed_candidates_n": len(self.candidates),
            "mixed_files_tried_n": found.tried_n,
            "mixed_meets_target": found.made.met,
            "layer_noise_db": "; ".join(f"{each.name} {_db(each.noise)}" for each in listed),
        }


def solve(candidates: Sequence[Candidate], budget: float) -> frozenset[str]:
    """Return the names of the layers to keep in float: the least bytes whose return leaves at most `budget` of noise.

    Args:
        candidates: layers with their bytes and noise.
        budget: noise power that may remain, in the unit of `Candidate.noise`.
    """
    noise = np.array([each.noise for each in candidates])
    if noise.sum() <= budget:
        return frozenset()
    # A layer without weights costs what it moves, so that it does not go back to float for nothing.
    cost = np.array([float(each.weight_bytes or each.moved_bytes) + 1.0 for each in candidates])
    scale = max(float(noise.sum()), 1e-300)
    need = LinearConstraint(noise[None, :] / scale, lb=(noise.sum() - budget) / scale)
    answer = milp(cost / cost.max(), constraints=need, integrality=np.ones(len(noise)), bounds=Bounds(0, 1))
    if answer.x is None:
        return frozenset(each.name for each in candidates)
    return frozenset(each.name for each, keep in zip(candidates, answer.x, strict=True) if keep > 0.5)


def solve_within(candidates: Sequence[Candidate], weight_bytes: float) -> frozenset[str]:
    """Return the layers to keep in float that take most noise away, their weights within `weight_bytes` together."""
    noise = np.array([each.noise for each in candidates])
    cost = np.array([float(each.weight_bytes) for each in candidates])
    limit = LinearConstraint(cost[None, :] / max(cost.sum(), 1.0), ub=weight_bytes / max(cost.sum(), 1.0))
    gain = -noise / max(float(noise.max(initial=0.0)), 1e-300)
    answer = milp(gain, constraints=limit, integrality=np.ones(len(noise)), bounds=Bounds(0, 1))
    if answer.x is None:
        return frozenset()
    return frozenset(each.name for each, keep in zip(candidates, answer.x, strict=True) if keep > 0.5)


def _bounded(candidates: Sequence[Candidate], keep: frozenset[str], max_share: float | None) -> frozenset[str]:
    """Return the layers to keep in float, or where their weights are too many the best choice of as many as may be."""
    sizes = {each.name: each.weight_bytes for each in candidates}
    limit = float("inf") if max_share is None else max_share * sum(sizes.values())
    return keep if sum(sizes[name] for name in keep) <= limit else solve_within(candidates, limit)


def _db(noise: float) -> str:
    return f"{10 * np.log10(max(noise, 1e-20)):.1f}"
