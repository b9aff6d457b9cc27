"""Target `tflite`: LiteRT files with fixed shapes, in every precision its engines take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefleet_contract.artifact import EvidenceLevel, TensorMap, TensorSpec
from edgefleet_contract.coverage import Coverage
from edgefleet_contract.variant import Variant, parse_variant
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ingest import onnx_check, preprocess
from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest, OptionValue
from edgefleet_controller.compile.quantise.aim import EXACT_DB
from edgefleet_controller.compile.quantise.judge import Judge, Score, open_judge
from edgefleet_controller.compile.tflite import (
    coverage,
    edgetpu_compiler,
    floating,
    graph,
    mixed,
    precision,
    quantise,
    versions,
)
from edgefleet_controller.compile.tflite.floating import FloatFile
from edgefleet_controller.compile.tflite.interpreter import Interpreter, RefusedError
from edgefleet_controller.compile.tflite.quantise import QuantisationError, Statics

JUDGED_MAX_N = 64
"""Golden samples that calibration methods are compared on."""
_EDGES = frozenset({"DEQUANTIZE", "QUANTIZE"})
Specs = tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Made:
    """A file, how it was made, and what it needs."""

    data: bytes
    options: dict[str, OptionValue]
    min_runtime: Mapping[str, str]


def build(request: BuildRequest) -> BuildAnswer:
    """Write the TFLite file of the requested variant.

    Raises:
        CompileFaultError: the model cannot be converted rightly, or its quantisation fails.
    """
    variant = parse_variant(request.variant)
    model = onnx_check.load(Path(request.source))
    inputs, outputs = onnx_check.io_specs(model)
    samples, calibration = (_feeds(path, inputs, request) for path in (request.samples, request.calibration))
    integers = variant.precision in {"int8", "int16x8"}
    floats = floating.make(model, [*samples, *calibration], for_integers=integers)
    made = _precision(variant.precision, request, inputs, floats)
    _check_loads(made.data)
    return _answer(request, variant, made, floats, (inputs, outputs))


def _feeds(path: str, inputs: Specs, request: BuildRequest) -> list[Arrays]:
    return list(preprocess.batches(npz.read(Path(path)), inputs, request.preprocess))


def _precision(precision: str, request: BuildRequest, inputs: Specs, floats: FloatFile) -> Made:
    try:
        return _MAKERS[precision](request, inputs, floats)
    except QuantisationError as error:
        raise CompileFaultError("variant", str(error), family="unsupported") from error


def _fp32(request: BuildRequest, inputs: Specs, floats: FloatFile) -> Made:  # noqa: ARG001 - one shape for all
    return Made(floats.data, {}, {})


def _fp16(request: BuildRequest, inputs: Specs, floats: FloatFile) -> Made:  # noqa: ARG001 - one shape for all
    data = quantise.fp16(floats.data)
    if not coverage.holds(data, "float16"):
        reason = "fp16 halves the weights of convolutions, dense layers and look-ups; the converted file has none"
        raise CompileFaultError("variant", reason, family="unsupported")
    return Made(data, {"weights": "float16, dequantised when loaded"}, {})


def _int8_dynamic(request: BuildRequest, inputs: Specs, floats: FloatFile) -> Made:  # noqa: ARG001 - one shape for all
    data = quantise.int8_dynamic(floats.data)
    quantised_n = coverage.quantised_n(data)
    if quantised_n == 0:
        raise CompileFaultError(
            "variant",
            "int8-dynamic applies to convolutions and matrix products with constant weights; it has none",
            family="unsupported",
        )
    options: dict[str, OptionValue] = {"weights": "int8 per channel", "quantised_operators_n": quantised_n}
    return Made(data, options, versions.HYBRID_RUNTIME)


def _int8(request: BuildRequest, inputs: Specs, floats: FloatFile) -> Made:
    return _static(request, inputs, floats, activation_bits=8)


def _int16x8(request: BuildRequest, inputs: Specs, floats: FloatFile) -> Made:
    return _static(request, inputs, floats, activation_bits=16)


def _static(request: BuildRequest, inputs: Specs, floats: FloatFile, *, activation_bits: int) -> Made:
    feeds = [floats.feed(feed) for feed in _feeds(request.calibration, inputs, request)]
    on_cpu = parse_variant(request.variant).engine in {"cpu", "xnnpack"}  # accelerators want integers throughout
    made = quantise.static(floats.data, feeds, activation_bits=activation_bits, float_sums=on_cpu)
    files = _by_recipe(made.files, request.recipe.calibration)
    judge = open_judge(request, inputs, JUDGED_MAX_N)
    scores, refusals = {}, []
    for method, data in _with_integers(files).items():
        try:
            scores[method] = judge.score(_outputs(data, floats, judge))
        except RefusedError as error:  # a divisor that became zero in 8 bits, for one
            refusals.append(str(error))
    if not scores:
        reason = f"the quantised file is refused by LiteRT: {refusals[0]}"
        raise CompileFaultError("variant", reason, family="unsupported")
    best = _best(scores)
    options: dict[str, OptionValue] = {
        "layout": f"activations int{activation_bits}, weights int8 per channel, edges float32",
        "calibration": best,
        "calibration_samples_n": len(feeds),
        "judged_on_samples_n": len(judge.feeds),
        **{f"{method}_sqnr_db": round(score.sqnr_db, 2) for method, score in scores.items()},
        **_figures(files[best]),
    }
    data = files[best]
    if on_cpu and activation_bits == 8:
        data, more = _rescued(request, inputs, floats, made, best)
        options |= more
    needs_hybrid = best == quantise.AS_THEY_COME and data is files[best]
    return Made(data, options, versions.HYBRID_RUNTIME if needs_hybrid else {})


def _rescued(
    request: BuildRequest, inputs: Specs, floats: FloatFile, statics: Statics, best: str
) -> tuple[bytes, dict[str, OptionValue]]:
    """Return the best plain file where it meets its target, else one of mixed precision that does, or the better one.

    Where the recipe says which share of the weights is to be in float, that is what it gets.
    """
    judge, plain, share = open_judge(request, inputs), statics.files[best], request.recipe.keep_share
    bench = mixed.Bench(
        statics,
        best if best in statics.ranges else "minmax",
        judge,
        lambda data, each: _outputs(data, floats, each),
        request.task,
        Path(request.work_dir),
    )
    rounded = mixed.Rounded(plain, judge.score(_outputs(plain, floats, judge)))
    why: dict[str, OptionValue] = {}
    if share is None:
        missed = bench.missed(rounded)
        if missed is None:
            return plain, {}
        why = {"plain_int8_misses": missed[:300]}
    rescued, options = mixed.rescue(bench, rounded, share)
    return rescued.data, {**why, **options, **_figures(rescued.data)}


def _with_integers(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files that compute in integers: one that does nowhere, or with no weight, is exact, and no int8.

    Raises:
        CompileFaultError: none does.
    """
    kept = {method: data for method, data in files.items() if coverage.quantised_n(data)}
    if not kept:
        raise CompileFaultError("variant", "none of its operators has an integer form in TFLite", family="unsupported")
    types = {method: precision.weight_types(graph.read(data)) for method, data in kept.items()}
    rounded = {method: kept[method] for method, each in types.items() if not each or each & precision.INTEGER_WEIGHTS}
    if not rounded:
        reason = "none of its layers with weights has an integer form in TFLite"
        raise CompileFaultError("variant", reason, family="unsupported")
    return rounded


def _best(scores: Mapping[str, Score]) -> str:
    """Return the best method: one that rounds at run time only where no other reaches `EXACT_DB`.

    Older runtimes refuse such a file.
    """
    static = {method: score for method, score in scores.items() if method != quantise.AS_THEY_COME}
    best = max(static or scores, key=lambda method: scores[method].rank)
    if scores[best].sqnr_db >= EXACT_DB:
        return best
    return max(scores, key=lambda method: scores[method].rank)


def _by_recipe(files: dict[str, bytes], calibration: str) -> dict[str, bytes]:
    """Return the files a recipe leaves to choose from. Raises CompileFaultError where it names one that is not made."""
    if calibration == "best":
        return files
    if calibration not in files:
        reason = f"calibration {calibration} gives no file of this model; allowed: best, {', '.join(files)}"
        raise CompileFaultError("variant", reason, family="unsupported")
    return {calibration: files[calibration]}


def _outputs(data: bytes, floats: FloatFile, judge: Judge) -> list[Array]:
    """Return a file's outputs on the judging samples, as the source lays them out. Raises RefusedError."""
    runs = floats.run_all(Interpreter(data), judge.feeds)
    return [np.stack([run[name] for run in runs]) for name in judge.names]


def _figures(data: bytes) -> dict[str, OptionValue]:
    """Return how much of a file computes in integers."""
    return {"integer_operators_n": coverage.quantised_n(data), "operators_n": coverage.operators_n(data)}


_MAKERS: Mapping[str, Callable[[BuildRequest, Specs, FloatFile], Made]] = {
    "fp32": _fp32,
    "fp16": _fp16,
    "int8": _int8,
    "int8-dynamic": _int8_dynamic,
    "int16x8": _int16x8,
}


def _check_loads(data: bytes) -> None:
    try:
        Interpreter(data)
    except RefusedError as error:
        reason = f"the file made is refused by LiteRT: {error}"
        raise CompileFaultError("variant", reason, family="unsupported") from error


def _check_mapped(found: Coverage | None) -> None:
    """Refuse a file of which the Edge TPU would run nothing. Raises CompileFaultError."""
    if found is None or found.counts["accelerator"]:
        return
    first = min(found.operators, key=lambda each: (each.type in _EDGES, each.index))
    why = f"the first, {first.type} {first.name!r}: {first.reason}"
    reason = f"none of its {len(found.operators)} operators runs on the Edge TPU; {why}"
    raise CompileFaultError("variant", reason, family="unsupported")


def _answer(
    request: BuildRequest,
    variant: Variant,
    made: Made,
    floats: FloatFile,
    specs: tuple[Specs, Specs],
) -> BuildAnswer:
    out = Path(request.out)
    out.write_bytes(made.data)
    level: EvidenceLevel | None = None
    found: Coverage | None = coverage.coverage_of(out, variant.target)
    options = {**made.options, **{f"frozen {name}": str(value.tolist()) for name, value in floats.frozen.items()}}
    if variant.engine == "edgetpu":
        _check_mapped(found)
        options["edgetpu_compiler"], level = edgetpu_compiler.compile_file(out)
    shapes = floats.shapes
    return BuildAnswer(
        inputs=_fixed(specs[0], floats.inputs, shapes),
        outputs=_fixed(specs[1], floats.outputs, shapes),
        input_map=_changed(floats.inputs),
        output_map=_changed(floats.outputs),
        bound=tuple(floats.frozen),
        options=options,
        rewrites=floats.rewrites,
        min_runtime=dict(made.min_runtime),
        coverage=found,
        level=level,
    )


def _fixed(specs: Specs, kept: Mapping[str, TensorMap], shapes: Mapping[str, tuple[int, ...]]) -> Specs:
    """Return the tensors the file has, in the source's order of axes and with the sizes the file is made for."""
    return tuple(spec.model_copy(update={"shape": shapes[spec.name]}) for spec in specs if spec.name in kept)


def _changed(maps: Mapping[str, TensorMap]) -> dict[str, TensorMap]:
    return {name: each for name, each in maps.items() if each.axes or each.name != name}
