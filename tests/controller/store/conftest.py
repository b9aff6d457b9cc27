"""A store in a fresh file, and a maker of records that looks after what a test does not care about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefleet_contract.accept import Accept, LatencyAccept, MetricKind, Scenario
from edgefleet_contract.artifact import (
    ArtifactDocument,
    ArtifactFile,
    CoverageSummary,
    EvidenceLevel,
    FileRole,
    HostCheck,
    IoContract,
    TensorSpec,
)
from edgefleet_contract.base import digest_bytes
from edgefleet_contract.coverage import CoverageSource
from edgefleet_contract.desired import Candidate, DesiredModel, DesiredState
from edgefleet_contract.evidence import (
    Conditions,
    EnergyResult,
    EnergyStatus,
    Evidence,
    Gate,
    LatencyResult,
    LatencyVerdict,
    MemoryResult,
    MetricResult,
    OperatorProfile,
    OperatorShare,
    ParityCheck,
    ParityResult,
    ParityVerdict,
    Percentiles,
    PlacementResult,
    ThermalResult,
    Verdict,
)
from edgefleet_contract.manifest import Manifest
from edgefleet_contract.profile import Profile
from edgefleet_contract.report import (
    DeviceState,
    EvidenceReport,
    Heartbeat,
    Presence,
    ProfileReport,
    Report,
    ReportBody,
    Transition,
)
from edgefleet_controller.store import Store

NOW_NS = 1_800_000_000_000_000_000
INT8, FP32 = "ort/cpu/int8", "ort/cpu/fp32"


class Make:
    """Makes records."""

    int8, fp32 = INT8, FP32
    now_ns = NOW_NS
    release = digest_bytes(b"release")
    other_release = digest_bytes(b"another release")

    def boot(self, number: int = 1) -> str:
        return f"{number:032x}"

    def artifact(self, variant: str = INT8) -> str:
        return digest_bytes(variant.encode())

    def manifest(self) -> Manifest:
        return Manifest.model_validate(
            {
                "fleet": "v1",
                "models": {"digits": {"source": "m.onnx", "samples": "s.npz"}},
                "deployments": [{"model": "digits", "to": "all"}],
            }
        )

    def profile(self, device: str = "local", **values: Any) -> Profile:
        base: dict[str, Any] = {
            "device": device,
            "site": "home",
            "agent_version": "0.1.0",
            "arch": "x86_64",
            "os": "linux",
            "kernel": "6.1",
            "python_version": "3.11.7",
            "cpu_model": "a cpu",
            "cpu_count": 2,
            "memory_bytes": 2**32,
            "disk_free_bytes": 2**33,
        }
        return Profile(**{**base, **values})

    def presence(self, *, online: bool = True, boot: int = 1, connection: int = 1, generation: int = 0) -> Presence:
        return Presence(
            device="local",
            site="home",
            online=online,
            boot=self.boot(boot),
            connection=connection,
            generation=generation,
            profile=self.profile().digest,
        )

    def heartbeat(self, *, boot: int = 1, generation: int = 0) -> Heartbeat:
        return Heartbeat(boot=self.boot(boot), generation=generation, outbox_n=0, sent_at_ns=0)

    def report(
        self, body: ReportBody, seq: int = 1, *, boot: int = 1, device: str = "local", sent_at_ns: int | None = None
    ) -> Report:
        sent = boot * 1000 + seq if sent_at_ns is None else sent_at_ns
        return Report(device=device, site="home", boot=self.boot(boot), seq=seq, sent_at_ns=sent, body=body)

    def transition(
        self, state: DeviceState = DeviceState.ACTIVE, variant: str | None = INT8, *, generation: int = 1, **values: Any
    ) -> Transition:
        base: dict[str, Any] = {"model": "digits", "release": self.release, "variant": variant}
        base["artifact"] = self.artifact(variant) if variant else None
        return Transition(**{**base, "state": state, "generation": generation, **values})

    def evidence(self, variant: str = INT8, verdict: Verdict = Verdict.QUALIFIED, **values: Any) -> Evidence:
        base: dict[str, Any] = {
            "model": "digits",
            "variant": variant,
            "artifact": self.artifact(variant),
            "release": self.release,
            "generation": 1,
            "started_at_ns": NOW_NS,
            "duration_s": 1.0,
            "verdict": verdict,
        }
        return Evidence(**{**base, **values})

    def trial(self, variant: str = INT8, verdict: Verdict = Verdict.QUALIFIED, **values: Any) -> EvidenceReport:
        return EvidenceReport(evidence=self.evidence(variant, verdict, **values))

    def said(self, **values: Any) -> ProfileReport:
        return ProfileReport(profile=self.profile(**values))

    def latency(self, p95_ms: float = 2.0) -> LatencyResult:
        return LatencyResult(
            n=500, n_eff=400.0, p50_ms=1.0, p95_ms=p95_ms, p99_ms=p95_ms + 1, ci95_p95_ms=(1.5, 2.5),
            verdict=LatencyVerdict.VALID, min_ms=0.5, max_ms=9.0, mean_ms=1.1, load_ms=30.0, first_ms=4.0,
            warmup_n=10, duration_s=1.0, threads=1, spinning=False, preempted_n=0, harness_floor_ms=0.0,
        )  # fmt: skip

    def memory(self) -> MemoryResult:
        return MemoryResult(peak_bytes=3_000_000, baseline_bytes=1_000_000)

    def energy(self, per_inference_mj: float = 12.0, **values: Any) -> EnergyResult:
        base: dict[str, Any] = {
            "status": EnergyStatus.MEASURED,
            "per_inference_mj": per_inference_mj,
            "ci95_per_inference_mj": (per_inference_mj - 1, per_inference_mj + 2),
            "gross_per_inference_mj": 20.0,
            "ci95_gross_per_inference_mj": (19.0, 21.0),
            "gross_j": 40.0,
            "net_j": 24.0,
            "load_w": 7.0,
            "idle_before_w": 3.0,
            "idle_after_w": 3.5,
            "n": 2000,
            "sensor": "VDD_IN",
            "scope": "board",
            "kind": "instant",
            "proven_on": "simulated files; never run on hardware by us",
        }
        return EnergyResult(**{**base, **values})

    def unmeasured(self) -> EnergyResult:
        return EnergyResult(status=EnergyStatus.UNMEASURED, reason="no power sensor")

    def hot(self) -> ThermalResult:
        return ThermalResult(
            throttled=True, reason="oc1 counted 3", start_c=60.0, end_c=95.5, clock_start_mhz=2000, clock_end_mhz=800
        )

    def served(self) -> LatencyResult:
        """Latency with everything a run under `server` may tell."""
        level = Percentiles(n=450, n_eff=300.0, p50_ms=0.9, p95_ms=1.9, p99_ms=2.4)
        more: dict[str, Any] = {
            "scenario": Scenario.SERVER,
            "reason": "2 % of samples preempted",
            "ci95_p50_ms": (0.8, 1.2),
            "ci95_p99_ms": (2.8, 3.9),
            "rate_hz": 20.0,
            "throughput_hz": 19.5,
            "ci95_throughput_hz": (19.0, 20.0),
            "undisturbed": level,
            "service": level,
            "profile": OperatorProfile(
                operators=(OperatorShare(operator="Conv", share=0.7, calls_n=3),), inferences_n=10, source="ORT"
            ),
        }
        return self.latency().model_copy(update=more)

    def everything(self) -> dict[str, Any]:
        """Parts of a trial with every figure the store has a column for."""
        metric = MetricResult(kind=MetricKind.TOP1, reference=0.99, measured=0.98, n=500)
        parity = ParityResult(
            verdict=ParityVerdict.FAIL, failed_check=ParityCheck.SQNR, reason="too far", n_samples=100,
            agreement=0.97, worst_sqnr_db=3.0, metric=metric,
        )  # fmt: skip
        placement = PlacementResult(
            accelerated=0.9, nodes={"CUDA": 9, "CPU": 1}, source="profile", time_accelerated=0.8,
            time_unmeasured_reason="the copy back is not in it", elsewhere={"NonZero": 1},
        )  # fmt: skip
        conditions = Conditions(
            arch="x86_64", os="linux", cpu_model="a cpu", cpu_count=2, runtime="ort", runtime_version="1", threads=1,
            agent_version="0.1.0",
        )  # fmt: skip
        return {
            "verdict": Verdict.FAILED, "gate": Gate.LATENCY, "reason": "too slow", "parity": parity,
            "device_parity": parity, "latency": self.served(), "energy": self.energy(reason="one rail was slow"),
            "memory": MemoryResult(peak_bytes=3, baseline_bytes=1, pss_bytes=2), "thermal": self.hot(),
            "placement": placement, "conditions": conditions,
        }  # fmt: skip

    def document(self, variant: str = INT8, **values: Any) -> ArtifactDocument:
        tensor = TensorSpec(name="x", dtype="float32", shape=(1, 3))
        file = ArtifactFile(name="m.onnx", role=FileRole.MODEL, size_bytes=100, digest=digest_bytes(b"m"))
        base: dict[str, Any] = {
            "model": "digits",
            "variant": variant,
            "source": digest_bytes(b"source"),
            "io": IoContract(inputs=(tensor,), outputs=(tensor,)),
            "files": (file,),
            "build_key": digest_bytes(b"key"),
        }
        return ArtifactDocument(**{**base, **values})

    def proven_document(self) -> ArtifactDocument:
        check = HostCheck(
            level=EvidenceLevel.EMULATED, ran_as="tflite/cpu/int8", verdict="weak", n_samples=10, agreement=0.9,
            worst_sqnr_db=20.0, reason="10 samples are few",
        )  # fmt: skip
        coverage = CoverageSummary(
            source=CoverageSource.STATIC_TABLE, source_version="2024", accelerator_n=9, cpu_n=1, unsupported_n=0,
            first_blocking="NonZero: not in the table",
        )  # fmt: skip
        return self.document(host_check=check, coverage=coverage)

    def missed(self, gate: Gate, variant: str = INT8, **values: Any) -> EvidenceReport:
        return self.trial(variant, Verdict.FAILED, gate=gate, reason="too much", **values)

    def desired(
        self, generation: int = 1, revision: int = 1, *, release: str | None = None, accept: Accept | None = None
    ) -> DesiredState:
        chain = tuple(
            Candidate(variant=variant, artifact=self.artifact(variant), document_bytes=10, total_bytes=100)
            for variant in (INT8, FP32)
        )
        wish = DesiredModel(
            model="digits",
            release=release or self.release,
            chain=chain,
            accept=accept or Accept(latency=LatencyAccept(p95_ms=1.5)),
        )
        return DesiredState(
            site="home", device="local", generation=generation, revision=revision, issued_at_ns=NOW_NS, models=(wish,)
        )


@pytest.fixture
def make() -> Make:
    return Make()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "controller").mkdir()
    return tmp_path / "controller" / "fleet.db"


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store's file: copying it costs nothing beside migrating another one."""
    made = tmp_path_factory.mktemp("empty") / "fleet.db"
    Store.open(made).close()
    return made


@pytest.fixture
def store(path: Path, empty: Path) -> Iterator[Store]:
    shutil.copy(empty, path)
    with Store.open(path, now_ns=lambda: NOW_NS) as opened:
        yield opened


@pytest.fixture
def wished(store: Store, make: Make) -> Store:
    """A store that knows the device `local`, seen now, and wishes the model `digits` there."""
    store.presence(make.presence(), make.now_ns)
    store.create_revision(make.manifest(), {}, at_ns=make.now_ns, changed=True)
    store.put_desired(make.desired())
    return store
