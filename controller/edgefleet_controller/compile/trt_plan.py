"""Builds plans with TensorRT-RTX, which needs no GPU for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgefleet_controller.compile import trt_vendor
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.trt_profile import Profiles
from edgefleet_controller.compile.trt_vendor import Vendor

SMS = (75, 80, 86, 89, 120, 121)
"""GPU generations a plan is made for: every one TensorRT-RTX 1.7 names. Not Orin (87), Hopper (90) or Thor (110)."""
_REASON_CHARS = 300
_NO_GPU = "cudaError 35"
"""The library reports beside every error that this machine has no GPU, which is not the model's fault."""


@dataclass(frozen=True)
class Plan:
    """A serialised plan, the generations it runs on, and why others were left out."""

    data: bytes
    sms: tuple[int, ...]
    refused: dict[int, str]


def build_plan(vendor: Vendor, model: bytes, profiles: Profiles, sms: Sequence[int] = SMS) -> Plan:
    """Return a plan for several GPU generations. Built in a process of its own, equal inputs give equal bytes.

    A generation that refuses the model (SM 75 has no float32 matrix product) is left out with its reason.

    Args:
        vendor: the TensorRT-RTX module.
        model: an ONNX file its parser takes.
        profiles: sizes of dynamic inputs.
        sms: compute capabilities, as 10 * major + minor.

    Raises:
        CompileFaultError: no generation takes the model.
    """
    data, said = serialize(vendor, model, profiles, sms)
    if data is not None:
        return Plan(data, tuple(sms), {})
    refused = {}
    for sm in sms:
        alone, why = serialize(vendor, model, profiles, (sm,))
        if alone is None:
            refused[sm] = why
    left = tuple(sm for sm in sms if sm not in refused)
    data, said = serialize(vendor, model, profiles, left) if left else (None, said)
    if data is None:
        raise CompileFaultError(
            "variant",
            f"TensorRT-RTX {vendor.__version__} takes the model's operators, but builds it for no GPU: {said}",
            family="unsupported",
        )
    return Plan(data, left, refused)


def serialize(vendor: Vendor, model: bytes, profiles: Profiles, sms: Sequence[int]) -> tuple[bytes | None, str]:
    """Return the plan, or None and what the builder said."""
    logger = trt_vendor.new_logger(vendor)
    builder = vendor.Builder(logger)
    network = trt_vendor.new_network(vendor, builder)
    parser = vendor.OnnxParser(network, logger)
    if not parser.parse(model):
        return None, _said(logger.errors)
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(sms)
    for place, sm in enumerate(sms):
        config.set_compute_capability(getattr(vendor.ComputeCapability, f"SM{sm}"), place)
    if profiles:
        profile = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in profiles.items():
            profile.set_shape(name, smallest, usual, largest)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return (None, _said(logger.errors)) if plan is None else (bytes(plan), "")


def _said(errors: Sequence[str]) -> str:
    said = [error for error in errors if _NO_GPU not in error]
    return " ".join(said[-1].split())[:_REASON_CHARS] if said else "no reason given"
