"""Target `tensorrt-rtx`: plans for desktop RTX GPUs, built ahead of time on a machine without one.

Never run on hardware by us: the plan is built and its header read back, no more.
"""

from __future__ import annotations

from pathlib import Path

from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_contract.trt_plan import PlanHeaderError, read_header
from edgefleet_controller.compile import trt_vendor
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest, OptionValue
from edgefleet_controller.compile.trt_coverage import coverage_of
from edgefleet_controller.compile.trt_plan import Plan, build_plan
from edgefleet_controller.compile.trt_profile import as_json
from edgefleet_controller.compile.trt_source import UNPROVEN, make_source, write_plain
from edgefleet_controller.compile.trt_vendor import VendorMissingError

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
    source = make_source(request)
    work_dir = Path(request.work_dir)
    write_plain(source.model, work_dir / "trt-source.onnx", {})
    plan = build_plan(work_dir / "trt-source.onnx", source.profiles, work_dir)
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
