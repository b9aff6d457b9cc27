"""Which operators of a TFLite file an engine would run, by tables made from its delegate's own code.

What a delegate really takes only the delegate says, on the device; these tables say what is worth sending.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefleet_contract.base import clip_reason
from edgefleet_contract.coverage import Coverage, CoverageSource, OperatorCoverage, Placed
from edgefleet_controller.compile.tflite import (
    delegate_coreml,
    delegate_gpu,
    delegate_nnapi,
    delegate_rules,
    edgetpu,
    graph,
    partition,
    sized,
)
from edgefleet_controller.compile.tflite.delegate_rules import Kind, Rule
from edgefleet_controller.compile.tflite.graph import Graph, Op

_INTEGERS = frozenset({"int8", "uint8", "int16"})


@dataclass(frozen=True)
class Delegate:
    """A delegate as its table tells it.

    Attributes:
        edition: what the table was made from.
        kinds: operator → what is asked of it.
        types: what is asked of the tensors of all.
        breaks: what of all it only finds out while it builds.
        near: what is asked of an operator's neighbours.
        most_parts: how many parts of a graph it takes; None: all.
        least_operators: how few operators make a part.
    """

    edition: str
    kinds: Mapping[str, Kind]
    types: Rule | None = None
    breaks: tuple[Rule, ...] = ()
    near: Callable[[Op, Sequence[Op]], str | None] | None = None
    most_parts: int | None = None
    least_operators: int = 1


DELEGATES: Mapping[str, Delegate] = {
    "tflite/gpu": Delegate(
        delegate_gpu.EDITION,
        delegate_gpu.KINDS,
        delegate_gpu.types,
        breaks=(delegate_gpu.scalars,),
        near=delegate_gpu.truth_values,
        most_parts=delegate_gpu.MOST_PARTS,
    ),
    "tflite/coreml": Delegate(
        delegate_coreml.EDITION,
        delegate_coreml.KINDS,
        delegate_coreml.types,
        least_operators=delegate_coreml.LEAST_OPERATORS,
    ),
    "tflite/nnapi": Delegate(
        delegate_nnapi.EDITION,
        delegate_nnapi.KINDS,
        breaks=(delegate_nnapi.tensors,),
        most_parts=delegate_nnapi.MOST_PARTS,
    ),
}


def coverage_of(path: Path, target: str) -> Coverage | None:
    """Return where each operator of a TFLite file would run on a target, or None where no table says.

    Args:
        path: the file.
        target: `tflite/edgetpu`, `tflite/gpu`, `tflite/coreml`, `tflite/nnapi`, …

    Raises:
        DamagedFileError: it is no TFLite file.
    """
    if target == edgetpu.TARGET:
        return edgetpu.coverage(path)
    if target not in DELEGATES:
        return None
    return coverage_of_graph(graph.read(path.read_bytes()), target)


def coverage_of_graph(model: Graph, target: str) -> Coverage:
    """Return where each operator of a graph would run on a target of `DELEGATES`."""
    delegate = DELEGATES[target]
    reasons = _reasons(model.operators, delegate)
    operators = tuple(_covered(op, reason) for op, reason in zip(model.operators, reasons, strict=True))
    return Coverage(
        target=target, source=CoverageSource.STATIC_TABLE, source_version=delegate.edition, operators=operators
    )


def quantised_n(data: bytes) -> int:
    """Return how many operators of a file compute with integer weights or activations, conversions left out."""
    return sum(_is_quantised(op) for op in graph.read(data).operators)


def holds(data: bytes, dtype: str) -> bool:
    """Return whether an operator of a file reads a constant of this type."""
    constants = (each for op in graph.read(data).operators for each in op.inputs if each is not None)
    return any(each.is_constant and each.dtype == dtype for each in constants)


def operators_n(data: bytes) -> int:
    """Return how many operators a file has."""
    return len(graph.read(data).operators)


def _is_quantised(op: Op) -> bool:
    if op.type in {"QUANTIZE", "DEQUANTIZE"}:
        return False
    return any(tensor is not None and tensor.dtype in _INTEGERS for tensor in op.inputs)


def _covered(op: Op, reason: str | None) -> OperatorCoverage:
    return OperatorCoverage(
        index=op.index,
        name=op.name[:512],
        type=op.type[:128],
        placed=Placed.CPU if reason else Placed.ACCELERATOR,
        reason=clip_reason(reason) if reason else None,
    )


def _reasons(operators: Sequence[Op], delegate: Delegate) -> list[str | None]:
    """Return for each operator why the CPU runs it, or None where the delegate does."""
    open_tensor = sized.first_open(operators)
    if open_tensor is not None:
        return [f"the delegate refuses the model: the size of {open_tensor.name} is only known when it runs"] * len(
            operators
        )
    seen = partition.without_unpacking(operators)
    own = [_why_not(op, seen.operators, delegate) for op in seen.operators]
    if all(reason is None or op.index in seen.unpacking for op, reason in zip(operators, own, strict=True)):
        taken = frozenset(op.index for op in operators)
    else:
        mapped = [reason is None and op.index not in seen.unpacking for op, reason in zip(operators, own, strict=True)]
        taken = partition.largest(partition.node_sets(operators, mapped), delegate.most_parts, delegate.least_operators)
    breaking = next(
        (said for op in seen.operators if op.index in taken - seen.unpacking and (said := _breaks(op, delegate))), None
    )
    if breaking is not None:
        return [f"the delegate gives up on the whole model: {breaking}"] * len(operators)
    return [None if op.index in taken else _left(op, own[op.index], seen.unpacking, delegate) for op in operators]


def _left(op: Op, own: str | None, unpacking: frozenset[int], delegate: Delegate) -> str:
    if op.index in unpacking:
        return "it unpacks float16 weights, which stays on the CPU unless the delegate takes all else"
    if own is not None:
        return own
    if delegate.most_parts is None:
        return f"it stands alone; the delegate takes parts of {delegate.least_operators} operators or more"
    parts = "part" if delegate.most_parts == 1 else f"{delegate.most_parts} parts"
    return (
        f"operators that stay on the CPU cut the graph, and it is not in the largest {parts}, which the delegate takes"
    )


def _why_not(op: Op, operators: Sequence[Op], delegate: Delegate) -> str | None:
    kind = delegate.kinds.get(op.type)
    if kind is None:
        return f"the delegate has no {op.type}"
    if not op.inputs or not op.outputs:
        return "it has no input or no output"
    near = delegate.near(op, operators) if delegate.near is not None else None
    rules = kind.rules if delegate.types is None else (*kind.rules, delegate.types)
    return delegate_rules.too_new(op, kind) or delegate_rules.first(rules, op) or near


def _breaks(op: Op, delegate: Delegate) -> str | None:
    found = delegate_rules.first((*delegate.kinds[op.type].breaks, *delegate.breaks), op)
    return None if found is None else f"at {op.type} {op.name}, {found}"
