"""The portable source of TensorRT plans: an ONNX file whose types say the precision, and whose every node is taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from edgefleet_contract.artifact import TensorSpec
from edgefleet_contract.coverage import Coverage
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph.passed_on import PassedOn, set_aside
from edgefleet_controller.compile.ingest import onnx_check
from edgefleet_controller.compile.ort.target import save_plain
from edgefleet_controller.compile.protocol import BuildRequest, OptionValue
from edgefleet_controller.compile.quantise import calibrate
from edgefleet_controller.compile.tensorrt import precision as trt_precision
from edgefleet_controller.compile.tensorrt import qdq as trt_qdq
from edgefleet_controller.compile.tensorrt.coverage import cover, refused_nodes
from edgefleet_controller.compile.tensorrt.profile import Profiles, Range, fix_sizes, profiles_of
from edgefleet_controller.compile.tensorrt.qdq import CURE, REWRITE

UNPROVEN = "never run on hardware by us"
FOLD = "fold-int8-weights"
"""Rewrite: weights stored as int8 and cast to float by other nodes than DequantizeLinear are stored as float."""
_NAMED_MAX = 24
"""Refused nodes a reason names; the coverage report has them all."""


@dataclass(frozen=True)
class TrtSource:
    """A model as TensorRT takes it; inputs and outputs are the source model's own."""

    model: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: dict[str, Range]
    options: dict[str, OptionValue]
    rewrites: tuple[str, ...]
    coverage: Coverage


def make_source(request: BuildRequest) -> TrtSource:
    """Return the requested variant's source.

    Raises:
        CompileFaultError: TensorRT refuses nodes of the model (each is named), or it cannot be converted.
    """
    variant = parse_variant(request.variant)
    model = onnx_check.load(Path(request.source))
    inputs, outputs = onnx_check.io_specs(model)
    rewrites: tuple[str, ...] = ()
    if trt_qdq.stray_weights(model):
        folded = calibrate.prepare(Path(request.source), Path(request.work_dir))
        model, rewrites = onnx.load(folded), (FOLD,)
        request = request.model_copy(update={"source": str(folded)})
    sizes = profiles_of(request, inputs)
    require_taken(cover(_sized(model, sizes), variant.target), variant.target)
    passed = PassedOn()
    if variant.precision != "fp32":
        request, passed = set_aside(request)
    made, options = trt_precision.make(request, model, inputs, variant.precision)
    passed.put_back(made)
    profiles = fix_sizes(made, sizes)
    coverage = cover(made, variant.target)
    require_taken(coverage, variant.target)
    return TrtSource(made, inputs, outputs, profiles, options, rewrites, coverage)


def _sized(model: onnx.ModelProto, sizes: Profiles) -> onnx.ModelProto:
    """Return a copy with the sizes it will have: a refusal for its shape comes before anything is calibrated."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    fix_sizes(copy, sizes)
    return copy


def require_taken(coverage: Coverage, target: str) -> None:
    """Refuse a model TensorRT refuses nodes of, naming each. Raises CompileFaultError."""
    refused = refused_nodes(coverage)
    if not refused:
        return
    reasons: dict[str, list[str]] = {}
    for each in refused[:_NAMED_MAX]:
        reasons.setdefault(each.reason or "", []).append(f"[{each.index}] {each.type} {each.name!r}")
    named = "; ".join(f"{reason}: {', '.join(nodes)}" for reason, nodes in reasons.items())
    more_n = len(refused) - _NAMED_MAX
    more = f"; and {more_n} more (fleet explain MODEL --variant {target}/fp16 lists them)" if more_n > 0 else ""
    # The cure comes first: a long list of names may be cut.
    cure = f" (what helps: {CURE})" if any(each.rewrite == REWRITE for each in refused) else ""
    who = coverage.source_version.partition(";")[0]
    raise CompileFaultError(
        "variant",
        f"{len(refused)} of {len(coverage.operators)} operators are refused by {who}{cure}: {named}{more}",
        family="unsupported",
    )


def write_plain(model: onnx.ModelProto, path: Path, notes: dict[str, str]) -> None:
    """Write a model without its own notes and with ours: equal graphs are equal bytes."""
    save_plain(model, path)
    onnx.helper.set_model_props(model, notes)
    path.write_bytes(model.SerializeToString(deterministic=True))
