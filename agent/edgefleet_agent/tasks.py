"""What a worker does for each kind of job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import singledispatch
from pathlib import Path
from typing import TypeVar

from edgefleet_agent.feeding import completed, judged, without
from edgefleet_agent.match import match_samples
from edgefleet_agent.model_file import bare_variant, is_tflite
from edgefleet_agent.outputs import make_feeder, run_samples
from edgefleet_agent.preprocess import InputMismatchError
from edgefleet_agent.qualify.conditions import pin, read_conditions
from edgefleet_agent.qualify.latency.clocks import real_clocks
from edgefleet_agent.qualify.latency.query import inference_errors, make_query, profile_of
from edgefleet_agent.qualify.latency.run import Start, measure_latency
from edgefleet_agent.qualify.latency.scenario import samples_per_query
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
    samples = without(load_samples(Path(job.samples)), job.bound)
    session = open_model(Path(job.model), job.variant, test_runtimes=job.test_runtimes)
    session = mapped(session, job.input_map, job.output_map)
    outputs = outputs_of(session, samples, job.preprocess, {} if job.single_steps else job.state)
    outputs = {name: outputs[name] for name in judged(outputs, job.state)}
    save_arrays(Path(job.out), outputs)
    return OutputsAnswer(outputs=_described(session, outputs), n_samples=samples.n)


def _described(session: Session, outputs: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    """Return the outputs that were written as the model declares them, with the dtypes that came."""
    return tuple(
        spec.model_copy(update={"dtype": outputs[spec.name].dtype.name})
        for spec in session.outputs
        if spec.name in outputs
    )


@do_job.register
def _compare(job: CompareJob) -> Answer:
    from edgefleet_agent.compare import compare

    return compare(job)


@do_job.register
def _bench(job: BenchJob) -> BenchAnswer:
    pin(job.latency.cpus)
    named = bare_variant(Path(job.model))
    variant = parse_variant(named)
    runtime = find_runtime(variant, test_runtimes=False)
    clocks = real_clocks(job.latency.threads)
    session, load_ns = _timed(clocks.now_ns, lambda: open_model(Path(job.model), named, threads=job.latency.threads))
    if job.input_map:
        session = mapped(session, job.input_map, {})
    samples = samples_for(session, without(load_samples(Path(job.samples), state=job.state.values()), job.bound), job)
    if is_tflite(Path(job.model)) and not job.input_map:
        session = in_samples_order(session, samples, job.preprocess)
    feeder = make_feeder(samples, session.inputs, job.preprocess)
    feeds = feeder.feeds(0)
    _, first_ns = _timed(clocks.now_ns, lambda: session.run(feeds))
    query = make_query(session, feeder, samples_per_query(job.latency))
    start = Start(load_ns, first_ns)
    with inference_errors("latency was measured"):
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
        UnsupportedError: this device or version cannot run it; TensorRefusedError where no device could.
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


def samples_for(session: Session, samples: Samples, job: BenchJob | CompareJob) -> Samples:
    """Return a file's samples as one model takes them: with its constants and first states, without what it has bound.

    Raises:
        InputMismatchError: a state is no input of the model, or its first value does not fit.
    """
    taken = {spec.name for spec in session.inputs}
    constants = {name: value for name, value in job.constants.items() if name in taken}
    return without(completed(samples, session.inputs, job.state, constants), job.constants.keys() - taken)


def outputs_of(
    session: Session,
    samples: Samples,
    transforms: Mapping[str, InputTransform],
    state: Mapping[str, str] | None = None,
) -> dict[str, Array]:
    """Return a model's outputs on samples, by name. Raises InputMismatchError and InferenceFailedError."""
    feeder = make_feeder(samples, session.inputs, transforms, state)
    return run_samples(session, feeder, limit_s=OUTPUTS_LIMIT_S, monotonic_s=time.monotonic)
