"""Precisions of a TFLite file, made from its fp32 form by litert-quantizer, with the fixes it needs.

Inputs and outputs stay float in every precision: callers and parity then speak the source's language, and an int8 file
converts at its edges.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edgefleet_controller.compile.npz import Arrays
from edgefleet_controller.compile.tflite import versions

logger = logging.getLogger(__name__)

SIGNATURE = "serving_default"
_EVERY = ".*"
Recipe = list[dict[str, Any]]


class QuantisationError(Exception):
    """The quantiser does not manage this graph, or found nothing to do."""


def fp16(data: bytes) -> bytes:
    """Return the file with float16 weights, dequantised when it is loaded. Raises QuantisationError."""
    return _quantise(data, _fp16_recipe, ())


def int8_dynamic(data: bytes) -> bytes:
    """Return the file with int8 weights a channel; activations are quantised as they come. Raises QuantisationError."""
    return versions.stamp(_quantise(data, _dynamic_recipe, ()))


def static(data: bytes, feeds: Sequence[Arrays], *, activation_bits: int) -> bytes:
    """Return the file with int8 weights a channel and activations of 8 or 16 bits, float at its edges.

    Args:
        data: the fp32 file.
        feeds: real inputs by the file's names, in its layout, that ranges are taken from.
        activation_bits: 8 or 16.

    Raises:
        QuantisationError: the quantiser does not manage this graph.
    """
    return versions.stamp(_quantise(data, lambda: _static_recipe(activation_bits), feeds))


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


def _static_recipe(activation_bits: int) -> Recipe:
    """Return the recipe with float edges, and one scale for the second operand of BATCH_MATMUL.

    With a scale a channel, which no kernel of it has, transformers come out as noise (2 dB instead of 38).
    """
    from litert_quantizer import qtyping

    def add(manager: Any, algorithm: Any, every: Any) -> None:  # noqa: ANN401 - the library is untyped
        operations, per_tensor = qtyping.TFLOperationName, qtyping.QuantGranularity.TENSORWISE
        manager.add_static_config(_EVERY, every, activation_bits, 8)
        manager.add_static_config(_EVERY, operations.BATCH_MATMUL, activation_bits, 8, per_tensor)
        for edge in (operations.INPUT, operations.OUTPUT):
            manager.add_quantization_config(_EVERY, edge, algorithm_key=algorithm.NO_QUANTIZE)

    return _recipe(add)


def _recipe(add: Callable[[Any, Any, Any], None]) -> Recipe:
    from litert_quantizer import algorithm_manager, qtyping, recipe_manager

    manager = recipe_manager.RecipeManager()
    add(manager, algorithm_manager.AlgorithmName, qtyping.TFLOperationName.ALL_SUPPORTED)
    made: Recipe = manager.get_quantization_recipe()
    return made


def _quantise(data: bytes, make_recipe: Callable[[], Recipe], feeds: Sequence[Mapping[str, Any]]) -> bytes:
    try:
        with _quiet():
            from litert_quantizer import quantizer

            worker = quantizer.Quantizer(bytearray(data), make_recipe())
            ranges = worker.calibrate({SIGNATURE: list(feeds)}, num_threads=1) if worker.need_calibration else None
            made = worker.quantize(ranges) if ranges is not None else worker.quantize()
    except Exception as error:
        logger.info("litert-quantizer failed", exc_info=True)
        said = " ".join(str(error).split())[:300]
        raise QuantisationError(f"litert-quantizer: {type(error).__name__}: {said}") from error
    if made.quantized_model is None:
        raise QuantisationError("litert-quantizer made nothing")
    return bytes(made.quantized_model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    printed = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        warnings.simplefilter("ignore")
        yield
