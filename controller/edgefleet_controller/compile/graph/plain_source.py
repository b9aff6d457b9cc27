"""What ONNX Runtime takes in a source and converters and quantisers do not: put right in a copy.

Weights listed among the inputs, as IR version 3 asks for, are constants of every artifact: tools take such a name for
an input that must be fed, and find nothing to quantise. Nodes may come in any order, as float16 converters write them.
Functions a model brings along are replaced by their bodies, which every tool reads.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.inliner

from edgefleet_controller.compile.graph import onnx_graph
from edgefleet_controller.compile.protocol import BuildRequest

_FIRST_IR_WITHOUT = 4
"""From here on a weight need not be an input."""


def plain(request: BuildRequest) -> BuildRequest:
    """Return the request for a source with nodes in order, no functions of its own and only inputs that must be fed.

    It is a copy where the source is none such.
    """
    source = Path(request.source)
    if source.suffix != ".onnx":
        return request
    model = onnx.load(source)
    functions_n = len(model.functions)
    if functions_n:
        model = onnx.inliner.inline_local_functions(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    fed = [value for value in model.graph.input if value.name not in weights]
    moved = onnx_graph.sort_nodes(model.graph)
    if len(fed) == len(model.graph.input) and model.ir_version >= _FIRST_IR_WITHOUT and not moved and not functions_n:
        return request
    kept = onnx.GraphProto(input=fed)
    model.graph.ClearField("input")
    model.graph.input.extend(kept.input)
    model.ir_version = max(model.ir_version, _FIRST_IR_WITHOUT)
    out = Path(request.work_dir, "plain.onnx")
    onnx.save(model, out)
    return request.model_copy(update={"source": str(out)})
