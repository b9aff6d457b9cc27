"""What a worker does for each kind of job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import singledispatch
from pathlib import Path
from typing import TypeVar

from edgefleet_agent.match import match_samples
from edgefleet_agent.model_file import bare_variant, is_tflite
from edgefleet_agent.outputs import make_feeder, run_samples
from edgefleet_agent.preprocess import InputMismatchError
from edgefleet_agent.qualify.clocks import real_clocks
from edgefleet_agent.qualify.conditions import pin, read_conditions
from edgefleet_agent.qualify.latency import Start, measure_latency
from edgefleet_agent.qualify.latency_query import make_query, profile_of
from edgefleet_agent.qualify.scenario import samples_per_query
from edgefleet_agent.qualify.trial import SPINNING, run_trial
from edgefleet_agent.runtimes.base import Array, Session
from edgefleet_agent.runtimes.mapped import mapped
from edgefleet_agent.runtimes.registry import engines_alone, find_runtime, probe_engines, probe_target
from edgefleet_agent.samples import Samples, load_samples, save_arrays
from edgefleet_contract.artifact import InputTransform, TensorSpec
from edgefleet_contract.errors import InternalError, UserInputError
from edgefleet_contract.job import (
    Answer,
    BenchAnswer,
    BenchJob,
    CompareJob,
    InspectAnswer,
    InspectJob,
    OutputsAnswer,
    OutputsJob,
    ProbeAnswer,
    ProbeJob,
    QualifyAnswer,
    QualifyJob,
)
from edgefleet_contract.variant import parse_variant

T = TypeVar("T")

OUTPUTS_LIMIT_S = 3600.0
"""A bound, not a budget: whoever starts the worker sets the real limit."""


@singledispatch
def do_job(job: object) -> Answer:
    """Do a job and return its answer. Raises errors of the families input, device and internal."""
    msg = f"no task for a {type(job).__name__}"
    raise InternalError(msg)


@do_job.register
def _qualify(job: QualifyJob) -> QualifyAnswer:
    return QualifyAnswer(trial=run_trial(job))


@do_job.register
def _probe(job: ProbeJob) -> ProbeAnswer:
    if job.target is not None:
        return ProbeAnswer(engines=(probe_target(job.target, test_runtimes=job.test_runtimes),))
    return ProbeAnswer(
        engines=probe_engines(test_runtimes=job.test_runtimes), alone=engines_alone(test_runtimes=job.test_runtimes)
    )


@do_job.register
def _inspect(job: InspectJob) -> InspectAnswer:
    session = open_model(Path(job.model), job.variant)
    return InspectAnswer(inputs=session.inputs, outputs=session.outputs)


@do_job.register
def _outputs(job: OutputsJob) -> OutputsAnswer:
    samples = load_samples(Path(job.samples))
    session = open_model(Path(job.model), job.variant, test_runtimes=job.test_runtimes)
    session = mapped(session, job.input_map, job.output_map)
    outputs = outputs_of(session, samples, job.preprocess)
    save_arrays(Path(job.out), outputs)
    return OutputsAnswer(outputs=_described(session, outputs), n_samples=samples.n)


def _described(session: Session, outputs: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    """Return the outputs as the model declares them, with the dtypes that came."""
    return tuple(spec.model_copy(update={"dtype": outputs[spec.name].dtype.name}) for spec in session.outputs)


@do_job.register
def _compare(job: CompareJob) -> Answer:
    from edgefleet_agent.compare import compare

    return compare(job)


@do_job.register
def _bench(job: BenchJob) -> BenchAnswer:
    pin(job.latency.cpus)
    samples = load_samples(Path(job.samples))
    named = bare_variant(Path(job.model))
    variant = parse_variant(named)
    runtime = find_runtime(variant, test_runtimes=False)
    clocks = real_clocks(job.latency.threads)
    session, load_ns = _timed(clocks.now_ns, lambda: open_model(Path(job.model), named, threads=job.latency.threads))
    if job.input_map:
        session = mapped(session, job.input_map, {})
    elif is_tflite(Path(job.model)):
        session = in_samples_order(session, samples, job.preprocess)
    feeder = make_feeder(samples, session.inputs, job.preprocess)
    feeds = feeder.feeds(0)
    _, first_ns = _timed(clocks.now_ns, lambda: session.run(feeds))
    query = make_query(session, feeder, samples_per_query(job.latency))
    start = Start(load_ns, first_ns)
    latency = measure_latency(
        query.call, job.latency, start=start, spinning=SPINNING, clocks=clocks, samples_n=query.samples_n
    )
    latency = latency.model_copy(update={"profile": profile_of(session, feeder, job.latency)})
    conditions = read_conditions(variant.runtime, runtime.version, threads=job.latency.threads, spinning=SPINNING)
    return BenchAnswer(latency=latency, conditions=conditions)


def _timed(now_ns: Callable[[], int], work: Callable[[], T]) -> tuple[T, int]:
    began_ns = now_ns()
    return work(), now_ns() - began_ns


def open_model(path: Path, variant: str, *, threads: int = 1, test_runtimes: bool = False) -> Session:
    """Load a model file.

    Raises:
        UserInputError: there is no such file.
        LoadFailedError: it is damaged or not a model.
        UnsupportedError: this device or version cannot run it.
    """
    if not path.is_file():
        msg = f"{path}: no such model file"
        raise UserInputError(msg)
    parsed = parse_variant(variant)
    runtime = find_runtime(parsed, test_runtimes=test_runtimes)
    return runtime.load(path, variant=parsed, threads=threads, spinning=SPINNING)


def in_samples_order(session: Session, samples: Samples, transforms: Mapping[str, InputTransform]) -> Session:
    """Return a session that takes samples prepared for its source, where a conversion put channels last.

    A session whose inputs fit the samples in no one order is returned as it is: feeding it then says what does not fit.
    """
    try:
        return mapped(session, match_samples(samples.inputs, transforms, session.inputs).maps, {})
    except InputMismatchError:
        return session


def outputs_of(session: Session, samples: Samples, transforms: Mapping[str, InputTransform]) -> dict[str, Array]:
    """Return a model's outputs on samples, by name. Raises InputMismatchError and InferenceFailedError."""
    feeder = make_feeder(samples, session.inputs, transforms)
    return run_samples(session, feeder, limit_s=OUTPUTS_LIMIT_S, monotonic_s=time.monotonic)
