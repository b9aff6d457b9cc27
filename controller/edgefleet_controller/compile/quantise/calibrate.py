"""Static int8: prepare the graph, measure ranges once, quantise by several methods, keep the best.

Weights use 7 of their 8 bits on ONNX Runtime's CPU: x86 without VNNI multiplies with VPMADDUBSW, which saturates on
full-range weights (measured with AVX2: EfficientNet-Lite0 7.3 dB instead of 18.0), while 7 bits are exact on every CPU
(12.8 dB everywhere), and an artifact must compute the same on all devices it goes to. Depthwise convolutions have a
kernel of their own that does not saturate, and suffer most from coarse weights: they keep all 8 bits (13.9 dB, still
exact).

No calibration method wins everywhere, so each is judged on golden samples, which are apart from the calibration
samples wherever there are enough.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgefleet_contract.artifact import TensorSpec
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph.onnx_graph import (
    all_nodes,
    all_tensors,
    inner_graphs,
    opset_of,
    with_plain_constants,
)
from edgefleet_controller.compile.ingest import preprocess
from edgefleet_controller.compile.npz import Arrays
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.protocol import BuildRequest, OptionValue
from edgefleet_controller.compile.quantise.judge import Judge, Score, open_judge
from edgefleet_controller.compile.quantise.qdq import QdqLayout, is_symmetric, layout_words, write_qdq
from edgefleet_controller.compile.quantise.ranges import METHODS, Observed, Ranges, observe, ranges_by
from edgefleet_controller.compile.rewrite import library

__all__ = ["Chosen", "QdqLayout", "prepare", "quantisation_faults", "quantize"]

logger = logging.getLogger(__name__)

MIN_OPSET = 13
"""DequantizeLinear has an axis, and so scales per channel, from here on."""
OBSERVE_MAX_N = 64
_QUANTISER_ERRORS: tuple[type[Exception], ...] = (
    *session.RUNTIME_ERRORS,
    onnx.version_converter.ConvertError,
    onnx.shape_inference.InferenceError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
)
"""What its Python code raises over graphs it did not foresee."""


@dataclass(frozen=True)
class Scored:
    """A quantised model and how it did on the judging samples."""

    path: Path
    method: str
    score: Score
    ranges: Ranges


@dataclass(frozen=True)
class Chosen:
    """The winner, and every figure the choice was made by. `path` is in the request's work folder."""

    path: Path
    options: dict[str, OptionValue]


@dataclass(frozen=True)
class Measured:
    """A prepared model with its calibration feeds, what its tensors held, and its judge.

    Attributes:
        model: float32, shapes inferred, every node named.
        feeds: calibration feeds.
        seen: what the model's tensors held on them.
        judge: golden samples with the source's outputs.
        layout: how the target wants Q and DQ.
        work_dir: where files are written.
        exact: weights as they were before they were fitted to their grid, by name.
    """

    model: onnx.ModelProto
    feeds: list[Arrays]
    seen: dict[str, Observed]
    judge: Judge
    layout: QdqLayout
    work_dir: Path
    exact: Mapping[str, onnx.TensorProto] = field(default_factory=dict)


def named_source(source: Path, work_dir: Path) -> Path:
    """Return the source with opset 13 or newer and a name on every node."""
    named = work_dir / "named.onnx"
    model = onnx.load(source)
    if opset_of(model) < MIN_OPSET:
        model = onnx.version_converter.convert_version(model, MIN_OPSET)
    _save_named(with_plain_constants(model), named)
    return named


def _save_named(model: onnx.ModelProto, path: Path) -> None:
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}_{index}"
        taken.add(node.name)
    onnx.save(model, path)


def products_written_out(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the model with products that hide in other operators (Einsum) as MatMul, and the rewrites' names."""
    return library.apply(model, (), library.PRODUCT_RULES)


def prepare(source: Path, work_dir: Path) -> Path:
    """Return the source with shapes inferred, opset 13 or newer, and operators fused by portable rules.

    Raises:
        CompileFaultError: ONNX Runtime's preparation does not manage this model.
    """
    prepared = work_dir / "prepared.onnx"
    with quantisation_faults():
        # Symbolic shape inference would need sympy; plain inference after optimisation finds the same on CNNs.
        named = named_source(source, work_dir)
        written_out, rewrites = products_written_out(onnx.load(named))
        if rewrites:
            _save_named(written_out, named)
        quant_pre_process(str(named), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(prepared)
        _rename_made(model, _tensor_names(onnx.load(named, load_external_data=False)))
        _part_biases(model)
        _save_named(model, prepared)
    return prepared


def _tensor_names(model: onnx.ModelProto) -> set[str]:
    names = {name for node in all_nodes(model.graph) for name in (*node.input, *node.output)}
    return names | {tensor.name for tensor in all_tensors(model.graph)}


def _rename_made(model: onnx.ModelProto, known: Collection[str]) -> None:
    """Give tensors that ONNX Runtime made while it fused operators names that it does not make up again.

    It counts names from 0 in every session, and refuses a graph where its next fusion meets an initializer of the last
    (1.32: "Attempt to replace the existing tensor").
    """
    taken = {*known, *_tensor_names(model)}
    new: dict[str, str] = {"": ""}
    for name in sorted(_tensor_names(model) - set(known) - {""}):
        new[name] = next(each for each in (f"made_{place}" for place in itertools.count(len(new))) if each not in taken)
        taken.add(new[name])
    for node in all_nodes(model.graph):
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
    for graph in (model.graph, *inner_graphs(model.graph)):
        for each in (*graph.initializer, *graph.value_info):
            each.name = new.get(each.name, each.name)


def _part_biases(model: onnx.ModelProto) -> None:
    """Give each layer a bias of its own: ONNX Runtime's quantiser copies shared ones under names that may be taken."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        name = node.input[2] if node.op_type in {"Conv", "ConvTranspose", "Gemm"} and len(node.input) > 2 else ""
        if name in tensors and name in taken:
            copy = model.graph.initializer.add()
            copy.CopyFrom(tensors[name])
            copy.name = node.input[2] = f"{name}_of_node_{index}"
        taken.add(name)


def measure(request: BuildRequest, inputs: tuple[TensorSpec, ...], layout: QdqLayout) -> Measured:
    """Prepare the source and measure its tensors on up to 64 calibration samples.

    Raises:
        CompileFaultError: the preparation fails, or the samples tell nothing about ranges.
    """
    work_dir = Path(request.work_dir)
    model = load_model_with_shape_infer(prepare(Path(request.source), work_dir))
    calibration = npz.read(Path(request.calibration))
    feeds = list(preprocess.batches(calibration, inputs, request.preprocess))
    _check_varied(feeds)
    with quantisation_faults():
        seen = observe(model, feeds[:OBSERVE_MAX_N])
    return Measured(model, feeds[:OBSERVE_MAX_N], seen, open_judge(request, inputs), layout, work_dir)


def quantize(request: BuildRequest, inputs: tuple[TensorSpec, ...], layout: QdqLayout = QdqLayout.U8S8) -> Chosen:
    """Quantise by each method of `calibrate_ranges.METHODS` and keep the best by top-1, then by noise.

    Call it with `layout=QdqLayout.TENSORRT` for what TensorRT's parser accepts: int8 symmetric activations and
    weights, weights per channel, no quantised bias. The file is plain ONNX (opset 13 or newer), which ONNX Runtime
    runs too.

    Args:
        request: source, calibration and golden samples, and the folder to work in.
        inputs: the source's inputs.
        layout: how the target wants Q and DQ written.

    Raises:
        CompileFaultError: no method gives a model that runs, or the samples tell nothing about ranges.
    """
    measured = measure(request, inputs, layout)
    scored = by_methods(measured)
    best = max(scored, key=lambda each: each.score.rank)
    return Chosen(best.path, options_of(best, scored, measured))


def by_methods(measured: Measured, tag: str = "int8", only: str = "best") -> list[Scored]:
    """Return the model quantised by each method, or by one, with its score.

    Args:
        measured: the prepared model and what was measured on it.
        tag: how the files' names begin.
        only: a method, or `best` for all.

    Raises:
        CompileFaultError: as `quantize`.
    """
    methods = METHODS if only == "best" else (only,)
    return [_quantize(measured, method, tag) for method in methods]


def _quantize(measured: Measured, method: str, tag: str) -> Scored:
    ranges = ranges_by(method, measured.seen, symmetric=is_symmetric(measured.layout))
    out = measured.work_dir / f"{tag}-{method}.onnx"
    with quantisation_faults():
        onnx.save(write_qdq(measured.model, ranges, measured.layout), out)
        score = score_file(measured, out)
    logger.info("%s %s: %s", tag, method, score)
    return Scored(out, method, score, ranges)


def score_file(measured: Measured, path: Path) -> Score:
    """Score a quantised model: fused where its layout is made for this CPU, else as QDQ is defined.

    x86 without VNNI saturates on full-range int8 weights when fused, which the accelerators they are meant for do not.
    """
    return measured.judge.score(measured.judge.run(path, optimise=measured.layout is QdqLayout.U8S8))


def options_of(best: Scored, scored: list[Scored], measured: Measured) -> dict[str, OptionValue]:
    """Return every figure the choice was made by."""
    options: dict[str, OptionValue] = {
        "layout": layout_words(measured.layout),
        "calibration": best.method,
        "calibration_samples_n": len(measured.feeds),
        "judged_on_samples_n": len(measured.judge.feeds),
    }
    for each in scored:
        options[f"{each.method}_sqnr_db"] = round(each.score.sqnr_db, 2)
        if each.score.top1 is not None:
            options[f"{each.method}_top1"] = round(each.score.top1, 6)
        if each.score.agreement is not None:
            options[f"{each.method}_agreement"] = round(each.score.agreement, 6)
    return options


def _check_varied(feeds: list[Arrays]) -> None:
    """Refuse samples that hold one single value: every range would be a guess."""
    floats = [(name, array) for feed in feeds for name, array in feed.items() if array.dtype.kind == "f"]
    if floats and all(array.size and array.min() == array.max() == floats[0][1].flat[0] for _, array in floats):
        raise CompileFaultError(
            "calibration",
            f"hold the one value {floats[0][1].flat[0]:g} everywhere: no range can be measured on them",
            next_step="calibrate on real inputs",
        )


@contextmanager
def quantisation_faults() -> Iterator[None]:
    """Turn what the quantiser raises over a model it cannot handle into a fault with its words."""
    try:
        yield
    except _QUANTISER_ERRORS as error:
        logger.exception("quantisation failed")
        reason = f"ONNX Runtime's quantiser cannot handle it: {type(error).__name__}: {session.short(error)}"
        raise CompileFaultError("variant", reason) from error
