from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from edgefleet_contract.artifact import EvidenceLevel
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
from edgefleet_hil.scripted import Cli, Clock, FakeBackend, ScriptedApi

DIGEST = "sha256:" + "ab" * 32
NO_SENSOR = "no power sensor on this device"

MANIFEST = """\
fleet: v1
models:
  digits: {source: digits.onnx, samples: digits.npz}
deployments:
  - {model: digits, to: all}
"""


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

    def run(*args: str, columns: int = 100, env: Mapping[str, str] | None = None) -> Result:
        return CliRunner().invoke(app, list(args), obj=settings, env={"COLUMNS": str(columns), **(env or {})})

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
