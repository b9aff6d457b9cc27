"""Mixed precision of ONNX files: when int8 misses its target, the layers `mixed_search` finds go back to float."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import onnx

from edgefleet_controller.compile.protocol import OptionValue
from edgefleet_controller.compile.quantise import rounding, sensitivity
from edgefleet_controller.compile.quantise.aim import Target
from edgefleet_controller.compile.quantise.calibrate import Measured, Scored, quantisation_faults, score_file
from edgefleet_controller.compile.quantise.mixed_search import Found, Made, Search
from edgefleet_controller.compile.quantise.qdq import QdqLayout, is_symmetric, layers, write_qdq

logger = logging.getLogger(__name__)

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
class Rescued:
    """A file of mixed precision, or the best one found where `met` is False."""

    scored: Scored
    met: bool
    options: dict[str, OptionValue]


def rescue(measured: Measured, plain: Scored, target: Target, max_share: float | None = None) -> Rescued:
    """Return a file of mixed precision that meets the target, with as few bytes in float as was found.

    Args:
        measured: the prepared model and what was measured on it.
        plain: the best plain int8 file; its ranges are used.
        target: what the file must meet.
        max_share: of the weights, 0 to 1, that no file may exceed in float; None: the search ends beyond
            `mixed_search.MAX_KEPT_SHARE`.
    """
    search = _search(measured, plain, target, max_share)
    return _rescued(search, search.run())


def spend(measured: Measured, plain: Scored, target: Target, share: float) -> Rescued:
    """Return a file whose layers in float hold at most a share of the weights, where they take most noise away.

    Args:
        measured: the prepared model and what was measured on it.
        plain: the best plain int8 file; its ranges are used.
        target: what `met` of the answer is about.
        share: of the bytes of all layers' weights, 0 to 1.
    """
    search = _search(measured, plain, target, None)
    return _rescued(search, search.spend(share))


def _search(measured: Measured, plain: Scored, target: Target, max_share: float | None) -> Search[Scored]:
    with quantisation_faults():
        candidates = sensitivity.measure(
            measured.model,
            plain.ranges,
            measured.seen,
            measured.feeds,
            reduce_range=measured.layout is QdqLayout.U8S8,
            symmetric=is_symmetric(measured.layout),
        )
    return Search(
        candidates,
        Made(plain, plain.score.rank, met=False),
        lambda keep, number: _make(measured, plain, target, keep, number),
        lambda keep: weights_share(measured.model, keep),
        max_share,
    )


def _make(measured: Measured, plain: Scored, target: Target, names: frozenset[str], number: int) -> Made[Scored]:
    out = measured.work_dir / f"mixed-{number}.onnx"
    with quantisation_faults():
        keep = with_pass_through(measured.model, names)
        model = rounding.restored(measured.model, measured.exact, keep)
        onnx.save(write_qdq(model, plain.ranges, measured.layout, keep_float=keep), out)
        score = score_file(measured, out)
    scored = Scored(out, plain.method, score, plain.ranges)
    why = missed(measured, scored, target)
    logger.info("mixed precision: %d layers in float, %s, %s", len(names), score, why)
    return Made(scored, score.rank, met=why is None)


def _rescued(search: Search[Scored], found: Found[Scored]) -> Rescued:
    scored = found.made.file
    options = {**search.options(found), "mixed_sqnr_db": round(scored.score.sqnr_db, 2)}
    return Rescued(scored, found.made.met, options)


def missed(measured: Measured, scored: Scored, target: Target) -> str | None:
    """Return what a quantised file misses of its target, or None."""
    fused = measured.layout is QdqLayout.U8S8
    return target.misses(
        measured.judge, scored.path, scored.score, lambda: measured.judge.run(scored.path, optimise=fused)
    )


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
