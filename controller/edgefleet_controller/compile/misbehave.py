"""Target `misbehave`, for rigs: fp32 ships the source to the agent's test runtime; int8 is a converter that commits the
fault itself, while it builds."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgefleet_contract.faults import FAULTS
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.compile.ingest import onnx_check
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest


def build(request: BuildRequest) -> BuildAnswer:
    """Copy the source, or commit the fault the engine names. Raises CompileFaultError as `onnx_check.load`."""
    inputs, outputs = onnx_check.io_specs(onnx_check.load(Path(request.source)))
    variant = parse_variant(request.variant)
    if variant.precision == "int8":
        FAULTS[variant.engine]()
    shutil.copyfile(request.source, request.out)
    return BuildAnswer(inputs=inputs, outputs=outputs)
