"""Target `misbehave`: the source as it is, for the agent's test runtimes that misbehave on purpose."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgefleet_controller.compile import onnx_check
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest


def build(request: BuildRequest) -> BuildAnswer:
    """Copy the source. Raises CompileFaultError as `onnx_check.load`."""
    inputs, outputs = onnx_check.io_specs(onnx_check.load(Path(request.source)))
    shutil.copyfile(request.source, request.out)
    return BuildAnswer(inputs=inputs, outputs=outputs)
