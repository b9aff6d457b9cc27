"""Finds the operator that makes an ONNX candidate differ from its reference.

Two ways of looking, three runs in all, however many operators there are:

1. the reference with every tensor given that the candidate names too;
2. *drift*: the candidate with the same tensors given, so that errors have added up;
3. *island*: the candidate with each such tensor fed from the reference, so that every operator is alone with its fault.

A binary search would need log2 n runs and believe that an error never vanishes downstream; islands need neither.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgefleet_agent.feeding import fed_back
from edgefleet_agent.outputs import Feeder, make_feeder
from edgefleet_agent.qualify.bisect.judge import Judgement, TensorError, judge
from edgefleet_agent.qualify.parity.claim import claim_of
from edgefleet_agent.runtimes.base import Array, Session
from edgefleet_agent.runtimes.registry import find_runtime
from edgefleet_agent.samples import Samples
from edgefleet_contract.artifact import InputTransform
from edgefleet_contract.base import clip_reason
from edgefleet_contract.errors import DeviceError, UserInputError
from edgefleet_contract.evidence import Bisection, BisectStatus, OperatorError
from edgefleet_contract.variant import parse_variant

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgefleet_agent.qualify.bisect.graph import Graph

MAX_SAMPLES_N = 32
"""An operator at fault shows in any sample it sees; more samples cost memory and tell no more."""
MAX_KEPT_BYTES = 256 * 1024**2
"""The reference's tensors are kept for the islands: as many samples as fit here, one at least."""
_WORST_N = 8
_REFERENCE = parse_variant("ort/cpu/fp32")


@dataclass
class Bench:
    """Runs models made on the way, and counts the runs."""

    folder: Path
    runs_n: int = 0

    def open(self, model: ModelProto) -> Session:
        """Load a model made in memory. Raises LoadFailedError, UnsupportedError."""
        self.runs_n += 1
        path = self.folder / f"run-{self.runs_n}.onnx"
        path.write_bytes(model.SerializeToString())
        return find_runtime(_REFERENCE, test_runtimes=False).load(path, variant=_REFERENCE, threads=1, spinning=False)


@dataclass
class Found:
    """Everything measured: values of the reference by sample, and errors by candidate tensor."""

    reference: Graph
    candidate: Graph
    pairs: Mapping[str, str]
    values: list[dict[str, Array]] = field(default_factory=list)
    feeds: list[dict[str, Array]] = field(default_factory=list)
    drift: dict[str, TensorError] = field(default_factory=dict)
    island: dict[str, TensorError] = field(default_factory=dict)


def why_impossible() -> str | None:
    """Return why this machine cannot bisect, None when it can."""
    if importlib.util.find_spec("onnx") is None:
        return "bisecting takes models apart and needs the `onnx` package, which is installed on builders, not devices"
    return None


def bisect(
    reference: Path,
    candidate: Path,
    samples: Samples,
    transforms: Mapping[str, InputTransform],
    *,
    precision: str,
    state: Mapping[str, str] | None = None,
    out: Path | None = None,
) -> Bisection:
    """Find the first operator whose outputs differ, by islands, and where errors have added up too far.

    Args:
        reference: the ONNX file that is right.
        candidate: an ONNX file whose tensors keep the reference's names (an optimised, quantised or faulty copy).
        samples: real inputs; up to 32 are used.
        transforms: preprocessing by input.
        precision: what the candidate claims.
        state: output → input it is fed back into. Both models are given the reference's own states, step by step.
        out: folder for the failing part and the command that repeats the finding.

    Raises:
        UserInputError: a file is no ONNX model.
    """
    reason = why_impossible()
    if reason is not None:
        return Bisection(status=BisectStatus.IMPOSSIBLE, reason=reason)
    from edgefleet_agent.qualify.bisect.graph import align, load_graph

    graphs = load_graph(str(reference)), load_graph(str(candidate))
    pairs = align(*graphs)
    if not pairs:
        reason = "no tensor has the same name in both files, so their operators cannot be laid beside each other"
        return Bisection(status=BisectStatus.IMPOSSIBLE, reason=reason, operators_n=len(graphs[1].nodes))
    found = Found(*graphs, pairs)
    with _folder() as folder:
        bench = Bench(folder)
        try:
            _measure(found, bench, (samples, transforms, state or {}))
        except (DeviceError, UserInputError, ValueError) as error:
            # onnx raises ValueError where a model with its weights inside is larger than protobuf holds (2 GiB).
            reason = clip_reason(f"a model taken apart does not run: {error}")
            return Bisection(status=BisectStatus.IMPOSSIBLE, reason=reason, runs_n=bench.runs_n)
    order = list(pairs)
    judged = judge(order, found.island, found.drift, claim_of(precision, same_artifact=False))
    answer = _answer(found, judged, bench.runs_n)
    if judged.culprit is None or out is None:
        return answer
    from edgefleet_agent.qualify.bisect.report import write_part

    command = write_part(found, judged.culprit, precision, out)
    return answer.model_copy(update={"folder": str(out), "command": clip_reason(command)})


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="edgefleet-bisect-") as folder:
        yield Path(folder)


def _measure(
    found: Found, bench: Bench, given: tuple[Samples, Mapping[str, InputTransform], Mapping[str, str]]
) -> None:
    from edgefleet_agent.qualify.bisect.graph import computed, exposing, islands

    session = bench.open(exposing(found.reference, found.pairs.values()))
    samples, transforms, state = given
    feeder = make_feeder(samples, session.inputs, transforms, state)
    _run_reference(session, feeder, found)
    session.close()
    found.drift = _run_beside(bench.open(exposing(found.candidate, found.pairs)), found, {})
    if len(found.pairs) == 1:
        # The only operator is an island by nature.
        found.island = found.drift
        return
    model = islands(found.candidate, found.pairs, found.values[0])
    found.island = _run_beside(bench.open(model), found, {name: computed(name) for name in found.pairs})


def _run_reference(session: Session, feeder: Feeder, found: Found) -> None:
    kept_bytes = 0
    carried: dict[str, Array] = {}
    for start in range(0, feeder.samples.n, feeder.batch_n):
        feeds = {**feeder.feeds(start), **({} if start in feeder.samples.starts else carried)}
        values = session.run(feeds)
        carried = fed_back(values, feeder.state, feeder.specs)
        kept_bytes += sum(array.nbytes for array in values.values())
        if found.values and (kept_bytes > MAX_KEPT_BYTES or len(found.values) >= MAX_SAMPLES_N):
            return
        # A dequantised input stands for the input itself.
        found.values.append({**feeds, **values})
        found.feeds.append(feeds)


def _run_beside(session: Session, found: Found, names: Mapping[str, str]) -> dict[str, TensorError]:
    errors = {name: TensorError() for name in found.pairs}
    wanted = {spec.name: np.dtype(spec.dtype) for spec in session.inputs}
    for feeds, values in zip(found.feeds, found.values, strict=True):
        known = {**{name: values[twin] for name, twin in found.pairs.items()}, **feeds}
        outputs = session.run({name: known[name].astype(dtype, copy=False) for name, dtype in wanted.items()})
        for name, twin in found.pairs.items():
            errors[name].add(values[twin], outputs[names.get(name, name)])
    session.close()
    return errors


def _answer(found: Found, judged: Judgement, runs_n: int) -> Bisection:
    by_level = sorted(found.pairs, key=lambda name: found.island[name].sqnr_db)
    return Bisection(
        status=judged.status,
        reason=clip_reason(judged.words),
        operators_n=sum(1 for node in found.candidate.nodes if not set(node.output) <= found.candidate.constants),
        compared_n=len(found.pairs),
        runs_n=runs_n,
        samples_n=len(found.values),
        culprit=_error_of(found, judged.culprit),
        first_drift=_error_of(found, judged.first_drift),
        worst=tuple(error for name in by_level[:_WORST_N] if (error := _error_of(found, name)) is not None),
    )


def _error_of(found: Found, name: str | None) -> OperatorError | None:
    from edgefleet_agent.qualify.bisect.graph import island_nodes

    if name is None:
        return None
    nodes, _ = island_nodes(found.candidate, name, found.pairs)
    kinds = [node.op_type for node in nodes if not set(node.output) <= found.candidate.constants]
    producer = found.candidate.producers[name]
    return OperatorError(
        operator=_shorten(kinds or [producer.op_type]),
        node=producer.name[:512],
        tensor=name[:512],
        island_sqnr_db=_finite(found.island[name].sqnr_db),
        drift_sqnr_db=_finite(found.drift[name].sqnr_db),
        reason=found.island[name].fault or found.drift[name].fault,
    )


def _shorten(kinds: Sequence[str]) -> str:
    text = "+".join(kinds)
    return text if len(text) <= 128 else f"{text[:127]}…"


def _finite(value_db: float) -> float | None:
    return value_db if np.isfinite(value_db) else None
