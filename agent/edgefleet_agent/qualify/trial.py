"""The trial: one artifact, on this device, through every gate.

Order: files, load, placement, outputs, parity with the source, parity with the builder, latency, memory, energy. The
first gate missed ends it; what was measured until then stays in the result.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgefleet_agent import host
from edgefleet_agent.outputs import Feeder, TimeboxError, make_feeder, run_samples
from edgefleet_agent.qualify import verdict
from edgefleet_agent.qualify.clocks import Clocks, real_clocks
from edgefleet_agent.qualify.latency import Start, measure_latency, require_single_stream
from edgefleet_agent.qualify.memory import MemoryMeter
from edgefleet_agent.runtimes.base import Array, Runtime, Session, UnsupportedError
from edgefleet_agent.runtimes.registry import find_runtime
from edgefleet_agent.samples import Samples, load_arrays, load_samples
from edgefleet_contract.artifact import MAX_DOCUMENT_BYTES, ArtifactDocument, ArtifactFile, FileRole
from edgefleet_contract.base import clip_reason
from edgefleet_contract.errors import DeviceError, UserInputError, WireError
from edgefleet_contract.evidence import (
    Conditions,
    EnergyResult,
    EnergyStatus,
    Gate,
    ParityResult,
    Trial,
    Verdict,
)
from edgefleet_contract.job import QualifyJob
from edgefleet_contract.variant import Variant, parse_variant
from edgefleet_contract.wire import decode

DOCUMENT_NAME = "artifact.json"
SPINNING = False
"""Spinning threads cost 9 times the CPU per inference at 20 Hz and gain nothing at one thread."""
OUTPUTS_LIMIT_S = 120.0
"""Time for all golden samples; they number some hundred, so a slower model is no candidate for serving."""
_READ_BYTES = 1024**2
_MAX_WARNINGS = 16


class _MissedError(Exception):
    """A gate was missed: the trial ends with this verdict."""

    def __init__(self, outcome: Verdict, gate: Gate, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.gate = gate
        self.reason = clip_reason(reason)


@dataclass
class _Findings:
    """What has been measured so far, as fields of `Trial`."""

    measured: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def rule(self, ruling: verdict.Ruling, gate: Gate) -> None:
        """Take over a ruling's warnings; end the trial when it missed its gate."""
        self.warnings.extend(clip_reason(text) for text in ruling.warnings)
        if ruling.missed is not None:
            raise _MissedError(Verdict.FAILED, gate, ruling.missed)

    def trial(self, outcome: Verdict, gate: Gate | None = None, reason: str | None = None) -> Trial:
        """Return everything as a trial."""
        warnings = tuple(self.warnings[:_MAX_WARNINGS])
        return Trial(verdict=outcome, gate=gate, reason=reason, warnings=warnings, **self.measured)


@dataclass(frozen=True)
class Golden:
    """An artifact's golden data."""

    samples: Samples
    source: dict[str, Array]
    artifact: dict[str, Array] | None


@dataclass(frozen=True)
class _Loaded:
    """A session with its feeder and how long both took."""

    session: Session
    feeder: Feeder
    start: Start


def run_trial(
    job: QualifyJob, *, clocks: Clocks | None = None, monotonic_s: Callable[[], float] = time.monotonic
) -> Trial:
    """Qualify one artifact. Everything wrong with it is a verdict; only a missing folder is an error.

    Raises:
        UserInputError: the artifact's folder does not exist.
    """
    folder = Path(job.artifact_dir)
    if not folder.is_dir():
        msg = f"{folder}: no such folder; an artifact folder holds {DOCUMENT_NAME} and the files it names"
        raise UserInputError(msg)
    findings = _Findings()
    try:
        _run_gates(job, folder, findings, clocks or real_clocks(job.latency.threads), monotonic_s)
    except _MissedError as missed:
        return findings.trial(missed.outcome, missed.gate, missed.reason)
    return findings.trial(Verdict.QUALIFIED)


def _run_gates(
    job: QualifyJob, folder: Path, findings: _Findings, clocks: Clocks, monotonic_s: Callable[[], float]
) -> None:
    document = _verified_document(folder)
    golden = _golden(folder, document)
    variant, runtime = _runtime_for(job, document, findings)
    meter = MemoryMeter()
    meter.start()
    loaded = _load(job, folder, document, golden, runtime, variant, clocks)
    try:
        _prove(job, document, golden, loaded, findings, meter, clocks, monotonic_s)
    finally:
        loaded.session.close()


def _prove(
    job: QualifyJob,
    document: ArtifactDocument,
    golden: Golden,
    loaded: _Loaded,
    findings: _Findings,
    meter: MemoryMeter,
    clocks: Clocks,
    monotonic_s: Callable[[], float],
) -> None:
    placement = loaded.session.placement()
    findings.measured["placement"] = placement
    findings.rule(verdict.judge_placement(placement, job.accept.placement), Gate.PLACEMENT)
    outputs = _outputs(loaded, monotonic_s)
    meter.pause()
    _prove_parity(job, document, golden, outputs, findings)
    meter.resume()
    call = loaded.session.bind(loaded.feeder.feeds(0))
    latency = measure_latency(call, job.latency, start=loaded.start, spinning=SPINNING, clocks=clocks)
    findings.measured.update(latency=latency, memory=meter.result(), energy=_unmeasured(job))
    if meter.warning:
        findings.warnings.append(meter.warning)
    findings.rule(verdict.judge_latency(latency, job.accept.latency), Gate.LATENCY)
    findings.rule(verdict.judge_memory(findings.measured["memory"], job.accept.memory), Gate.MEMORY)
    findings.rule(verdict.judge_energy(findings.measured["energy"], job.accept.energy), Gate.ENERGY)


def _unmeasured(job: QualifyJob) -> EnergyResult:
    return EnergyResult(status=EnergyStatus.UNMEASURED, reason=job.energy_unmeasured_reason)


def _verified_document(folder: Path) -> ArtifactDocument:
    """Return the artifact's document after checking every file it names by size and digest."""
    path = folder / DOCUMENT_NAME
    try:
        if not path.is_file() or path.stat().st_size > MAX_DOCUMENT_BYTES:
            msg = f"{DOCUMENT_NAME} is missing or larger than {MAX_DOCUMENT_BYTES} bytes"
            raise _corrupt(msg)
        document = decode(ArtifactDocument, path.read_bytes())
        for file in document.files:
            _verify_file(folder / file.name, file)
    except WireError as error:
        msg = f"{DOCUMENT_NAME}: {error}"
        raise _corrupt(msg) from error
    except OSError as error:
        msg = f"a file cannot be read: {error}"
        raise _corrupt(msg) from error
    return document


def _corrupt(reason: str) -> _MissedError:
    return _MissedError(Verdict.CORRUPT, Gate.FETCH, reason)


def _verify_file(path: Path, file: ArtifactFile) -> None:
    if not path.is_file():
        msg = f"{file.name} is missing"
        raise _corrupt(msg)
    if (size_bytes := path.stat().st_size) != file.size_bytes:
        msg = f"{file.name} has {size_bytes} bytes; its document says {file.size_bytes}"
        raise _corrupt(msg)
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
    if (got := "sha256:" + digest.hexdigest()) != file.digest:
        msg = f"{file.name} is {got}; its document says {file.digest}"
        raise _corrupt(msg)


def _golden(folder: Path, document: ArtifactDocument) -> Golden:
    """Return the golden data. Without samples and source outputs nothing can be proven."""
    samples, source = document.file(FileRole.SAMPLES), document.file(FileRole.SOURCE_OUTPUTS)
    if samples is None or source is None:
        msg = "the artifact holds no golden samples or no outputs of its source, so nothing can be proven"
        raise _MissedError(Verdict.FAILED, Gate.PARITY, msg)
    own = document.file(FileRole.ARTIFACT_OUTPUTS)
    try:
        return Golden(
            samples=load_samples(folder / samples.name),
            source=load_arrays(folder / source.name),
            artifact=None if own is None else load_arrays(folder / own.name),
        )
    except UserInputError as error:
        raise _corrupt(str(error)) from error


def _runtime_for(job: QualifyJob, document: ArtifactDocument, findings: _Findings) -> tuple[Variant, Runtime]:
    variant = parse_variant(document.variant)
    try:
        require_single_stream(job.latency.scenario)
        runtime = find_runtime(variant, test_runtimes=job.test_runtimes)
    except UnsupportedError as error:
        raise _MissedError(Verdict.UNSUPPORTED, Gate.LOAD, str(error)) from error
    findings.measured["conditions"] = conditions(variant.runtime, runtime.version, job.latency.threads)
    least = document.min_runtime.get(variant.runtime)
    if least is not None and _release(runtime.version) < _release(least):
        msg = f"needs {variant.runtime} {least} or newer; this device has {runtime.version}"
        raise _MissedError(Verdict.UNSUPPORTED, Gate.LOAD, msg)
    return variant, runtime


def _release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `1.24.0rc1` → (1, 24)."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def conditions(runtime: str, runtime_version: str, threads: int) -> Conditions:
    """Return what must be alike for two results to be compared."""
    return Conditions(
        arch=host.arch(),
        os=host.os_name(),
        cpu_model=host.cpu_model(),
        cpu_count=host.cpu_count(),
        runtime=runtime,
        runtime_version=runtime_version,
        threads=threads,
        agent_version=host.agent_version(),
        extra={"distribution": host.distribution(), "spinning": str(SPINNING).lower()},
    )


def _load(
    job: QualifyJob,
    folder: Path,
    document: ArtifactDocument,
    golden: Golden,
    runtime: Runtime,
    variant: Variant,
    clocks: Clocks,
) -> _Loaded:
    model = document.file(FileRole.MODEL)
    if model is None:  # the document's own validation refuses this
        msg = "the artifact names no model file"
        raise _corrupt(msg)
    try:
        began_ns = clocks.now_ns()
        session = runtime.load(folder / model.name, variant=variant, threads=job.latency.threads, spinning=SPINNING)
        load_ns = clocks.now_ns() - began_ns
        feeder = make_feeder(golden.samples, session.inputs, document.io.preprocess)
        first_ns = _timed_first(session, feeder, clocks)
    except UnsupportedError as error:
        raise _MissedError(Verdict.UNSUPPORTED, Gate.LOAD, str(error)) from error
    except DeviceError as error:
        raise _MissedError(Verdict.FAILED, Gate.LOAD, str(error)) from error
    except UserInputError as error:
        # The samples are the artifact's own: that they do not fit its model is the artifact's fault.
        raise _corrupt(str(error)) from error
    return _Loaded(session, feeder, Start(load_ns, first_ns))


def _timed_first(session: Session, feeder: Feeder, clocks: Clocks) -> int:
    feeds = feeder.feeds(0)
    began_ns = clocks.now_ns()
    session.run(feeds)
    return clocks.now_ns() - began_ns


def _outputs(loaded: _Loaded, monotonic_s: Callable[[], float]) -> dict[str, Array]:
    try:
        return run_samples(loaded.session, loaded.feeder, limit_s=OUTPUTS_LIMIT_S, monotonic_s=monotonic_s)
    except TimeboxError as error:
        raise _MissedError(Verdict.TIMEOUT, Gate.PARITY, str(error)) from error
    except (DeviceError, UserInputError) as error:
        raise _MissedError(Verdict.FAILED, Gate.PARITY, str(error)) from error


def _prove_parity(
    job: QualifyJob, document: ArtifactDocument, golden: Golden, outputs: dict[str, Array], findings: _Findings
) -> None:
    parity = _compare(job, document, golden, golden.source, outputs, same_artifact=False)
    findings.measured["parity"] = parity
    if golden.artifact is None:
        findings.warnings.append("the artifact holds no outputs of its own, so this device's arithmetic is unproven")
    else:
        same = _compare(job, document, golden, golden.artifact, outputs, same_artifact=True)
        findings.measured["device_parity"] = same
    findings.rule(verdict.judge_parity(parity), Gate.PARITY)
    if golden.artifact is not None:
        findings.rule(verdict.judge_parity(findings.measured["device_parity"]), Gate.DEVICE_PARITY)


def _compare(
    job: QualifyJob,
    document: ArtifactDocument,
    golden: Golden,
    reference: dict[str, Array],
    outputs: dict[str, Array],
    *,
    same_artifact: bool,
) -> ParityResult:
    from edgefleet_agent.qualify.parity import compare_outputs

    return compare_outputs(
        reference,
        outputs,
        precision=parse_variant(document.variant).precision,
        task=job.task,
        same_artifact=same_artifact,
        # The metric and the manifest's limits are about fidelity to the source: asked once.
        **({} if same_artifact else _fidelity(job, golden)),
        samples_level=document.samples_level,
    )


def _fidelity(job: QualifyJob, golden: Golden) -> dict[str, Any]:
    return {"labels": golden.samples.labels, "metric": job.accept.metric, "limits": job.accept.parity}
