"""Target `tensorrt-rtx`: plans for desktop RTX GPUs, built ahead of time on a machine without one.

Never run on hardware by us: the plan is built and its header read back, no more.
"""

from __future__ import annotations

from pathlib import Path

from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_contract.trt_plan import PlanHeaderError, read_header
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest, OptionValue
from edgefleet_controller.compile.tensorrt import vendor as trt_vendor
from edgefleet_controller.compile.tensorrt.coverage import coverage_of
from edgefleet_controller.compile.tensorrt.plan import DEFAULT_SMS, Plan, build_plan
from edgefleet_controller.compile.tensorrt.profile import as_json
from edgefleet_controller.compile.tensorrt.source import UNPROVEN, make_source, write_plain
from edgefleet_controller.compile.tensorrt.vendor import VendorMissingError

__all__ = ["build", "coverage_of"]


def build(request: BuildRequest) -> BuildAnswer:
    """Write a plan for every GPU generation that takes the model.

    Raises:
        CompileFaultError: TensorRT-RTX is not installed, refuses nodes of the model (each is named), or builds it for
            no generation.
    """
    try:
        trt_vendor.load()
    except VendorMissingError as error:
        raise CompileFaultError("variant", str(error), family="unsupported") from error
    sms = chosen_sms(request.options.get("sm"))
    source = make_source(request)
    work_dir = Path(request.work_dir)
    write_plain(source.model, work_dir / "trt-source.onnx", {})
    plan = build_plan(work_dir / "trt-source.onnx", source.profiles, work_dir, sms)
    Path(request.out).write_bytes(plan.data)
    version = _version_of(plan.data)
    return BuildAnswer(
        inputs=source.inputs,
        outputs=source.outputs,
        options={**source.options, **_told(plan, version), "profiles": as_json(source.profiles)},
        rewrites=source.rewrites,
        min_runtime={"tensorrt-rtx": version},
        coverage=source.coverage,
        level=EvidenceLevel.BUILT_NOT_EXECUTED,
    )


def chosen_sms(text: str | None) -> tuple[int, ...]:
    """Return the GPU generations a plan is asked for, in order: the option `sm`, else `DEFAULT_SMS`.

    Raises:
        CompileFaultError: the installed TensorRT-RTX builds for none of that name.
    """
    asked = DEFAULT_SMS if text is None else tuple(sorted({int(each) for each in text.split(",")}))
    vendor = trt_vendor.load()
    known = trt_vendor.known_sms(vendor)
    if unknown := [sm for sm in asked if sm not in known]:
        raise CompileFaultError(
            "variant",
            f"TensorRT-RTX {vendor.__version__} builds no plan for {', '.join(f'SM {sm}' for sm in unknown)}; "
            f"it knows: {', '.join(f'SM {sm}' for sm in known)}",
            next_step="name some of these: options: {tensorrt-rtx/gpu: {sm: '86,89,120'}}",
            family="unsupported",
        )
    return asked


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
