"""Precisions of a TFLite file, made from its fp32 form by litert-quantizer, with the fixes it needs.

Inputs and outputs stay float in every precision: callers and parity then speak the source's language, and an int8 file
converts at its edges.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from edgefleet_controller.compile.fault import one_line
from edgefleet_controller.compile.npz import Arrays
from edgefleet_controller.compile.tflite import apart, flatbuffer, graph, masks, versions
from edgefleet_controller.compile.tflite.quiet import quiet

logger = logging.getLogger(__name__)

SIGNATURE = "serving_default"
_EVERY = ".*"
AS_THEY_COME = "layers-as-they-come"
"""The file of `static` whose dense and convolutional layers round their inputs at run time."""
_SUMS = ("ADD", "SUB", "MUL", "DIV", "MEAN", "SQRT", "RSQRT", "SQUARED_DIFFERENCE")
"""What residual sums and norms are made of."""
OUTPUT_ROOM = 0.2
"""Of 1,000 digits the largest logit lay 12 % of the range beyond those of 200 others; it costs 3 dB at the output."""
Library: TypeAlias = Any
"""Something of the quantiser, which ships no types."""
Recipe = list[dict[str, Any]]


class QuantisationError(Exception):
    """The quantiser does not manage this graph, or found nothing to do."""


@dataclass(frozen=True)
class Statics:
    """Files with calibrated integers, and what more of them are made of.

    Attributes:
        files: calibration method → file; methods that no scale fits are left out.
        data: the float file they were made of.
        ranges: calibration method → tensor → `min` and `max`, of the methods with integers throughout.
    """

    files: dict[str, bytes]
    data: bytes
    ranges: Mapping[str, Mapping[str, Any]]


def fp16(data: bytes) -> bytes:
    """Return the file with float16 weights, dequantised when it is loaded. Raises QuantisationError."""
    return _quantise(data, _fp16_recipe)


def int8_dynamic(data: bytes) -> bytes:
    """Return the file with int8 weights a channel; activations are quantised as they come. Raises QuantisationError."""
    return versions.stamp(_quantise(data, _dynamic_recipe))


def static(data: bytes, feeds: Sequence[Arrays], *, activation_bits: int, float_sums: bool = False) -> Statics:
    """Return files with int8 weights a channel and activations of 8 or 16 bits, one by each calibration method.

    `minmax` takes the widest range seen, `smoothed` the quantiser's own moving average, which ignores rare peaks. The
    outputs' ranges are the widest with some room in both: what comes out must not stick. `minmax-products` is for
    transformers: products are integers, the residual sums and norms between them stay float (3 to 4 dB more).
    `minmax-layers` has integers in layers with weights only: products of two activations stay float as well, which is
    2 to 8 dB more, and faster on XNNPACK. In `layers-as-they-come` their weights are int8 too, and activations are
    rounded row by row at run time: another 1 to 4 dB, for runtimes of `versions.HYBRID_RUNTIME`.

    Args:
        data: the fp32 file.
        feeds: real inputs by the file's names, in its layout, that ranges are taken from.
        activation_bits: 8 or 16.
        float_sums: whether a file with integers in its products only may be made as well.

    Raises:
        QuantisationError: the quantiser does not manage this graph.
    """
    recipe = _static_recipe(activation_bits)
    data = apart.outputs_apart(data)
    content = graph.read(data)
    is_transformer = any(op.type in {"BATCH_MATMUL", "DIV"} for op in content.operators)  # or has norms as they do
    with _faults(), quiet():
        widest = _ranges(data, recipe, feeds, widest=True)
        masked = masks.bounded(data, widest)
        widest = widest if masked is data else _ranges(masked, recipe, feeds, widest=True)
        data, smoothed = masked, _ranges(masked, recipe, feeds, widest=False)
        outputs = graph.output_chain(content)
        roomy = widened(widest, outputs)
        of_outputs = {name: found for name, found in roomy.items() if name in outputs}
        each = {"minmax": roomy, "smoothed": {**smoothed, **of_outputs}}
        made = {name: _export(data, recipe, ranges) for name, ranges in each.items()}
        if float_sums and is_transformer and activation_bits == 8:
            made["minmax-layers"] = _export(data, _layers_recipe(content, dynamic=False), roomy)
            made[AS_THEY_COME] = _export(data, _layers_recipe(content, dynamic=True), roomy)
        if float_sums and is_transformer:
            made["minmax-products"] = _export(data, _static_recipe(activation_bits, float_sums=True), roomy)
        usable = {name: versions.stamp(file) for name, file in made.items() if masks.too_wide(file) is None}
        if not usable:
            wide = masks.too_wide(made["minmax"])
            raise QuantisationError(f"the values of {wide!r} are too large for one scale of {activation_bits} bits")
        return Statics(usable, data, each)


def mixed(statics: Statics, method: str, keep: Collection[str]) -> bytes:
    """Return the file with int8 throughout but for the operators of these names. Raises QuantisationError."""
    with _faults(), quiet():
        return versions.stamp(_export(statics.data, _static_recipe(8, keep=keep), statics.ranges[method]))


def alone(statics: Statics, method: str, name: str) -> bytes:
    """Return the file in float but for the operator of this name. Raises QuantisationError."""
    with _faults(), quiet():
        return versions.stamp(_export(statics.data, _static_recipe(8, scope=_scope(name)), statics.ranges[method]))


def widened(ranges: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return calibrated ranges with room at the outputs: what comes out must not stick at what calibration saw.

    Args:
        ranges: tensor → `min` and `max`, as the quantiser measured them.
        names: tensors whose range is widened by `OUTPUT_ROOM` of its width; an end at zero stays (nothing is below a
            ReLU).
    """
    made = {name: dict(found) for name, found in ranges.items()}
    for name in names:
        found = made.get(name, {})
        if "min" in found and "max" in found:
            room = OUTPUT_ROOM * (found["max"] - found["min"])
            found["min"] = found["min"] - room * (found["min"] != 0)
            found["max"] = found["max"] + room * (found["max"] != 0)
    return made


def _fp16_recipe() -> Recipe:
    from litert_quantizer import qtyping

    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=weights,
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    return _recipe(
        lambda manager, algorithm, every: manager.add_quantization_config(
            _EVERY, every, config, algorithm.FLOAT_CASTING
        )
    )


def _dynamic_recipe() -> Recipe:
    from litert_quantizer import recipe

    made: Recipe = recipe.dynamic_wi8_afp32()
    return made


def _static_recipe(
    activation_bits: int, *, float_sums: bool = False, keep: Collection[str] = (), scope: str = _EVERY
) -> Recipe:
    """Return the recipe with float edges, and one scale for the second operand of BATCH_MATMUL.

    Args:
        activation_bits: 8 or 16.
        float_sums: whether the sums and norms between products stay float.
        keep: names of operators that stay float.
        scope: which operators it speaks of at all, as a regular expression.

    With a scale a channel, which no kernel of it has, transformers come out as noise (2 dB instead of 38).
    """
    from litert_quantizer import qtyping

    def add(manager: Library, algorithm: Library, every: Library) -> None:
        operations, per_tensor = qtyping.TFLOperationName, qtyping.QuantGranularity.TENSORWISE
        manager.add_static_config(scope, every, activation_bits, 8)
        manager.add_static_config(scope, operations.BATCH_MATMUL, activation_bits, 8, per_tensor)
        for edge in (operations.INPUT, operations.OUTPUT, *(_SUMS if float_sums else ())):
            manager.add_quantization_config(_EVERY, edge, algorithm_key=algorithm.NO_QUANTIZE)
        for name in sorted(keep):
            manager.add_quantization_config(_scope(name), every, algorithm_key=algorithm.NO_QUANTIZE)

    return _recipe(add)


def _scope(name: str) -> str:
    """Return the expression for one operator: the quantiser knows it by its outputs' names, each with `;` behind it."""
    return f"^{re.escape(name)}($|;)"


def _layers_recipe(content: graph.Graph, *, dynamic: bool) -> Recipe:
    """Return the recipe with integers in layers that hold weights, and float between them.

    Args:
        content: the float file's graph: products and look-ups with constant weights are taken by their names.
        dynamic: whether dense and convolutional layers round their inputs row by row at run time; products of pooled
            rows with constants, which have few weights, then stay float instead of sticking at calibrated ranges.
    """
    from litert_quantizer import qtyping

    def add(manager: Library, _algorithm: Library, _every: Library) -> None:
        operations, per_tensor = qtyping.TFLOperationName, qtyping.QuantGranularity.TENSORWISE
        for operation in (operations.FULLY_CONNECTED, operations.CONV_2D):
            if dynamic:
                manager.add_dynamic_config(_EVERY, operation, 8)
            else:
                manager.add_static_config(_EVERY, operation, 8, 8)
        for operation in (operations.DEPTHWISE_CONV_2D, operations.CONV_2D_TRANSPOSE):
            manager.add_static_config(_EVERY, operation, 8, 8)
        for op in content.operators:
            if (
                op.type == "BATCH_MATMUL"
                and not dynamic
                and any(each is not None and each.is_constant for each in op.inputs[1:2])
            ):
                manager.add_static_config(_scope(op.name), operations.BATCH_MATMUL, 8, 8, per_tensor)
            elif op.type == "GATHER" and any(each is not None and each.dtype == "float32" and each.is_constant
                                             for each in op.inputs[:1]):  # fmt: skip
                manager.add_static_config(_scope(op.name), operations.GATHER, 8, 8)

    return _recipe(add)


def _recipe(add: Callable[[Library, Library, Library], None]) -> Recipe:
    from litert_quantizer import algorithm_manager, qtyping, recipe_manager

    manager = recipe_manager.RecipeManager()
    add(manager, algorithm_manager.AlgorithmName, qtyping.TFLOperationName.ALL_SUPPORTED)
    made: Recipe = manager.get_quantization_recipe()
    return made


def _quantise(data: bytes, make_recipe: Callable[[], Recipe]) -> bytes:
    with _faults(), quiet():
        return _export(data, make_recipe(), None)


def _ranges(data: bytes, recipe: Recipe, feeds: Sequence[Arrays], *, widest: bool) -> dict[str, Any]:
    """Return tensor → `min` and `max` over all feeds."""
    from litert_quantizer import calibrator, recipe_manager
    from litert_quantizer.utils import qsv_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)
    update = {"qsv_update_func": qsv_utils.min_max_update} if widest else {}
    worker = calibrator.Calibrator(data, num_threads=1, **update)
    worker.calibrate({SIGNATURE: [dict(feed) for feed in feeds]}, manager)
    return {
        name: {end: _scalar(value) for end, value in each.items()} for name, each in worker.get_model_qsvs().items()
    }


def _scalar(value: Library) -> Library:
    """Return a range's end without axes: those of one tensor do not fit the tensors that share its scale."""
    return np.reshape(value, ()) if np.size(value) == 1 else value


def _export(data: bytes, recipe: Recipe, ranges: Mapping[str, Any] | None) -> bytes:
    from litert_quantizer import quantizer

    worker = quantizer.Quantizer(bytearray(data), recipe)
    made = worker.quantize() if ranges is None else worker.quantize(dict(ranges))
    if made.quantized_model is None:
        raise QuantisationError("litert-quantizer made nothing")
    return flatbuffer.with_names_of(bytes(made.quantized_model), data)


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """Turn whatever the quantiser raises over a graph it did not foresee into its own error."""
    try:
        yield
    except QuantisationError:
        raise
    except Exception as error:  # it raises whatever it stumbles over: KeyError, AssertionError, its own
        logger.info("litert-quantizer failed", exc_info=True)
        said = one_line(error)
        raise QuantisationError(f"litert-quantizer: {type(error).__name__}: {said}") from error
