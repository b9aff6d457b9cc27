"""NVIDIA's TensorRT-RTX on the builder, whose parser and builder need no GPU: the one place that imports it."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

NAMES = ("tensorrt_rtx", "tensorrt_rtx_bindings")
"""The module under its documented name, and as the bindings wheel installs it."""

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


def new_logger(vendor: Vendor) -> Vendor:
    """Return a logger that keeps what the library says of errors in its `errors` and prints nothing."""

    class Kept(vendor.ILogger):  # type: ignore[misc]  # the library ships no types
        def __init__(self) -> None:
            vendor.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Vendor, message: str) -> None:
            if severity in {vendor.ILogger.ERROR, vendor.ILogger.INTERNAL_ERROR}:
                self.errors.append(message)

    return Kept()


def new_network(vendor: Vendor, builder: Vendor) -> Vendor:
    """Return an empty network whose types are the model's own: precision is said in the ONNX and nowhere else."""
    return builder.create_network(1 << int(vendor.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
