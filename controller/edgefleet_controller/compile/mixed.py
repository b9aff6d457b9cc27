"""Mixed precision: when int8 misses its target, the fewest bytes go back to float.

Noise of layers adds up (predicted .0573, measured .0608 on MiniLM), so which layers to keep is an integer programme:
least bytes under a budget of noise. How much noise the task bears nobody knows beforehand: budgets are tried from
large to small, each by a real file on real samples, until one meets the target.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from scipy.optimize import Bounds, LinearConstraint, milp

from edgefleet_controller.compile import rounding, sensitivity
from edgefleet_controller.compile.calibrate import Measured, Scored, quantisation_faults, score_file
from edgefleet_controller.compile.calibrate_qdq import QdqLayout, is_symmetric, layers, write_qdq
from edgefleet_controller.compile.calibrate_target import Target
from edgefleet_controller.compile.protocol import OptionValue
from edgefleet_controller.compile.sensitivity import Candidate

logger = logging.getLogger(__name__)

_SHARES = (0.5, 0.5, 0.5, 0.3, 0.3, 0.2, 0.1, 0.1)
"""Shares of the noise the last plan left that the next one may leave."""
MAX_KEPT_SHARE = 0.5
"""With more of the weights in float than this, a file is int8 in name only: the search ends."""
_REFINE_N = 2
_LISTED_N = 96
_PASS_THROUGH = frozenset(
    {
        "Relu",
        "Clip",
        "LeakyRelu",
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "MaxPool",
        "Pad",
        "Identity",
    }
)


@dataclass(frozen=True)
class Plan:
    """Which layers stay in float for a budget of noise."""

    keep: frozenset[str]
    budget: float


@dataclass(frozen=True)
class Rescued:
    """A file of mixed precision, or the best one found where `met` is False."""

    scored: Scored
    met: bool
    options: dict[str, OptionValue]


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


def rescue(measured: Measured, plain: Scored, target: Target, max_share: float | None = None) -> Rescued:
    """Return a file of mixed precision that meets the target, with as few bytes in float as was found.

    Args:
        measured: the prepared model and what was measured on it.
        plain: the best plain int8 file; its ranges are used.
        target: what the file must meet.
        max_share: of the weights, 0 to 1, that no file may exceed in float; None: the search ends beyond
            `MAX_KEPT_SHARE`.
    """
    candidates = _candidates(measured, plain)
    found, tried_n, met = _search(measured, plain, target, candidates, max_share)
    return Rescued(found.scored, met, _options(found, candidates, measured, tried_n))


def _candidates(measured: Measured, plain: Scored) -> list[Candidate]:
    with quantisation_faults():
        return sensitivity.measure(
            measured.model,
            plain.ranges,
            measured.seen,
            measured.feeds,
            reduce_range=measured.layout is QdqLayout.U8S8,
            symmetric=is_symmetric(measured.layout),
        )


def spend(measured: Measured, plain: Scored, target: Target, share: float) -> Rescued:
    """Return a file whose layers in float hold at most a share of the weights, where they take most noise away.

    Args:
        measured: the prepared model and what was measured on it.
        plain: the best plain int8 file; its ranges are used.
        target: what `met` of the answer is about.
        share: of the bytes of all layers' weights, 0 to 1.
    """
    candidates = _candidates(measured, plain)
    tried = [_Tried(Plan(frozenset(), 0.0), plain)]
    keep = solve_within(candidates, share * sum(each.weight_bytes for each in candidates))
    made = _attempt(measured, plain, target, Plan(keep, _left(candidates, keep)), tried) or tried[0]
    return Rescued(made.scored, made.met, _options(made, candidates, measured, len(tried) - 1))


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


@dataclass(frozen=True)
class _Tried:
    plan: Plan
    scored: Scored
    met: bool = False


def _search(
    measured: Measured, plain: Scored, target: Target, candidates: Sequence[Candidate], max_share: float | None
) -> tuple[_Tried, int, bool]:
    tried = [_Tried(Plan(frozenset(), sum(each.noise for each in candidates)), plain)]
    passed: _Tried | None = None
    failed = tried[0]
    for share in _SHARES:
        budget = share * _left(candidates, failed.plan.keep)
        keep = _bounded(candidates, solve(candidates, budget), max_share)
        made = _attempt(measured, plain, target, Plan(keep, budget), tried)
        if made is None:
            break
        if made.met:
            passed = made
            break
        failed = made
        if weights_share(measured.model, made.plan.keep) > MAX_KEPT_SHARE:
            break
    if passed is not None:
        passed = _refined(measured, plain, target, candidates, failed, passed, tried)
    best = passed or max(tried, key=lambda each: each.scored.score.rank)
    return best, len(tried) - 1, passed is not None


def _refined(
    measured: Measured,
    plain: Scored,
    target: Target,
    candidates: Sequence[Candidate],
    failed: _Tried,
    passed: _Tried,
    tried: list[_Tried],
) -> _Tried:
    """Return a plan between the last that failed and the first that passed, where one passes."""
    for _ in range(_REFINE_N):
        most, least = _left(candidates, failed.plan.keep), _left(candidates, passed.plan.keep)
        budget = float(np.sqrt(max(most, 1e-30) * max(least, 1e-30)))
        made = _attempt(measured, plain, target, Plan(solve(candidates, budget), budget), tried)
        if made is None:
            break
        passed, failed = (made, failed) if made.met else (passed, made)
    return passed


def _bounded(candidates: Sequence[Candidate], keep: frozenset[str], max_share: float | None) -> frozenset[str]:
    """Return the layers to keep in float, or where their weights are too many the best choice of as many as may be."""
    sizes = {each.name: each.weight_bytes for each in candidates}
    limit = float("inf") if max_share is None else max_share * sum(sizes.values())
    return keep if sum(sizes[name] for name in keep) <= limit else solve_within(candidates, limit)


def _left(candidates: Sequence[Candidate], keep: frozenset[str]) -> float:
    """Return the noise of all layers that are not kept in float."""
    return sum(each.noise for each in candidates if each.name not in keep)


def _attempt(measured: Measured, plain: Scored, target: Target, plan: Plan, tried: list[_Tried]) -> _Tried | None:
    """Build and judge a plan; None where it was tried before."""
    if any(each.plan.keep == plan.keep for each in tried):
        return None
    out = measured.work_dir / f"mixed-{len(tried)}.onnx"
    with quantisation_faults():
        keep = with_pass_through(measured.model, plan.keep)
        model = rounding.restored(measured.model, measured.exact, keep)
        onnx.save(write_qdq(model, plain.ranges, measured.layout, keep_float=keep), out)
        score = score_file(measured, out)
    scored = Scored(out, plain.method, score, plain.ranges)
    why = missed(measured, scored, target)
    tried.append(_Tried(plan, scored, met=why is None))
    logger.info("mixed precision, noise %.3g: %d layers in float, %s, %s", plan.budget, len(plan.keep), score, why)
    return tried[-1]


def missed(measured: Measured, scored: Scored, target: Target) -> str | None:
    """Return what a quantised file misses of its target, or None."""
    fused = measured.layout is QdqLayout.U8S8
    return target.misses(measured.judge, scored.path, scored.score, optimise=fused)


def weights_share(model: onnx.ModelProto, keep: frozenset[str]) -> float:
    """Return the share of a model's layer weights that lies in the kept nodes."""
    weights = layers(model)
    return sum(weights.get(name, 0) for name in keep) / max(1, sum(weights.values()))


def with_pass_through(model: onnx.ModelProto, keep: frozenset[str]) -> frozenset[str]:
    """Return the kept nodes with every activation and reshape in front of them that nothing else reads.

    ONNX Runtime's quantiser folds an activation into the rounding behind it: without the rounding it would be lost.
    """
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    kept = set(keep)
    for node in reversed(model.graph.node):
        users = set().union(*(readers.get(name, set()) for name in node.output))
        if node.op_type in _PASS_THROUGH and users and users <= kept:
            kept.add(node.name)
    return frozenset(kept)


def _options(
    found: _Tried, candidates: Sequence[Candidate], measured: Measured, tried_n: int
) -> dict[str, OptionValue]:
    listed = sorted(candidates, key=lambda each: -each.noise)[:_LISTED_N]
    return {
        "kept_float": ", ".join(each.name for each in candidates if each.name in found.plan.keep),
        "kept_float_layers_n": len(found.plan.keep),
        "kept_float_weights_share": round(weights_share(measured.model, found.plan.keep), 6),
        "mixed_candidates_n": len(candidates),
        "mixed_files_tried_n": tried_n,
        "mixed_sqnr_db": round(found.scored.score.sqnr_db, 2),
        "layer_noise_db": "; ".join(f"{each.name} {_db(each.noise)}" for each in listed),
    }


def _db(noise: float) -> str:
    return f"{10 * np.log10(max(noise, 1e-20)):.1f}"
