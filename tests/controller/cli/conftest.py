from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_contract.child import ChildEnd, ChildOutcome
from edgefleet_contract.evidence import (
    Conditions,
    EnergyResult,
    EnergyStatus,
    LatencyResult,
    LatencyVerdict,
    MemoryResult,
    MetricResult,
    ParityResult,
    ParityVerdict,
    PlacementResult,
    Verdict,
)
from edgefleet_contract.report import DeviceState, Tried
from edgefleet_controller import api
from edgefleet_controller.cli.app import app
from edgefleet_controller.cli.settings import Settings
from edgefleet_controller.stack.home import FleetHome
from edgefleet_hil.doubles import FakeFleetApi
from typer.testing import CliRunner, Result

DIGEST = "sha256:" + "ab" * 32
NO_SENSOR = "no power sensor on this device"

MANIFEST = """\
fleet: v1
models:
  digits: {source: digits.onnx, samples: digits.npz}
deployments:
  - {model: digits, to: all}
"""


class Clock:
    """Seconds that pass only when someone waits."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s


class ScriptedApi(FakeFleetApi):
    """A controller whose answers a test writes down. `revisions` are given one a poll; the last one stays.

    Each poll takes as long as it was allowed to wait.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.accepted = api.ApplyAccepted(revision=3, changed=True)
        self.revisions: list[api.RevisionStatus | BaseException] = []
        self.answers: dict[str, Any] = {}

    def asked(self, operation: str) -> list[Any]:
        return [request for name, request in self.calls if name == operation]

    def _answer(self, operation: str, request: Any) -> Any:
        self._note(operation, request)
        return self.answers[operation]

    def plan(self, request: api.ApplyRequest) -> Any:
        return self._answer("plan", request)

    def apply(self, request: api.ApplyRequest) -> api.ApplyAccepted:
        self._note("apply", request)
        return self.accepted

    def revision(self, request: api.RevisionQuery) -> api.RevisionStatus:
        self._note("revision", request)
        self.clock.sleep(request.wait_s)
        answer = self.revisions.pop(0) if len(self.revisions) > 1 else self.revisions[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def status(self, request: api.Empty) -> Any:
        return self._answer("status", request)

    def devices(self, request: api.Empty) -> Any:
        return self._answer("devices", request)

    def evidence(self, request: api.EvidenceQuery) -> Any:
        return self._answer("evidence", request)

    def health(self, request: api.Empty) -> Any:
        return self._answer("health", request)

    def query(self, request: api.QueryRequest) -> Any:
        return self._answer("query", request)


class FakeStack:
    url = "http://127.0.0.1:20001"
    broker_url = "mqtt://127.0.0.1:20002"

    def __init__(self, scripted: ScriptedApi) -> None:
        self.scripted = scripted
        self.failure: Exception | None = None

    def pids(self) -> dict[str, int]:
        return {"broker": 11, "controller": 12, "agent": 13}

    def wait_ready(self, timeout_s: float = 60.0, *, on_progress: Callable[[str], None] = lambda _: None) -> None:
        on_progress("waiting for the controller")

    def api(self) -> ScriptedApi:
        return self.scripted

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure


@dataclass
class FakeBackend:
    """The world outside the CLI. `stack_runs` and `store_exists` say what there is."""

    scripted: ScriptedApi
    stack_runs: bool = False
    store_exists: bool = False
    outcome: ChildOutcome | None = None
    log: list[str] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    embedded: FakeStack | None = None

    def remote(self, url: str, token: str | None) -> ScriptedApi:
        self.log.append(f"remote {url} {token}")
        return self.scripted

    def running(self, home: FleetHome, *, lasting: bool) -> ScriptedApi | None:
        return self.scripted if self.stack_runs else None

    @contextmanager
    def stack(
        self, home: FleetHome, command: str, *, shared: bool, broker_port: int | None = None
    ) -> Iterator[FakeStack]:
        self.log.append(f"start {command} shared={shared} port={broker_port}")
        try:
            yield self.embedded or FakeStack(self.scripted)
        finally:
            self.log.append("stop")

    def stop_running(self, home: FleetHome) -> str | None:
        return "process 7 (`fleet up`)" if self.stack_runs else None

    def stored(self, home: FleetHome) -> ScriptedApi | None:
        return self.scripted if self.store_exists else None

    def run_worker(self, request: bytes, timeout_s: float) -> ChildOutcome:
        self.jobs.append({**json.loads(request), "timeout_s": timeout_s})
        assert self.outcome is not None
        return self.outcome


Cli = Callable[..., Result]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scripted(clock: Clock) -> ScriptedApi:
    return ScriptedApi(clock)


@pytest.fixture
def backend(scripted: ScriptedApi) -> FakeBackend:
    return FakeBackend(scripted)


@pytest.fixture
def cli(backend: FakeBackend, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command line against the fake backend, in an empty folder, 100 columns wide."""
    monkeypatch.chdir(tmp_path)
    for name in ("FLEET_HOME", "FLEET_SERVER", "FLEET_TOKEN", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings(backend=backend, token="secret", clock_s=clock, sleep_s=clock.sleep)  # noqa: S106 - of no one

    def run(*args: str, columns: int = 100, **env: str) -> Result:
        return CliRunner().invoke(app, list(args), obj=settings, env={"COLUMNS": str(columns), **env})

    return run


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A valid manifest with two small files that look like a model and samples."""
    (tmp_path / "digits.onnx").write_bytes(b"\x08\x08\x12\x04test")
    (tmp_path / "digits.npz").write_bytes(b"PK\x05\x06" + bytes(18))
    path = tmp_path / "manifest.yaml"
    path.write_text(MANIFEST, encoding="utf-8")
    return path


@pytest.fixture
def parity() -> ParityResult:
    return ParityResult(
        verdict=ParityVerdict.PASS,
        n_samples=1000,
        agreement=0.999,
        worst_sqnr_db=31.2,
        metric=MetricResult(kind="top1", reference=0.982, measured=0.981, n=1000),
    )


@pytest.fixture
def latency() -> LatencyResult:
    return LatencyResult(
        verdict=LatencyVerdict.VALID,
        n=5000,
        n_eff=4200.0,
        p50_ms=0.046,
        p95_ms=0.05,
        p99_ms=0.07,
        ci95_p95_ms=(0.049, 0.052),
        min_ms=0.04,
        max_ms=0.2,
        mean_ms=0.047,
        load_ms=12.0,
        first_ms=0.9,
        warmup_n=100,
        duration_s=1.0,
        threads=1,
        spinning=False,
        preempted_n=3,
        harness_floor_ms=0.002,
    )


@pytest.fixture
def conditions() -> Conditions:
    return Conditions(
        arch="x86_64",
        os="Debian 12",
        cpu_model="a test CPU",
        cpu_count=2,
        runtime="onnxruntime",
        runtime_version="1.23",
        threads=1,
        agent_version="0.1.0",
    )


@pytest.fixture
def active_row(parity: ParityResult, latency: LatencyResult) -> api.DeviceModelRow:
    return api.DeviceModelRow(
        device="local",
        model="digits",
        state=DeviceState.ACTIVE,
        variant="ort/cpu/int8",
        artifact=DIGEST,
        tried=(Tried(variant="tflite/edgetpu/int8", verdict=Verdict.UNSUPPORTED, reason="no Edge TPU found"),),
        parity=parity,
        latency=latency,
        memory=MemoryResult(peak_bytes=31457280, baseline_bytes=1000),
        energy=EnergyResult(status=EnergyStatus.UNMEASURED, reason=NO_SENSOR),
        placement=PlacementResult(accelerated=1.0, nodes={"CPUExecutionProvider": 12}, source="profile"),
        evidence=EvidenceLevel.EXECUTED_ON_DEVICE,
    )


@pytest.fixture
def refused_row() -> api.DeviceModelRow:
    reason = "p95 31 ms is above the limit of 20 ms"
    return api.DeviceModelRow(
        device="kiosk-1",
        model="lite0",
        state=DeviceState.REFUSED,
        tried=(Tried(variant="ort/cpu/fp32", verdict=Verdict.FAILED, reason=reason),),
        reason="no variant qualified; what served before still serves",
    )


@pytest.fixture
def complete(active_row: api.DeviceModelRow) -> api.RevisionStatus:
    return api.RevisionStatus(revision=3, phase=api.Phase.COMPLETE, exit_code=0, devices=(active_row,))


def event(number: int, text: str, **more: Any) -> api.ProgressEvent:
    base: dict[str, Any] = {"id": number, "at_ns": 0, "stage": "build", "key": "digits ort/cpu/int8", "text": text}
    return api.ProgressEvent(**{**base, **more})


@pytest.fixture
def make_event() -> Callable[..., api.ProgressEvent]:
    return event


def answered(answer: Any) -> ChildOutcome:
    return ChildOutcome(ChildEnd.ANSWERED, answer.model_dump_json().encode(), "answered", "", 1.0)


@pytest.fixture
def worker_answers(backend: FakeBackend) -> Callable[[Any], None]:
    def script(answer: Any) -> None:
        backend.outcome = answered(answer)

    return script
