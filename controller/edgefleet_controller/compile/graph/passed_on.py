"""Outputs nothing computes: inputs given back and constants, which converters of precision stumble over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph.onnx_graph import all_nodes, put_nodes, with_plain_constants
from edgefleet_controller.compile.protocol import BuildRequest


@dataclass(frozen=True)
class PassedOn:
    """What was taken out of a graph.

    Attributes:
        outputs: every output of the source, in its order.
        names: those nothing computes.
        constants: the constants among them.
    """

    outputs: tuple[onnx.ValueInfoProto, ...] = ()
    names: frozenset[str] = frozenset()
    constants: tuple[onnx.TensorProto, ...] = ()

    def put_back(self, made: onnx.ModelProto) -> None:
        """Give a converted graph the source's outputs again: inputs and constants as they were."""
        if not self.names:
            return
        computed = {value.name: value for value in made.graph.output}
        values = [each if each.name in self.names else computed[each.name] for each in self.outputs]
        copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in values]
        del made.graph.output[:]
        made.graph.output.extend(copies)
        made.graph.initializer.extend(self.constants)


def set_aside(request: BuildRequest) -> tuple[BuildRequest, PassedOn]:
    """Return a request whose source has only outputs that nodes compute, and what its result lacks then.

    Raises:
        CompileFaultError: no node computes any output.
    """
    model = with_plain_constants(onnx.load(request.source))
    constants = _constants(model)
    given = {value.name for value in model.graph.input} | constants.keys()
    outputs = tuple(model.graph.output)
    names = frozenset(value.name for value in outputs if value.name in given)
    if not names:
        return request, PassedOn()
    if len(names) == len(outputs):
        reason = f"{request.variant} changes how nodes compute; every output is an input or a constant"
        raise CompileFaultError("variant", reason, family="unsupported")
    passed = PassedOn(outputs, names, tuple(constants[name] for name in sorted(names & constants.keys())))
    reduced = _without(model, passed)
    path = Path(request.work_dir, "computed.onnx")
    onnx.save(reduced, path)
    return request.model_copy(update={"source": str(path)}), passed


def _constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        tensor = next((each.t for each in node.attribute if each.name == "value"), None)
        if node.op_type == "Constant" and tensor is not None:
            found[node.output[0]] = onnx.TensorProto.FromString(tensor.SerializeToString())
            found[node.output[0]].name = node.output[0]
    return found


def _without(model: onnx.ModelProto, passed: PassedOn) -> onnx.ModelProto:
    """Return the graph without those outputs; nodes read constants among them under another name."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.output[:]
    made.graph.output.extend(value for value in model.graph.output if value.name not in passed.names)
    renamed = {tensor.name: f"{tensor.name}_read" for tensor in passed.constants}
    put_nodes(
        made.graph, [node for node in made.graph.node if node.op_type != "Constant" or node.output[0] not in renamed]
    )
    for node in all_nodes(made.graph):
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    kept = [tensor for tensor in made.graph.initializer if tensor.name not in renamed]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in (*kept, *passed.constants)]
    for tensor in copies:
        tensor.name = renamed.get(tensor.name, tensor.name)
    del made.graph.initializer[:]
    made.graph.initializer.extend(copies)
    return made
