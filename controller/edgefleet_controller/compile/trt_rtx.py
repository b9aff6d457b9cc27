"""Target `tensorrt-rtx`: plans for desktop RTX GPUs, built ahead of time on a machine without one.

Never run on hardware by us: the plan is built and its header read back, no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_contract.trt_plan import PlanHeaderError, read_header
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.compile import onnx_check, trt_precision, trt_vendor
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ort import save_plain
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest, OptionValue
from edgefleet_controller.compile.trt import UNPROVEN, require_taken
from edgefleet_controller.compile.trt_coverage import cover, coverage_of
from edgefleet_controller.compile.trt_profile import Profiles, as_json, fix_sizes, profiles_of
from edgefleet_controller.compile.trt_vendor import Vendor, VendorMissingError

__all__ = ["build", "build_plan", "coverage_of"]

SMS = (75, 80, 86, 89, 120, 121)
"""GPU generations a plan is made for: every one TensorRT-RTX 1.7 names. Not Orin (87), Hopper (90) or Thor (110)."""
_REASON_CHARS = 300


@dataclass(frozen=True)
class Plan:
    """A serialised plan, the generations it runs on, and why others were left out."""

    data: bytes
    sms: tuple[int, ...]
    refused: dict[int, str]


def build(request: BuildRequest) -> BuildAnswer:
    """Write a plan for every GPU generation that takes the model.

    Raises:
        CompileFaultError: TensorRT-RTX is not installed, refuses nodes of the model (each is named), or builds it for
            no generation.
    """
    variant = parse_variant(request.variant)
    try:
        vendor = trt_vendor.load()
    except VendorMissingError as error:
        raise CompileFaultError("variant", str(error), family="unsupported") from error
    model = onnx_check.load(Path(request.source))
    inputs, outputs = onnx_check.io_specs(model)
    require_taken(cover(model, variant.target), variant.target)
    profiles = profiles_of(request, inputs, {})
    made, options = trt_precision.make(request, model, inputs, variant.precision)
    profiles = fix_sizes(made, profiles)
    coverage = cover(made, variant.target)
    require_taken(coverage, variant.target)
    save_plain(made, Path(request.work_dir, "trt-source.onnx"))
    plan = build_plan(vendor, made.SerializeToString(deterministic=True), profiles)
    Path(request.out).write_bytes(plan.data)
    version = _version_of(plan.data)
    return BuildAnswer(
        inputs=inputs,
        outputs=outputs,
        options={**options, **_told(plan, version), "profiles": as_json(profiles)},
        min_runtime={"tensorrt-rtx": version},
        coverage=coverage,
        level=EvidenceLevel.BUILT_NOT_EXECUTED,
    )


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
    data, said = _serialize(vendor, model, profiles, sms)
    if data is not None:
        return Plan(data, tuple(sms), {})
    refused = {}
    for sm in sms:
        alone, why = _serialize(vendor, model, profiles, (sm,))
        if alone is None:
            refused[sm] = why
    left = tuple(sm for sm in sms if sm not in refused)
    data, said = _serialize(vendor, model, profiles, left) if left else (None, said)
    if data is None:
        raise CompileFaultError(
            "variant",
            f"TensorRT-RTX {vendor.__version__} takes the model's operators, but builds it for no GPU: {said}",
            family="unsupported",
        )
    return Plan(data, left, refused)


def _serialize(vendor: Vendor, model: bytes, profiles: Profiles, sms: Sequence[int]) -> tuple[bytes | None, str]:
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
    said = [error for error in errors if "cudaError 35" not in error]
    return " ".join(said[-1].split())[:_REASON_CHARS] if said else "no reason given"


def _version_of(plan: bytes) -> str:
    """Return the version in the plan's own header: what was written is read back before it is called built."""
    try:
        return read_header(plan).version
    except PlanHeaderError as error:
        raise CompileFaultError("variant", f"the builder wrote what is no plan: {error}") from error


def _told(plan: Plan, version: str) -> dict[str, OptionValue]:
    told: dict[str, OptionValue] = {
        "sm": ",".join(map(str, plan.sms)),
        "plan_version": version,
        "plan": f"built ahead of time; {UNPROVEN}",
    }
    return told | {f"sm{sm}_refused": why for sm, why in plan.refused.items()}
