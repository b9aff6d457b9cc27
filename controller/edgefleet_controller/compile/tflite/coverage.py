"""Which operators of a TFLite file an engine would run, by tables from its vendor's documentation.

What a delegate really takes only the delegate says, on the device; these tables say what is worth sending.
"""

from __future__ import annotations

from pathlib import Path

from edgefleet_contract.coverage import Coverage, CoverageSource, OperatorCoverage, Placed
from edgefleet_controller.compile import edgetpu
from edgefleet_controller.compile.tflite import graph
from edgefleet_controller.compile.tflite.graph import Op

_GPU = frozenset({
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "EXP", "FULLY_CONNECTED", "LOGICAL_AND",
    "LOGISTIC", "LSTM", "MAX_POOL_2D", "MAXIMUM", "MINIMUM", "MUL", "PAD", "PRELU", "RELU", "RELU6", "RESHAPE",
    "RESIZE_BILINEAR", "SOFTMAX", "STRIDED_SLICE", "SUB", "TRANSPOSE_CONV",
})  # fmt: skip
_COREML = frozenset({
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "HARD_SWISH",
    "LOGISTIC", "MAX_POOL_2D", "MIRROR_PAD", "MUL", "PAD", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE",
    "RESIZE_BILINEAR", "SOFTMAX", "TANH", "TRANSPOSE_CONV",
})  # fmt: skip
_TABLES = {
    "tflite/gpu": (_GPU, "LiteRT GPU delegate, supported operators (2025)"),
    "tflite/coreml": (_COREML, "LiteRT Core ML delegate, supported operators (2025)"),
}
_FLOATS = frozenset({"float32", "float16"})
_INTEGERS = frozenset({"int8", "uint8", "int16"})
_WEIGHTS_ONLY = frozenset({"DEQUANTIZE"})


def coverage_of(path: Path, target: str) -> Coverage | None:
    """Return where each operator of a TFLite file would run on a target, or None where no table says.

    Args:
        path: the file.
        target: `tflite/edgetpu`, `tflite/gpu`, `tflite/coreml`, …

    Raises:
        DamagedFileError: it is no TFLite file.
    """
    if target == edgetpu.TARGET:
        return edgetpu.coverage(path)
    if target not in _TABLES:
        return None
    names, edition = _TABLES[target]
    operators = tuple(_covered(op, names) for op in graph.read(path.read_bytes()).operators)
    return Coverage(target=target, source=CoverageSource.STATIC_TABLE, source_version=edition, operators=operators)


def quantised_n(data: bytes) -> int:
    """Return how many operators of a file compute with integer weights or activations, conversions left out."""
    return sum(_is_quantised(op) for op in graph.read(data).operators)


def operators_n(data: bytes) -> int:
    """Return how many operators a file has."""
    return len(graph.read(data).operators)


def _is_quantised(op: Op) -> bool:
    if op.type in {"QUANTIZE", "DEQUANTIZE"}:
        return False
    return any(tensor is not None and tensor.dtype in _INTEGERS for tensor in op.inputs)


def _covered(op: Op, names: frozenset[str]) -> OperatorCoverage:
    reason = _why_not(op, names)
    return OperatorCoverage(
        index=op.index,
        name=op.name[:512],
        type=op.type[:128],
        placed=Placed.CPU if reason else Placed.ACCELERATOR,
        reason=reason,
    )


def _why_not(op: Op, names: frozenset[str]) -> str | None:
    folded = op.type in _WEIGHTS_ONLY and all(tensor is None or tensor.is_constant for tensor in op.inputs)
    if folded:
        return None  # the delegate unpacks float16 weights itself
    if op.type not in names:
        return f"{op.type} is none of the operators in the delegate's documentation"
    moving = [tensor for tensor in (*op.inputs, *op.outputs) if tensor is not None and not tensor.is_constant]
    wrong = next((tensor for tensor in moving if tensor.dtype not in _FLOATS), None)
    if wrong is not None:
        return f"{wrong.name[:256]} is {wrong.dtype}; the delegate computes in float"
    dynamic = next((tensor for tensor in moving if not tensor.is_static), None)
    return None if dynamic is None else f"{dynamic.name[:256]} has a size that changes at run time"
