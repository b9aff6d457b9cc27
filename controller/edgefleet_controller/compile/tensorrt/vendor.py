"""NVIDIA's TensorRT-RTX on the builder, whose parser and builder need no GPU: the one place that imports it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Any

NAMES = ("tensorrt_rtx", "tensorrt_rtx_bindings")
"""The module under its documented name, and as the bindings wheel installs it."""

_PLACE = re.compile(r"\.?\s*In [\w:()]+ at /_src/\S+|^\[[^\]]*\] ")
_CALL = re.compile(r"Error Code \d+: [\w ]+ \((.*)$")
_NO_GPU = ("cudaError 35", "catchCudaError")
"""The library reports beside every error that this machine has no GPU, which is not the model's fault."""

_alive: list[object] = []
"""Every logger: the library keeps a bare pointer to the first one for good, and uses it long after its builder is gone
(measured: a segmentation fault when a plugin logged)."""

Vendor = Any
"""The module or one of its objects; it ships no types."""


class VendorMissingError(Exception):
    """TensorRT-RTX cannot be used on this machine; the message says why and what to install."""


@cache
def load() -> Vendor:
    """Return the module.

    Raises:
        VendorMissingError: it is not installed, or installed and does not import.
    """
    for name in NAMES:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise VendorMissingError(f"{name} is installed and does not import: {error}") from error
        except (ImportError, OSError) as error:
            raise VendorMissingError(f"{name} is installed and does not import: {error}") from error
    raise VendorMissingError("TensorRT-RTX is not installed on the controller; install edgefleet[trt-rtx]")


def known_sms(vendor: Vendor) -> tuple[int, ...]:
    """Return the GPU generations its builder names, as 10 * major + minor."""
    names = vendor.ComputeCapability.__members__
    return tuple(sorted(int(name.removeprefix("SM")) for name in names if re.fullmatch(r"SM\d+", name)))


def new_logger(vendor: Vendor) -> Vendor:
    """Return a logger that keeps what the library says of errors in its `errors` and prints nothing."""

    class Kept(vendor.ILogger):  # type: ignore[misc]  # the library ships no types
        def __init__(self) -> None:
            vendor.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Vendor, message: str) -> None:
            if severity in {vendor.ILogger.ERROR, vendor.ILogger.INTERNAL_ERROR}:
                self.errors.append(message)

    kept = Kept()
    _alive.append(kept)
    return kept


def new_network(vendor: Vendor, builder: Vendor) -> Vendor:
    """Return an empty network whose types are the model's own: precision is said in the ONNX and nowhere else."""
    return builder.create_network(1 << int(vendor.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


def tidy(said: str) -> str:
    """Return the library's words without its own functions, error codes and source files, on one line."""
    text = _PLACE.sub("", " ".join(said.split()))
    call = _CALL.search(text)
    return _PLACE.sub("", call[1].removesuffix(")") if call else text).removeprefix("Assertion failed: ").strip()


def about_the_model(lines: Iterable[str]) -> list[str]:
    """Return the lines that are not about this machine having no GPU."""
    return [line for line in lines if line.strip() and not any(sign in line for sign in _NO_GPU)]
