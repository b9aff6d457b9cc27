"""Which operators of an int8 TFLite file the Edge TPU would run, by the vendor's rules. Pure but for reading the file.

The vendor's compiler makes one partition: an operator that it does not map, and all that depend on its results, stay on
the CPU. The exception is the conversion of float inputs at the very beginning, which the CPU does before the partition.
"""

from __future__ import annotations

from pathlib import Path

from edgefleet_contract.base import clip_reason
from edgefleet_contract.coverage import Coverage, CoverageSource, OperatorCoverage, Placed
from edgefleet_controller.compile import edgetpu_rules
from edgefleet_controller.compile.tflite import graph
from edgefleet_controller.compile.tflite.graph import Graph, Op

TARGET = "tflite/edgetpu"
AFTER_BLOCKED = "it depends on {name}, which stays on the CPU; the Edge TPU compiler makes one partition only"


def coverage(path: Path) -> Coverage:
    """Return where each operator of a TFLite file would run.

    Raises:
        DamagedFileError: it is no TFLite file.
    """
    return coverage_of_graph(graph.read(path.read_bytes()))


def coverage_of_graph(model: Graph) -> Coverage:
    """Return where each operator would run, in the file's order."""
    reasons = reasons_of(model)
    operators = tuple(
        OperatorCoverage(
            index=op.index,
            name=op.name[:512],
            type=op.type[:128],
            placed=Placed.CPU if reasons[op.index] else Placed.ACCELERATOR,
            reason=clip_reason(reason) if (reason := reasons[op.index]) else None,
            rewrite=edgetpu_rules.REWRITES.get(op.type) if reasons[op.index] else None,
        )
        for op in model.operators
    )
    return Coverage(
        target=TARGET,
        source=CoverageSource.STATIC_TABLE,
        source_version=edgetpu_rules.EDITION,
        operators=operators,
    )


def reasons_of(model: Graph) -> list[str | None]:
    """Return for each operator why it stays on the CPU, or None where the Edge TPU runs it."""
    blocked: dict[int, str] = {}
    """Tensor → the operator on the CPU that it comes from."""
    reasons: list[str | None] = []
    for op in model.operators:
        culprit = next((blocked[each.index] for each in op.inputs if each is not None and each.index in blocked), None)
        own = edgetpu_rules.why_not(op)
        reason = own or (AFTER_BLOCKED.format(name=culprit) if culprit is not None else None)
        reasons.append(reason)
        if reason is not None and not _is_entrance(op, model):
            blocked.update((tensor.index, culprit or op.name) for tensor in op.outputs)
    return reasons


def _is_entrance(op: Op, model: Graph) -> bool:
    """Return whether an operator only converts a float input of the graph to int8 or uint8."""
    source = op.input(0)
    return (
        op.type == "QUANTIZE"
        and source is not None
        and source.index in model.inputs
        and op.outputs[0].dtype in edgetpu_rules.QUANTISED
    )
