"""What a bare model file is: its runtime by its first bytes, and the precision it claims."""

from __future__ import annotations

from pathlib import Path

from edgefleet_agent import onnx_scan, tflite_scan
from edgefleet_contract.artifact import ClaimedPrecision

_TFLITE_SUFFIX = ".tflite"


def is_tflite(path: Path) -> bool:
    """Tell whether a file is a TFLite model, by its identifier or, where it has none, by its suffix."""
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
    except OSError:
        return False
    return head[4:8] == tflite_scan.IDENTIFIER or path.suffix.lower() == _TFLITE_SUFFIX


def claimed_precision(path: Path) -> ClaimedPrecision:
    """Return the precision a model file claims by its operators and weights; `fp32` when nothing says otherwise."""
    return tflite_scan.claimed_precision(path) if is_tflite(path) else onnx_scan.claimed_precision(path)


def bare_variant(path: Path, precision: ClaimedPrecision = "fp32") -> str:
    """Return what runs a bare model file here: the CPU's usual engine for its format.

    The precision is only a label: what is computed stands in the file.
    """
    return f"tflite/xnnpack/{precision}" if is_tflite(path) else f"ort/cpu/{precision}"
