"""Several files of one model in one process, timed in short blocks that take turns, and judged on the same samples.

A child of its own: it answers one request on standard input with one line on standard output.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.conditions import go_first
from edgefleet_agent.outputs import Feeder, make_feeder, run_samples
from edgefleet_agent.qualify.parity.compare import compare_outputs
from edgefleet_agent.runtimes.base import Session
from edgefleet_agent.runtimes.mapped import mapped
from edgefleet_agent.samples import Samples, load_samples
from edgefleet_agent.tasks import open_model
from edgefleet_contract.accept import MetricAccept
from edgefleet_contract.artifact import InputTransform, TensorMap
from edgefleet_contract.base import Record
from edgefleet_contract.errors import EdgefleetError
from edgefleet_contract.evidence import ParityResult, Task
from edgefleet_contract.variant import parse_variant

BLOCK_S = 0.03
MIN_CALLS_N, MAX_CALLS_N = 3, 400
CHILD_TIMEOUT_S = 1800.0
OUTPUTS_LIMIT_S = 600.0


class Contender(Record):
    """One file of the model. The first of a request is what the others are held against."""

    name: str
    model: str
    variant: str
    input_map: dict[str, TensorMap] = {}
    output_map: dict[str, TensorMap] = {}


class Request(Record):
    """What to time and judge. Without a `metric`, labels are measured and nothing is limited."""

    contenders: tuple[Contender, ...]
    samples: str
    preprocess: dict[str, InputTransform] = {}
    task: Task | None = None
    metric: MetricAccept | None = None
    blocks_n: int
    seed: int


class Measured(Record):
    """One contender: the median latency of each of its blocks, and its outputs against the first's.

    `refused` says why it did not load or run; the rest is then empty.
    """

    name: str
    block_p50_ns: tuple[float, ...] = ()
    beside_p50_ns: tuple[float, ...] = ()
    """The first contender's block right before or after each."""
    calls_n: int = 0
    """Timed calls of each block."""
    parity: ParityResult | None = None
    refused: str | None = None


class Reply(Record):
    measured: tuple[Measured, ...]


@dataclass(frozen=True)
class Opened:
    """A loaded contender and how it is fed."""

    precision: str
    session: Session
    feeder: Feeder

    def bound(self, index: int) -> Callable[[], object]:
        """Return the agent's bound call on the samples of an inference, counted around."""
        step = self.feeder.batch_n
        return self.session.bind(self.feeder.feeds(index * step % self.feeder.samples.n))


@dataclass(frozen=True)
class Turns:
    """Medians of blocks in nanoseconds, of a contender and of the reference beside it, and calls a block."""

    own_ns: tuple[float, ...]
    beside_ns: tuple[float, ...]
    calls_n: int


def measure(request: Request) -> dict[str, Measured]:
    """Return what a child process with one thread found, by name. Raises RuntimeError with what it said."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "-m", "bench.side_by_side"], input=request.model_dump_json(), capture_output=True, text=True,
        timeout=CHILD_TIMEOUT_S, check=False, env={**os.environ, **dict.fromkeys(variables, "1")},
    )  # fmt: skip
    if done.returncode != 0:
        msg = f"timing ended with {done.returncode}: {done.stderr[-500:]}"
        raise RuntimeError(msg)
    return {each.name: each for each in Reply.model_validate_json(done.stdout.splitlines()[-1]).measured}


def serve(request: Request) -> Reply:
    """Open, judge and time all contenders."""
    samples = load_samples(Path(request.samples))
    opened: dict[str, Opened] = {}
    refused: dict[str, Measured] = {}
    for each in request.contenders:
        try:
            opened[each.name] = open_contender(each, samples, request.preprocess)
        except EdgefleetError as error:
            refused[each.name] = Measured(name=each.name, refused=str(error))
    parity = judge(request, opened, samples)
    turns = take_turns(opened, request.contenders[0].name, request.blocks_n, request.seed)
    found = {
        name: Measured(
            name=name, block_p50_ns=each.own_ns, beside_p50_ns=each.beside_ns, calls_n=each.calls_n, parity=parity[name]
        )
        for name, each in turns.items()
    }
    return Reply(measured=tuple((found | refused)[each.name] for each in request.contenders))


def open_contender(each: Contender, samples: Samples, preprocess: Mapping[str, InputTransform]) -> Opened:
    """Load a file and infer once. Raises EdgefleetError."""
    session = mapped(open_model(Path(each.model), each.variant), each.input_map, each.output_map)
    feeder = make_feeder(samples, session.inputs, preprocess)
    session.run(feeder.feeds(0))
    return Opened(parse_variant(each.variant).precision, session, feeder)


def judge(request: Request, opened: Mapping[str, Opened], samples: Samples) -> dict[str, ParityResult]:
    """Return the parity of every contender with the first, over all samples."""
    outputs = {
        name: run_samples(each.session, each.feeder, limit_s=OUTPUTS_LIMIT_S, monotonic_s=time.monotonic)
        for name, each in opened.items()
    }
    reference = outputs[request.contenders[0].name]
    return {
        name: compare_outputs(
            reference,
            found,
            precision=opened[name].precision,
            task=request.task,
            labels=samples.labels,
            metric=request.metric,
        )
        for name, found in outputs.items()
    }


def take_turns(opened: Mapping[str, Opened], reference: str, blocks_n: int, seed: int) -> dict[str, Turns]:
    """Return the medians of each contender's blocks, and of the reference's blocks right beside them.

    In round i all are bound to the same sample, in an order drawn anew; a coin says which of a pair goes first; the
    first call of a block is not timed. The reference's own row pairs it with itself: the noise that is left.
    """
    go_first()
    draw = random.Random(seed)  # noqa: S311 - no secret
    calls_n = {name: _calls_n(each.bound(0)) for name, each in opened.items()}
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in opened}
    for index in range(blocks_n):
        for name in draw.sample(list(opened), len(opened)):
            order = draw.sample((0, 1), 2)
            took = {place: _block_ns(opened, (name, reference)[place], index, calls_n) for place in order}
            pairs[name].append((took[0], took[1]))
    return {
        name: Turns(tuple(own for own, _ in held), tuple(beside for _, beside in held), calls_n[name])
        for name, held in pairs.items()
    }


def _block_ns(opened: Mapping[str, Opened], name: str, index: int, calls_n: Mapping[str, int]) -> float:
    call = opened[name].bound(index)
    call()
    return _median_ns(call, calls_n[name])


def _calls_n(call: Callable[[], object]) -> int:
    once_ns = _median_ns(call, 3)
    return max(MIN_CALLS_N, min(MAX_CALLS_N, int(BLOCK_S * 1e9 / max(once_ns, 1.0))))


def _median_ns(call: Callable[[], object], n: int) -> float:
    clock = time.perf_counter_ns
    took: list[int] = []
    for _ in range(n):
        began_ns = clock()
        call()
        took.append(clock() - began_ns)
    return _median(took)


def _median(values: Sequence[int]) -> float:
    ordered, middle = sorted(values), len(values) // 2
    return float(ordered[middle]) if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def serve_stdin() -> None:
    """Answer the one request."""
    reply = serve(Request.model_validate_json(sys.stdin.read()))
    print(reply.model_dump_json(), flush=True)


if __name__ == "__main__":
    serve_stdin()
