"""Asks NVIDIA's ONNX parser (TensorRT-RTX, no GPU needed) which nodes of a model it refuses, and finds all of them.

One `supports_model_v2` lists every node that fails its static checks, but stops at the first that fails while it is
imported (a wrong zero point, a quantised bias). So nodes that were refused are cut out, what they gave becomes an input
of the graph, and the rest is asked again, until nothing more is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from edgefleet_controller.compile.graph.onnx_graph import names_read, put_nodes, with_shapes
from edgefleet_controller.compile.tensorrt.vendor import Vendor, about_the_model, new_logger, new_network, tidy

MAX_ROUNDS = 256
"""Questions for one model; each finds at least one more node. Beyond, the report says that it is cut short."""
_TEXT_CHARS = 300
_SAID = re.compile(r'&&\s*"([^"]+)"')
_PLUGIN = "plugin was not found in the plugin registry"
"""What the parser says of a plugin of the library's own that does not start, as it does not without a driver."""
_UNASKED = "Node input was not registered"
"""What the parser says of a node that reads a tensor it could not make: nothing about the node itself."""
TAKEN_TYPES = frozenset(
    {
        TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT64,
        TensorProto.INT32, TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL, TensorProto.INT4,
        TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1,
    }
)  # fmt: skip
"""Types the parser takes for an input."""
MODEL = -1
"""Index of a refusal that names no node: an input of the model, or the model as a whole."""


class Parser:
    """NVIDIA's parser for one process."""

    def __init__(self, vendor: Vendor) -> None:
        self._vendor = vendor
        self._logger = new_logger(vendor)
        self._builder = vendor.Builder(self._logger)

    def knows(self, operator: str) -> bool:
        """Return whether the parser has an importer for an operator of ONNX's own domain."""
        network = new_network(self._vendor, self._builder)
        return bool(self._vendor.OnnxParser(network, self._logger).supports_operator(operator))

    @property
    def version(self) -> str:
        """Return the library's name and version."""
        return f"TensorRT-RTX {self._vendor.__version__}"

    def ask(self, model: onnx.ModelProto) -> dict[int, str]:
        """Return what one question tells: index of a refused node in the graph, or `MODEL` → why."""
        logger = new_logger(self._vendor)
        network = new_network(self._vendor, self._builder)  # held here: a parser does not keep its network alive
        parser = self._vendor.OnnxParser(network, logger)
        if parser.supports_model_v2(model.SerializeToString()):
            return {}
        errors = [parser.get_error(number) for number in range(parser.num_errors)]
        found: dict[int, str] = {}
        for error in errors:
            found.setdefault(_place(error, len(model.graph.node)), _words(error))
        return found or {MODEL: (logger.errors or ["refused without a reason"])[0][:_TEXT_CHARS]}

    def refusals(self, model: onnx.ModelProto, known: Collection[int] = ()) -> dict[int, str]:
        """Return every node the parser refuses, by its index in the graph, and why; `MODEL` for the whole.

        Args:
            model: with shapes inferred (`onnx.shape_inference`), so that what a cut node gave has a known shape.
            known: nodes that are refused anyway, and cut out from the start.
        """
        found: dict[int, str] = {}
        left, places = model, list(range(len(model.graph.node)))
        fresh = set(known)
        for _ in range(MAX_ROUNDS):
            if fresh:
                left, kept = cut(left, {place for place, index in enumerate(places) if index in fresh})
                left, places = with_shapes(left), [places[place] for place in kept]
            if not places:
                return found
            asked = {MODEL if place == MODEL else places[place]: why for place, why in self.ask(left).items()}
            found |= {index: why for index, why in asked.items() if index not in found and _UNASKED not in why}
            fresh = asked.keys() - {MODEL}
            if not fresh:
                return found
        return found | {MODEL: f"asked {MAX_ROUNDS} times, and each time one more node was refused; there may be more"}


def cut(model: onnx.ModelProto, out: Collection[int]) -> tuple[onnx.ModelProto, list[int]]:
    """Return the model without some nodes, and the index each node left had.

    What a cut node gave to others becomes an input of the graph, with the inferred type; where none could be inferred,
    with that of the cut node's own first input, which is right for everything element-wise.
    """
    kept = [index for index in range(len(model.graph.node)) if index not in out]
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, nodes = made.graph, list(model.graph.node)
    put_nodes(graph, (nodes[index] for index in kept))
    gone = {name: nodes[index] for index in sorted(out) for name in nodes[index].output if name}
    graph.input.extend(_inputs_for(model.graph, gone, names_read(graph)))
    outputs = [value for value in model.graph.output if value.name not in gone]
    del graph.output[:]
    graph.output.extend(outputs or _loose_ends(graph, _types(model.graph)))
    return made, kept


def _inputs_for(
    graph: onnx.GraphProto, gone: Mapping[str, onnx.NodeProto], wanted: Collection[str]
) -> list[onnx.ValueInfoProto]:
    types = _types(graph)
    made = []
    for name in gone:
        guess = types.get(name) or next((types[each] for each in gone[name].input if each in types), None)
        if guess is None:
            continue
        value = onnx.ValueInfoProto()
        value.CopyFrom(guess)
        value.name = name
        if value.type.tensor_type.elem_type not in TAKEN_TYPES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
        types[name] = value  # the next cut node may read it
        if name in wanted:
            made.append(value)
    return made


def _types(graph: onnx.GraphProto) -> dict[str, onnx.ValueInfoProto]:
    """Return what is known of each tensor; a parser takes no input without a rank."""
    listed = {
        value.name: value
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.HasField("shape") and value.type.tensor_type.elem_type
    }
    constants = {
        tensor.name: helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
    }
    return constants | listed


def _loose_ends(graph: onnx.GraphProto, types: Mapping[str, onnx.ValueInfoProto]) -> list[onnx.ValueInfoProto]:
    read = names_read(graph)
    return [types[name] for node in graph.node for name in node.output if name not in read and name in types]


def _place(error: Vendor, nodes_n: int) -> int:
    """Return which node of the main graph an error is about: for one inside a function, the node that calls it."""
    place = int(error.node())
    return place if 0 <= place < nodes_n and error.node_operator() else MODEL


def _words(error: Vendor) -> str:
    operator, desc = str(error.node_operator()), str(error.desc())
    if desc.strip() == "false":
        return f"TensorRT has no {operator}"
    if "Plugin not found" in desc:
        return f"TensorRT has no {operator} and no plugin of that name"
    if _PLUGIN in desc:
        return f"{operator} is a plugin of TensorRT's, which cannot be asked on a controller without an NVIDIA GPU"
    if (said := _SAID.search(desc)) is not None:
        return said[1][:_TEXT_CHARS]
    return _first_said(desc.splitlines())[:_TEXT_CHARS]


def _first_said(lines: Sequence[str]) -> str:
    """Return the most telling line: the call that failed, where one is named, else the first."""
    said = about_the_model(lines)
    call = next((line for line in said if "Error Code" in line), None)
    return tidy(call or next(iter(said), "")) or "refused without a reason"
