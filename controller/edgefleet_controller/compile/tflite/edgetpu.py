"""Which operators of an int8 TFLite file the Edge TPU would run, by the vendor's rules. Pure but for reading the file.

The vendor's compiler makes one partition, as a TFLite delegate that takes only its first node set does: operators at
the very beginning that are not mapped stay on the CPU before it; from then on an operator that is not mapped, and all
that depend on its results, stay on the CPU too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgefleet_contract.base import clip_reason
from edgefleet_contract.coverage import Coverage, CoverageSource, OperatorCoverage, Placed
from edgefleet_controller.compile.tflite import edgetpu_rules, graph, partition
from edgefleet_controller.compile.tflite.graph import Graph

TARGET = "tflite/edgetpu"
COMPILED = "edgetpu-custom-op"
OUTSIDE_COMPILED = f"the file is compiled already: what its {COMPILED} does not hold stays on the CPU"
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
    if any(op.type == COMPILED for op in model.operators):
        return [None if op.type == COMPILED else OUTSIDE_COMPILED for op in model.operators]
    own = [edgetpu_rules.why_not(op) for op in model.operators]
    before, inside = _first_sets(model, own)
    blocked: dict[int, str] = {}
    """Tensor → the operator on the CPU that it comes from."""
    reasons: list[str | None] = []
    for op, reason in zip(model.operators, own, strict=True):
        culprit = next(
            (blocked[each.index] for each in op.inputs if each is not None and each.index in blocked), op.name
        )
        reasons.append(None if op.index in inside else reason or AFTER_BLOCKED.format(name=culprit))
        if op.index not in inside | before:
            blocked.update((tensor.index, culprit) for tensor in op.outputs)
    return reasons


def _first_sets(model: Graph, own: Sequence[str | None]) -> tuple[frozenset[int], frozenset[int]]:
    """Return the operators on the CPU before the partition, and those in it."""
    sets = partition.node_sets(model.operators, [reason is None for reason in own])
    before = sets.pop(0).members if sets and not sets[0].mapped else frozenset[int]()
    return before, sets[0].members if sets else frozenset[int]()
