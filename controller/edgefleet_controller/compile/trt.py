"""Target `tensorrt`: a portable trt-source, of which each device makes its own plan.

There is no builder of Jetson plans off the device, so what is made here is an ONNX file whose types say the precision,
with the profiles a plan needs in its notes, and a report by NVIDIA's parser. It was never run on hardware by us.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_contract.coverage import Coverage, CoverageSource
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.compile import onnx_check, trt_precision
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ort import save_plain
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest
from edgefleet_controller.compile.trt_coverage import cover, coverage_of, refused_nodes
from edgefleet_controller.compile.trt_profile import as_json, fix_sizes, profiles_of
from edgefleet_controller.compile.trt_qdq import CURE

__all__ = ["build", "coverage_of"]

MIN_VERSION = "10.3"
"""JetPack 6.1's; older ones lack names the agent uses."""
PROFILES_KEY = "edgefleet.trt.profiles"
"""The note (ONNX `metadata_props`) the device's agent reads its profiles from."""
UNPROVEN = "never run on hardware by us"
_NAMED_MAX = 24
"""Refused nodes a reason names; the coverage report has them all."""


def build(request: BuildRequest) -> BuildAnswer:
    """Write the trt-source of a variant.

    Raises:
        CompileFaultError: TensorRT refuses nodes of the model (each is named), or it cannot be converted.
    """
    variant = parse_variant(request.variant)
    if variant.engine == "dla" and variant.precision == "fp32":
        raise CompileFaultError("variant", "DLA computes in fp16 and int8 only", family="unsupported")
    model = onnx_check.load(Path(request.source))
    inputs, outputs = onnx_check.io_specs(model)
    require_taken(cover(model, variant.target), variant.target)
    profiles = profiles_of(request, inputs, {})
    made, options = trt_precision.make(request, model, inputs, variant.precision)
    profiles = fix_sizes(made, profiles)
    coverage = cover(made, variant.target)
    require_taken(coverage, variant.target)
    save(made, Path(request.out), {PROFILES_KEY: as_json(profiles)})
    parsed = coverage.source is CoverageSource.VENDOR_PARSER
    return BuildAnswer(
        inputs=inputs,
        outputs=outputs,
        options={**options, "profiles": as_json(profiles), "plan": f"made on the device; {UNPROVEN}"},
        min_runtime={"tensorrt": MIN_VERSION},
        coverage=coverage,
        level=EvidenceLevel.PARSED_ONLY if parsed else EvidenceLevel.TABLE_ONLY,
    )


def require_taken(coverage: Coverage, target: str) -> None:
    """Refuse a model TensorRT refuses nodes of, naming each. Raises CompileFaultError."""
    refused = refused_nodes(coverage)
    if not refused:
        return
    reasons: dict[str, list[str]] = {}
    for each in refused[:_NAMED_MAX]:
        reasons.setdefault(each.reason or "", []).append(f"[{each.index}] {each.type} {each.name!r}")
    named = "; ".join(f"{', '.join(nodes)}: {reason}" for reason, nodes in reasons.items())
    more_n = len(refused) - _NAMED_MAX
    who = coverage.source_version.partition(";")[0]
    raise CompileFaultError(
        "variant",
        f"{len(refused)} of {len(coverage.operators)} operators are refused by {who}: {named}"
        + (f"; and {more_n} more (fleet explain MODEL --variant {target}/fp16 lists them)" if more_n > 0 else ""),
        family="unsupported",
        next_step=CURE if any(each.rewrite == CURE for each in refused) else None,
    )


def save(model: onnx.ModelProto, path: Path, notes: dict[str, str]) -> None:
    """Write a model without its own notes and with ours."""
    save_plain(model, path)
    helper.set_model_props(model, notes)
    path.write_bytes(model.SerializeToString(deterministic=True))
