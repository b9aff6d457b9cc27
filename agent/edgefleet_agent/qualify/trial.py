"""The trial: one artifact, on this device, through every gate.

Order: files, load, outputs, parity with the source, parity with the builder, placement, latency, memory, energy. The
first gate missed ends it; what was measured until then stays in the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgefleet_agent.outputs import Feeder, TimeboxError, make_feeder, run_samples
from edgefleet_agent.qualify import verdict
from edgefleet_agent.qualify.artifact import (
    DOCUMENT_NAME,
    CorruptArtifactError,
    Golden,
    UnprovableArtifactError,
    load_golden,
    verified_document,
)
from edgefleet_agent.qualify.conditions import pin, read_conditions, with_engine_options
from edgefleet_agent.qualify.energy.external import measure_energy_here
from edgefleet_agent.qualify.energy.meter import plan_for
from edgefleet_agent.qualify.energy.thermal import ThermalWatch, judged, longest_wait_s
from edgefleet_agent.qualify.findings import Findings, GateMissedError
from edgefleet_agent.qualify.latency.clocks import Clocks, real_clocks
from edgefleet_agent.qualify.latency.query import Query, inference_errors, make_query, profile_of
from edgefleet_agent.qualify.latency.run import Start, measure_latency
from edgefleet_agent.qualify.latency.scenario import budget_for, samples_per_query
from edgefleet_agent.qualify.memory import MemoryMeter
from edgefleet_agent.runtimes.base import Array, InferenceFailedError, Runtime, Session, UnsupportedError
from edgefleet_agent.runtimes.mapped import mapped
from edgefleet_agent.runtimes.registry import find_runtime, options_here, with_options
from edgefleet_agent.sensors.probe import Sensors, probe
from edgefleet_contract.accept import Scenario
from edgefleet_contract.artifact import ArtifactDocument, FileRole
from edgefleet_contract.errors import DeviceError, UserInputError
from edgefleet_contract.evidence import (
    Gate,
    LatencyResult,
    LatencyVerdict,
    ParityResult,
    ParityVerdict,
    ThermalResult,
    Trial,
    Verdict,
)
from edgefleet_contract.job import STEPS_WORDS, LatencyBudget, QualifyJob
from edgefleet_contract.variant import Variant, parse_variant

SPINNING = False
"""Spinning threads cost 9 times the CPU per inference at 20 Hz and gain nothing at one thread."""
RUNS_MAX_N = 3
"""Latency runs of one trial at most."""
OUTPUTS_LIMIT_S = 120.0
"""Time for all golden samples; they number some hundred, so a slower model is no candidate for serving."""


def run_trial(
    job: QualifyJob, *, clocks: Clocks | None = None, monotonic_s: Callable[[], float] = time.monotonic
) -> Trial:
    """Qualify one artifact. Everything wrong with it is a verdict; only a missing folder is an error.

    Args:
        job: the artifact's folder and what must hold.
        clocks: what latency is measured with; default: the machine's.
        monotonic_s: the clock of the time box around the golden samples.

    Raises:
        UserInputError: the artifact's folder does not exist.
    """
    folder = Path(job.artifact_dir)
    if not folder.is_dir():
        msg = f"{folder}: no such folder; an artifact folder holds {DOCUMENT_NAME} and the files it names"
        raise UserInputError(msg)
    findings = Findings()
    try:
        with _as_verdicts():
            trial = _Trial.of(job, folder, findings, clocks or real_clocks(job.latency.threads))
            trial.run(folder, monotonic_s)
    except GateMissedError as missed:
        return findings.trial(missed)
    return findings.trial()


@contextmanager
def _as_verdicts() -> Iterator[None]:
    """Turn what is wrong with an artifact into the verdict it means."""
    try:
        yield
    except CorruptArtifactError as error:
        raise GateMissedError(Verdict.CORRUPT, Gate.FETCH, str(error)) from error
    except UnprovableArtifactError as error:
        raise GateMissedError(Verdict.FAILED, Gate.PARITY, str(error)) from error
    except UnsupportedError as error:
        raise GateMissedError(Verdict.UNSUPPORTED, Gate.LOAD, str(error)) from error


@contextmanager
def _failing_at(gate: Gate, doing: str) -> Iterator[None]:
    """Let an inference that fails after so many that did not miss this gate, with all that was measured kept."""
    try:
        with inference_errors(doing):
            yield
    except InferenceFailedError as error:
        raise GateMissedError(Verdict.FAILED, gate, str(error)) from error


@dataclass(frozen=True)
class _Trial:
    """Everything one trial works with."""

    job: QualifyJob
    document: ArtifactDocument
    golden: Golden
    variant: Variant
    runtime: Runtime
    findings: Findings
    clocks: Clocks
    meter: MemoryMeter = field(default_factory=MemoryMeter)

    @classmethod
    def of(cls, job: QualifyJob, folder: Path, findings: Findings, clocks: Clocks) -> _Trial:
        document = verified_document(folder)
        golden = load_golden(folder, document)
        variant = parse_variant(document.variant)
        pin(job.latency.cpus)
        found = find_runtime(variant, test_runtimes=job.test_runtimes)
        runtime = with_options(found, variant.target, document.provider_options)
        conditions = read_conditions(variant.runtime, runtime.version, threads=job.latency.threads, spinning=SPINNING)
        findings.measured["conditions"] = with_engine_options(conditions, options_here(runtime, variant.engine))
        _require_version(variant.runtime, runtime.version, document.min_runtime)
        return cls(job, document, golden, variant, runtime, findings, clocks)

    def run(self, folder: Path, monotonic_s: Callable[[], float]) -> None:
        self.meter.start()
        session, load_ns = self._load(folder)
        try:
            feeder, first_ns = self._first(session)
            self.findings.measured["placement"] = session.placement()
            outputs = _outputs(session, feeder, monotonic_s)
            self.meter.pause()
            with self._steps_told(session, feeder, monotonic_s):
                self._prove_parity(outputs)
            self._prove_placement()
            self.meter.resume()
            self._measure(session, feeder, Start(load_ns, first_ns))
        finally:
            session.close()
        self._prove_limits()

    def _load(self, folder: Path) -> tuple[Session, int]:
        model = self.document.file(FileRole.MODEL)
        if model is None:
            msg = "the document names no model file"
            raise CorruptArtifactError(msg)
        began_ns = self.clocks.now_ns()
        try:
            loaded = self.runtime.load(
                folder / model.name, variant=self.variant, threads=self.job.latency.threads, spinning=SPINNING
            )
            session = mapped(loaded, self.document.io.input_map, self.document.io.output_map)
        except UnsupportedError:
            raise
        except DeviceError as error:
            raise GateMissedError(Verdict.FAILED, Gate.LOAD, str(error)) from error
        return session, self.clocks.now_ns() - began_ns

    def _first(self, session: Session) -> tuple[Feeder, int]:
        """Infer once; return how samples are fed, and how long the first inference took, in nanoseconds."""
        try:
            io = self.document.io
            feeder = make_feeder(self.golden.samples, session.inputs, io.preprocess, io.state)
            feeds = feeder.feeds(0)
            began_ns = self.clocks.now_ns()
            session.run(feeds)
        except UnsupportedError:
            raise
        except UserInputError as error:
            # The samples are the artifact's own: that they do not fit its model is the artifact's fault.
            raise CorruptArtifactError(str(error)) from error
        except DeviceError as error:
            raise GateMissedError(Verdict.FAILED, Gate.LOAD, str(error)) from error
        return feeder, self.clocks.now_ns() - began_ns

    def _prove_placement(self) -> None:
        """Judge where operators ran, after parity: an engine that computes wrongly shall be known for that."""
        ruling = verdict.judge_placement(
            self.findings.measured["placement"], self.job.accept.placement, engine=self.variant.engine
        )
        self.findings.rule(ruling, Gate.PLACEMENT)

    def _prove_parity(self, outputs: Mapping[str, Array]) -> None:
        """Ask both questions before judging either: whether the device or the artifact is at fault takes both."""
        parity = self._faithful(outputs)
        device_parity = self._computed_right(outputs)
        self.findings.measured.update(parity=parity, device_parity=device_parity)
        self.findings.rule(verdict.judge_parity(parity), Gate.PARITY)
        if device_parity is None:
            self.findings.warn("the artifact holds no outputs of its own, so this device's arithmetic is unproven")
        else:
            self.findings.rule(verdict.judge_parity(device_parity), Gate.DEVICE_PARITY)

    @contextmanager
    def _steps_told(self, session: Session, feeder: Feeder, monotonic_s: Callable[[], float]) -> Iterator[None]:
        """Where a model that feeds states back fails, say whether single steps from the source's own states do."""
        try:
            yield
        except GateMissedError as missed:
            if not feeder.state:
                raise
            steps = _outputs(session, replace(feeder, state={}), monotonic_s)
            fails = self._faithful({name: steps[name] for name in self.golden.source}).verdict is ParityVerdict.FAIL
            raise GateMissedError(missed.verdict, missed.gate, f"{missed.reason}; {STEPS_WORDS[fails]}") from missed

    def _faithful(self, outputs: Mapping[str, Array]) -> ParityResult:
        """Compare with the source. The metric and the manifest's limits are about this question only."""
        from edgefleet_agent.qualify.parity.compare import compare_outputs

        return compare_outputs(
            self.golden.source,
            outputs,
            precision=self.document.claimed_precision,
            task=self.job.task,
            labels=self.golden.samples.labels,
            metric=self.job.accept.metric,
            limits=self.job.accept.parity,
            samples_level=self.document.samples_level,
        )

    def _computed_right(self, outputs: Mapping[str, Array]) -> ParityResult | None:
        """Compare with what the builder got from the same artifact."""
        from edgefleet_agent.qualify.parity.compare import compare_outputs

        if self.golden.artifact is None:
            return None
        return compare_outputs(
            self.golden.artifact,
            outputs,
            precision=self.document.claimed_precision,
            task=self.job.task,
            same_artifact=True,
            samples_level=self.document.samples_level,
        )

    def _measure(self, session: Session, feeder: Feeder, start: Start) -> None:
        call = session.bind(feeder.feeds(0))
        sensors = probe()
        budget = budget_for(self.job.accept.latency, self.job.latency)
        query = make_query(session, feeder, samples_per_query(budget))
        with _failing_at(Gate.LATENCY, "latency was measured"):
            memory = self.meter.result_after(query.call)
            latency, thermal = self._steady_latency(query, budget, start, sensors)
        if growth := self.meter.growth():
            self.findings.warn(growth)
        latency = judged(latency, thermal)
        self.findings.measured.update(latency=latency, memory=memory, thermal=thermal)
        with _failing_at(Gate.ENERGY, "energy was measured"):
            energy = measure_energy_here(call, sensors, plan_for(self.job.latency.max_duration_s))
        latency = latency.model_copy(update={"profile": profile_of(session, feeder, budget, memory)})
        self.findings.measured.update(latency=latency, energy=energy)
        if self.meter.warning:
            self.findings.warn(self.meter.warning)
        if feeder.batch_n > 1:
            self.findings.warn(f"the model takes {feeder.batch_n} samples at a time; latency is of such a batch")

    def _steady_latency(
        self, query: Query, budget: LatencyBudget, start: Start, sensors: Sensors
    ) -> tuple[LatencyResult, ThermalResult]:
        """Measure, and again while no level lasted: what moved it may be gone. How often stands in the result."""
        wait_s = longest_wait_s(budget.max_duration_s)
        runs_n = 0
        while True:
            runs_n += 1
            watch = ThermalWatch(sensors.read_thermal, time.sleep, longest_s=wait_s)
            latency = measure_latency(
                query.call,
                budget,
                start=start,
                spinning=SPINNING,
                clocks=self.clocks,
                samples_n=query.samples_n,
                look=watch.look,
            )
            thermal = watch.stop()
            moved = latency.verdict is LatencyVerdict.UNSTEADY and latency.scenario is Scenario.SINGLE_STREAM
            if not moved or runs_n == RUNS_MAX_N:
                return latency.model_copy(update={"runs_n": runs_n}), thermal

    def _prove_limits(self) -> None:
        accept, measured = self.job.accept, self.findings.measured
        self.findings.rule(verdict.judge_latency(measured["latency"], accept.latency), Gate.LATENCY)
        self.findings.rule(verdict.judge_memory(measured["memory"], accept.memory), Gate.MEMORY)
        self.findings.rule(verdict.judge_energy(measured["energy"], accept.energy), Gate.ENERGY)


def _outputs(session: Session, feeder: Feeder, monotonic_s: Callable[[], float]) -> dict[str, Array]:
    try:
        return run_samples(session, feeder, limit_s=OUTPUTS_LIMIT_S, monotonic_s=monotonic_s)
    except TimeboxError as error:
        raise GateMissedError(Verdict.TIMEOUT, Gate.PARITY, str(error)) from error
    except (DeviceError, UserInputError) as error:
        raise GateMissedError(Verdict.FAILED, Gate.PARITY, str(error)) from error


def _require_version(runtime: str, version: str, least: Mapping[str, str]) -> None:
    wanted = least.get(runtime)
    if wanted is not None and release_of(version) < release_of(wanted):
        msg = f"needs {runtime} {wanted} or newer; this device has {version}"
        raise UnsupportedError(msg)


def release_of(version: str) -> tuple[int, ...]:
    """Return the leading whole numbers of a version: `1.24.rc1` → (1, 24)."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
