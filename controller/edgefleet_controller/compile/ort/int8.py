"""Static int8 for the `ort` target: plain, then smoothed where that helps transformers, then mixed where it must."""

from __future__ import annotations

import logging
from dataclasses import replace

import onnx

from edgefleet_contract.artifact import TensorSpec
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph.onnx_graph import none_found
from edgefleet_controller.compile.protocol import BuildRequest, OptionValue
from edgefleet_controller.compile.quantise import mixed, rounding, smooth
from edgefleet_controller.compile.quantise.aim import EXACT_DB, MAX_EXACT_SHARE, Target
from edgefleet_controller.compile.quantise.calibrate import (
    Chosen,
    Measured,
    QdqLayout,
    Scored,
    by_methods,
    measure,
    options_of,
    quantisation_faults,
    score_file,
)
from edgefleet_controller.compile.quantise.qdq import (
    WEIGHTED,
    is_symmetric,
    is_transformer,
    largest_level,
    layers,
    write_qdq,
)
from edgefleet_controller.compile.quantise.ranges import METHODS, observe, ranges_by

logger = logging.getLogger(__name__)

_STRENGTH_SAMPLES_N = 16
_STRENGTH_JUDGED_N = 48
"""Calibration and golden samples on which strengths of migration are compared."""


def quantize(request: BuildRequest, inputs: tuple[TensorSpec, ...], layout: QdqLayout) -> Chosen:
    """Return the best int8 file of a model: by calibration method, with SmoothQuant, with layers kept in float.

    Raises:
        CompileFaultError: the model cannot be quantised.
    """
    plain = measure(request, inputs, layout)
    _check_layers(plain.model)
    recipe = request.recipe
    if recipe.calibration not in {"best", *METHODS}:
        reason = f"calibration {recipe.calibration} is not ONNX Runtime's; allowed: best, {', '.join(METHODS)}"
        raise CompileFaultError("variant", reason, family="unsupported")
    scored = by_methods(plain, only=recipe.calibration)
    best, measured = max(scored, key=lambda each: each.score.rank), plain
    options = options_of(best, scored, plain)
    if recipe.smoothquant == "auto" and is_transformer(plain.model) and smooth.products(plain.model):
        best, measured, more = _smoothed(plain, best, recipe.calibration)
        options |= more
    if is_transformer(plain.model) and smooth.products(plain.model):
        best, measured, more = _fitted(measured, best)
        options |= more
    target = Target("int8", request.task)
    if recipe.keep_share is not None:
        kept = mixed.spend(measured, best, target, recipe.keep_share)
        return Chosen(kept.scored.path, {**options, **kept.options})
    missed = mixed.missed(measured, best, target)
    if missed is not None:
        logger.info("plain int8 misses its target: %s", missed)
        rescued = mixed.rescue(measured, best, target)
        best = rescued.scored
        options |= {"plain_int8_misses": missed[:300], **rescued.options}
    elif layout is QdqLayout.U8S8 and is_transformer(plain.model) and best.score.sqnr_db < EXACT_DB:
        exact = mixed.rescue(measured, best, replace(target, min_sqnr_db=EXACT_DB), MAX_EXACT_SHARE)
        best = exact.scored
        options |= {**exact.options, "mixed_target_sqnr_db": EXACT_DB}
    return Chosen(best.path, options)


def _check_layers(model: onnx.ModelProto) -> None:
    if layers(model):
        return
    reason = f"int8 applies to {', '.join(WEIGHTED)} with constant float32 weights; {none_found(model)}"
    raise CompileFaultError("variant", reason, family="unsupported")


def _smoothed(plain: Measured, best: Scored, calibration: str) -> tuple[Scored, Measured, dict[str, OptionValue]]:
    """Return the better of plain and smoothed by a calibration method, or the best of all, and the figures of both."""
    with quantisation_faults():
        absmax = smooth.channel_absmax(plain.model, plain.feeds)
        tried = {strength: _at_strength(plain, smooth.smooth(plain.model, absmax, strength).model, strength)
                 for strength in smooth.STRENGTHS}  # fmt: skip
        strength = max(tried, key=lambda each: tried[each])
        made = smooth.smooth(plain.model, absmax, strength)
        measured = replace(plain, model=made.model, seen=observe(made.model, plain.feeds))
    scored = by_methods(measured, tag="smooth", only=calibration)
    smoothed = max(scored, key=lambda each: each.score.rank)
    figures: dict[str, OptionValue] = {f"smoothed_{name}": value for name, value in options_of(
        smoothed, scored, measured).items() if name.endswith(("_sqnr_db", "_agreement", "_top1"))}  # fmt: skip
    figures |= {f"strength_{each:g}_sqnr_db": round(value, 2) for each, value in tried.items()}
    if smoothed.score.rank <= best.score.rank:
        return best, plain, {**figures, "smoothquant": False}
    figures |= {"smoothquant_products_n": made.products_n, "smoothquant_folded_n": made.folded_n}
    return smoothed, measured, {**figures, "smoothquant": True, "smoothquant_strength": strength,
                                "calibration": smoothed.method}  # fmt: skip


def _fitted(measured: Measured, best: Scored) -> tuple[Scored, Measured, dict[str, OptionValue]]:
    """Return the file with weights fitted to their grid where it is better, and what it was judged by."""
    out = measured.work_dir / "fitted.onnx"
    with quantisation_faults():
        moments = rounding.second_moments(measured.model, measured.feeds)
        made = rounding.fitted(measured.model, moments, largest_level(measured.layout))
        onnx.save(write_qdq(made.model, best.ranges, measured.layout), out)
        score = score_file(measured, out)
    figures: dict[str, OptionValue] = {"fitted_sqnr_db": round(score.sqnr_db, 2), "fitted_weights_n": len(made.exact)}
    if score.rank <= best.score.rank:
        return best, measured, {**figures, "weights_fitted": False}
    fitted = replace(measured, model=made.model, exact=made.exact)
    return Scored(out, best.method, score, best.ranges), fitted, {**figures, "weights_fitted": True}


def _at_strength(plain: Measured, model: onnx.ModelProto, strength: float) -> float:
    """Return the signal-to-noise ratio of one strength of migration, with plain extremes as ranges."""
    seen = observe(model, plain.feeds[:_STRENGTH_SAMPLES_N])
    ranges = ranges_by("minmax", seen, symmetric=is_symmetric(plain.layout))
    out = plain.work_dir / f"strength-{strength:g}.onnx"
    onnx.save(write_qdq(model, ranges, plain.layout), out)
    return score_file(replace(plain, judge=plain.judge.part(_STRENGTH_JUDGED_N)), out).sqnr_db
