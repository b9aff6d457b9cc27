"""Target `tensorrt`: a portable trt-source, of which each device makes its own plan.

There is no builder of Jetson plans off the device, so what is made here is an ONNX file whose types say the precision,
with the profiles a plan needs in its notes, and a report by NVIDIA's parser. Never run on hardware by us.
"""

from __future__ import annotations

from pathlib import Path

from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_contract.coverage import CoverageSource
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest
from edgefleet_controller.compile.tensorrt.coverage import coverage_of
from edgefleet_controller.compile.tensorrt.plan import build_plan
from edgefleet_controller.compile.tensorrt.profile import Profiles, as_json
from edgefleet_controller.compile.tensorrt.source import UNPROVEN, make_source, write_plain
from edgefleet_controller.compile.tensorrt.vendor import VendorMissingError, load

__all__ = ["build", "coverage_of"]

MIN_VERSION = "10.3"
"""JetPack 6.1's; older ones lack names the agent uses."""
PROFILES_KEY = "edgefleet.trt.profiles"
"""The note (ONNX `metadata_props`) the device's agent reads its profiles from."""

_REHEARSE_SM = 86
"""Ampere's desktop generation, the nearest TensorRT-RTX has to Orin's 87."""
_REHEARSE_MAX_BYTES = 256 * 1024**2
"""Larger ones take minutes, for a warning."""


def build(request: BuildRequest) -> BuildAnswer:
    """Write the trt-source of a variant.

    Raises:
        CompileFaultError: TensorRT refuses nodes of the model (each is named), or it cannot be converted.
    """
    source = make_source(request)
    profiles = as_json(source.profiles)
    write_plain(source.model, Path(request.out), {PROFILES_KEY: profiles})
    parsed = source.coverage.source is CoverageSource.VENDOR_PARSER
    return BuildAnswer(
        inputs=source.inputs,
        outputs=source.outputs,
        options={
            **source.options,
            "profiles": profiles,
            "plan": f"made on the device; {UNPROVEN}",
            "rtx_builder": rehearse(Path(request.out), source.profiles, Path(request.work_dir)),
        },
        rewrites=source.rewrites,
        min_runtime={"tensorrt": MIN_VERSION},
        coverage=source.coverage,
        level=EvidenceLevel.PARSED_ONLY if parsed else EvidenceLevel.TABLE_ONLY,
    )


def rehearse(model: Path, profiles: Profiles, work_dir: Path) -> str:
    """Return what TensorRT-RTX's builder makes of a source its parser takes: a warning, and no proof for a Jetson.

    Both are builds of one code base, and what one refuses for its form the other is likely to refuse; but there is no
    TensorRT-RTX for Orin or Thor, so only the device's own builder decides.
    """
    if (size_bytes := model.stat().st_size) > _REHEARSE_MAX_BYTES:
        return f"not asked: {size_bytes} bytes; models up to {_REHEARSE_MAX_BYTES} are tried"
    try:
        load()
        build_plan(model, profiles, work_dir, (_REHEARSE_SM,))
    except VendorMissingError as error:
        return f"not asked: {error}"
    except CompileFaultError as fault:
        return f"refuses it: {fault.message}"
    return f"builds it for SM {_REHEARSE_SM}"
