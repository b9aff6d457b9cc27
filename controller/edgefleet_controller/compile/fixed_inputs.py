"""Weights that a source lists among its inputs, as IR version 3 asks for: constants of every artifact.

Converters and quantisers take such a name for an input that must be fed, and find nothing to quantise.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from edgefleet_controller.compile.protocol import BuildRequest

_FIRST_IR_WITHOUT = 4
"""From here on a weight need not be an input."""


def fixed(request: BuildRequest) -> BuildRequest:
    """Return the request for a source whose inputs are only what must be fed: itself, or a copy in its work folder."""
    source = Path(request.source)
    if source.suffix != ".onnx":
        return request
    model = onnx.load(source)
    weights = {tensor.name for tensor in model.graph.initializer}
    fed = [value for value in model.graph.input if value.name not in weights]
    if len(fed) == len(model.graph.input) and model.ir_version >= _FIRST_IR_WITHOUT:
        return request
    kept = onnx.GraphProto(input=fed)
    model.graph.ClearField("input")
    model.graph.input.extend(kept.input)
    model.ir_version = max(model.ir_version, _FIRST_IR_WITHOUT)
    out = Path(request.work_dir, "fixed_inputs.onnx")
    onnx.save(model, out)
    return request.model_copy(update={"source": str(out)})
