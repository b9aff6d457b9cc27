"""Inputs with one value become constants of the graph, and the branches they decide fall away.

For targets without control flow or without inputs of rank 0. Where shapes decide branches too, the sizes of one sample
are fixed with them. The result is proven against the source on samples before anything is made of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import onnx

from edgefleet_contract.artifact import TensorSpec
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.fault import CompileFaultError, one_line
from edgefleet_controller.compile.graph import onnx_graph
from edgefleet_controller.compile.ingest import onnx_check, preprocess
from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest

logger = logging.getLogger(__name__)

NAME = "constants-bound"
PROVEN_MIN_DB = 100.0
"""A folded graph does the source's arithmetic; constants folded by another library may round their last bit."""
PROVEN_ON_N = 4
_FOLDER_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    onnx.checker.ValidationError,
)
"""What onnxslim's Python code raises over graphs it did not foresee."""
_MAIN_GRAPH_ONLY = frozenset({"int8", "int4"})
"""Precisions of ONNX Runtime whose quantisers do not look inside of branches."""


def needed(request: BuildRequest) -> bool:
    """Tell whether a variant is made of the source with its constants bound."""
    if not request.constants or Path(request.source).suffix != ".onnx":
        return False
    variant = parse_variant(request.variant)
    if variant.runtime != "ort":
        return True
    return variant.precision in _MAIN_GRAPH_ONLY and _branches(onnx.load(request.source))


def bound(request: BuildRequest) -> BuildRequest:
    """Write the source with its constants bound; return the request to build that.

    Raises:
        CompileFaultError: the bound graph computes something else.
    """
    source = onnx_check.load(Path(request.source))
    specs = onnx_check.io_specs(source)[0]
    arrays = npz.read(Path(request.samples))
    feeds = list(islice(preprocess.batches(arrays, specs, request.preprocess), PROVEN_ON_N))
    made = bind(source, {name: feeds[0][name] for name in request.constants}, _shapes(specs, feeds[0]))
    _prove(source, made, feeds)
    path = Path(request.work_dir, "bound.onnx")
    onnx.save(made, path)
    return request.model_copy(update={"source": str(path), "constants": {}})


def told(answer: BuildAnswer, request: BuildRequest) -> BuildAnswer:
    """Return the answer to a build of the bound source, saying what was bound."""
    values = {f"bound {name}": value for name, value in request.constants.items()}
    return answer.model_copy(
        update={
            "rewrites": (NAME, *answer.rewrites),
            "bound": (*answer.bound, *request.constants),
            "options": {**answer.options, **values},
        }
    )


def bind(model: onnx.ModelProto, values: Mapping[str, Array], sizes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """Return a model in which inputs are constants and branches they decide are gone.

    Args:
        model: the source.
        values: input → its value.
        sizes: input → shape in one inference, taken only where branches are left without them.
    """
    frozen = onnx_graph.with_constants(model, values)
    folded = _folded(frozen, {})
    return folded if not _branches(folded) else _folded(frozen, {name: sizes[name] for name in sizes.keys() - values})


def _folded(model: onnx.ModelProto, sizes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    import onnxslim

    shapes = [f"{name}:{','.join(map(str, sizes[name]))}" for name in sorted(sizes)]
    try:
        folded: onnx.ModelProto = onnxslim.slim(model, input_shapes=shapes or None)
    except _FOLDER_ERRORS as error:  # what was bound is sound without it
        logger.info("not folded: %s", one_line(error))
        return model
    return folded


def _branches(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "If" for node in onnx_graph.all_nodes(model.graph))


def _shapes(specs: Sequence[TensorSpec], feed: Arrays) -> dict[str, tuple[int, ...]]:
    return {spec.name: tuple(feed[spec.name].shape) for spec in specs}


def _prove(source: onnx.ModelProto, made: onnx.ModelProto, feeds: Sequence[Arrays]) -> None:
    taken = {value.name for value in made.graph.input}
    before = session.Session(source.SerializeToString())
    try:
        after = session.Session(made.SerializeToString())
        for feed in feeds:
            wanted = before.run(feed)
            got = after.run({name: value for name, value in feed.items() if name in taken})
            if any(left.shape != right.shape for left, right in zip(wanted, got, strict=True)):
                raise CompileFaultError("variant", "with its constants bound the model gives outputs of another shape")
            if (db := session.sqnr_db(wanted, got)) < PROVEN_MIN_DB and any(np.any(each) for each in wanted):
                text = f"with its constants bound the model computes something else: {db:.1f} dB"
                raise CompileFaultError("variant", text)
    except session.RUNTIME_ERRORS as error:
        text = f"with its constants bound the model does not run: {session.short(error)}"
        raise CompileFaultError("variant", text, family="unsupported") from error
