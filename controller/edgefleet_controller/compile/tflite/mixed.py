"""Mixed precision of TFLite files: when int8 misses its target, the operators `mixed_search` finds go back to float.

An integer operator rounds its output as well as its inputs, so what stands between two operators in float has to be
float too: operators without weights are candidates like any other.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefleet_contract.evidence import Task
from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.protocol import OptionValue
from edgefleet_controller.compile.quantise.aim import Target
from edgefleet_controller.compile.quantise.judge import Judge, Score
from edgefleet_controller.compile.quantise.mixed_search import Candidate, Found, Made, Search
from edgefleet_controller.compile.quantise.sensitivity import relative_power
from edgefleet_controller.compile.tflite import coverage, graph, quantise
from edgefleet_controller.compile.tflite.graph import Op
from edgefleet_controller.compile.tflite.interpreter import RefusedError
from edgefleet_controller.compile.tflite.quantise import QuantisationError, Statics

logger = logging.getLogger(__name__)

MAX_CANDIDATES = 160
"""Operators tried alone; those with most weights where there are more."""
_MEASURED_ON_N = 8
_BROKEN_NOISE = 1e6
_FIXED = frozenset({"ARG_MAX", "ARG_MIN", "CAST", "DEQUANTIZE", "QUANTIZE", "SHAPE"})
Run = Callable[[bytes, Judge], list[Array]]
"""Returns a file's outputs on a judge's samples, as the source lays them out; raises RefusedError."""


@dataclass(frozen=True)
class Rounded:
    """A file and how it did."""

    data: bytes
    score: Score


@dataclass(frozen=True)
class Bench:
    """What files are made of and judged by.

    Attributes:
        statics: the integer files and their ranges.
        method: whose ranges are used.
        judge: samples and the source's outputs.
        run: runs a file.
        task: what the outputs mean, where the manifest says.
        folder: where outputs are laid for the comparison.
    """

    statics: Statics
    method: str
    judge: Judge
    run: Run
    task: Task | None
    folder: Path

    def missed(self, rounded: Rounded) -> str | None:
        """Return what a file misses of its target, or None."""
        path = self.folder / "mixed.tflite"
        return Target("int8", self.task).misses(
            self.judge, path, rounded.score, lambda: self.run(rounded.data, self.judge)
        )


def rescue(bench: Bench, plain: Rounded, share: float | None = None) -> tuple[Rounded, dict[str, OptionValue]]:
    """Return a file that meets the target with as few bytes in float as was found, else the best, and how it was made.

    Args:
        bench: what files are made of and judged by.
        plain: the file with integers throughout.
        share: of the weights, 0 to 1, that is to be in float, whatever the target asks for; None: as few as meet it.

    Raises:
        QuantisationError: no operator can be rounded alone.
    """
    content = graph.read(bench.statics.data)
    candidates = measure(bench, [op for op in content.operators if op.type not in _FIXED])
    if not candidates:
        raise QuantisationError("no operator can be rounded alone")
    total = sum(weight_bytes(op) for op in content.operators)
    sizes = {each.name: each.weight_bytes for each in candidates}
    search = Search(
        candidates,
        Made(plain, plain.score.rank, met=False),
        lambda keep, _: _made(bench, plain, keep),
        lambda keep: sum(sizes[name] for name in keep) / max(1, total),
    )
    found: Found[Rounded] = search.run() if share is None else search.spend(share)
    return found.made.file, {
        **search.options(found),
        "mixed_sqnr_db": round(found.made.file.score.sqnr_db, 2),
    }


def _made(bench: Bench, plain: Rounded, keep: frozenset[str]) -> Made[Rounded]:
    """Return the file with these operators in float; the plain one again where no such file can be made or run."""
    try:
        data = quantise.mixed(bench.statics, bench.method, keep)
        if coverage.quantised_n(data) == 0:
            return Made(plain, plain.score.rank, met=False)
        rounded = Rounded(data, bench.judge.score(bench.run(data, bench.judge)))
    except (QuantisationError, RefusedError) as error:
        logger.info("mixed precision: %d operators in float: %s", len(keep), error)
        return Made(plain, plain.score.rank, met=False)
    why = bench.missed(rounded)
    logger.info("mixed precision: %d operators in float, %s, %s", len(keep), rounded.score, why)
    return Made(rounded, rounded.score.rank, met=why is None)


def measure(bench: Bench, operators: Sequence[Op]) -> list[Candidate]:
    """Return the operators that can be rounded, in graph order, each with the noise it adds when it alone is.

    Args:
        bench: what the files are made of.
        operators: those to try; the largest `MAX_CANDIDATES` by weight where there are more.
    """
    largest = {op.index for op in sorted(operators, key=weight_bytes, reverse=True)[:MAX_CANDIDATES]}
    judge = bench.judge.part(_MEASURED_ON_N)
    reference = bench.run(bench.statics.data, judge)
    found = []
    for op in operators:
        if op.index not in largest:
            continue
        try:
            data = quantise.alone(bench.statics, bench.method, op.name)
            if coverage.quantised_n(data) == 0:
                continue
            noise = relative_power(reference, bench.run(data, judge))
        except RefusedError:
            noise = _BROKEN_NOISE
        except QuantisationError:
            continue
        found.append(Candidate(op.name, op.type, weight_bytes(op), _moved_bytes(op), noise))
    return found


def weight_bytes(op: Op) -> int:
    """Return the bytes of an operator's constant float inputs."""
    return sum(
        len(each.data) for each in op.inputs if each is not None and each.data is not None and each.dtype == "float32"
    )


def _moved_bytes(op: Op) -> int:
    moving = [each for each in op.inputs if each is not None and not each.is_constant]
    return sum(4 * math.prod(size for size in each.shape if size > 0) for each in moving)
