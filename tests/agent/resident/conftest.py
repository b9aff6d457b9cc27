"""What the resident agent's tests share: a device that offers one engine, artifacts to wish for, and a real broker."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.records import AgentState, DesiredReceived, Facts
from edgefleet_contract.accept import Choose
from edgefleet_contract.artifact import ArtifactDocument, ArtifactFile, FileRole, IoContract, TensorSpec
from edgefleet_contract.base import digest_bytes
from edgefleet_contract.desired import Candidate, DesiredModel, DesiredState, release_digest
from edgefleet_contract.evidence import Trial, Verdict
from edgefleet_contract.profile import EngineProbe, ProbeStatus, Profile
from edgefleet_hil.drive import Drive

_BROKER_CONFIG = """
id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5-1"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 200
dynamic_filters = true
"""


@dataclass(frozen=True)
class Made:
    """An artifact as a controller holds it: its candidate, its document and every blob by digest."""

    candidate: Candidate
    document: ArtifactDocument
    blobs: dict[str, bytes]


def make_artifact(files: dict[str, bytes], variant: str = "ort/cpu/fp32", model: str = "digits") -> Made:
    io = IoContract(
        inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 4)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(1, 2)),),
    )
    document = ArtifactDocument(
        model=model,
        variant=variant,
        source=digest_bytes(b"source"),
        io=io,
        files=tuple(
            ArtifactFile(
                name=name,
                role=FileRole.MODEL if name.startswith("model") else FileRole.SAMPLES,
                size_bytes=len(data),
                digest=digest_bytes(data),
            )
            for name, data in files.items()
        ),
        build_key=digest_bytes(b"key"),
    )
    return pack(document, list(files.values()))


def pack(document: ArtifactDocument, contents: list[bytes]) -> Made:
    body = document.canonical_json()
    candidate = Candidate(
        variant=document.variant,
        artifact=document.digest,
        document_bytes=len(body),
        total_bytes=document.total_bytes,
    )
    return Made(candidate, document, {digest_bytes(data): data for data in [body, *contents]})


def make_wish(*chain: Candidate, choose: Choose = Choose.FIRST, model: str = "digits") -> DesiredModel:
    wish = DesiredModel(model=model, release=digest_bytes(b""), chain=chain, choose=choose)
    release = release_digest(model, wish.chain, wish.choose, wish.accept, wish.task)
    return wish.model_copy(update={"release": release})


def make_desired(generation: int, *wishes: DesiredModel) -> DesiredState:
    return DesiredState(
        site="lab", device="one", generation=generation, revision=generation, issued_at_ns=1, models=wishes
    )


@pytest.fixture
def artifact() -> Callable[..., Made]:
    return make_artifact


@pytest.fixture
def wish() -> Callable[..., DesiredModel]:
    return make_wish


@pytest.fixture
def desired() -> Callable[..., DesiredState]:
    return make_desired


@pytest.fixture
def profile() -> Profile:
    engines = (
        EngineProbe(target="ort/cpu", status=ProbeStatus.AVAILABLE, version="1.32"),
        EngineProbe(target="ort/cuda", status=ProbeStatus.MISSING, reason="no CUDA device"),
    )
    return Profile(
        device="one",
        site="lab",
        agent_version="0",
        arch="x86_64",
        os="Linux",
        kernel="6",
        python_version="3.11",
        cpu_model="test",
        cpu_count=2,
        memory_bytes=2**30,
        disk_free_bytes=2**30,
        engines=engines,
    )


@pytest.fixture
def facts(profile: Profile) -> Facts:
    return Facts(profile, now_ns=1_000)


@pytest.fixture
def qualified() -> Trial:
    return Trial(verdict=Verdict.QUALIFIED)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def start_broker(tmp_path: Path, free_port: int) -> Iterator[Callable[[], Any]]:
    """Start a real broker on the test's free loopback port; call it again after a `stop()`."""
    from iotcore import Broker

    path = tmp_path / "broker.toml"
    path.write_text(_BROKER_CONFIG.format(port=free_port), encoding="utf-8")
    started: list[Any] = []

    def start() -> Any:
        started.append(Broker(config_path=str(path)).start())
        return started[-1]

    yield start
    for broker in started:
        broker.stop()


@pytest.fixture
def broker_port(start_broker: Callable[[], Any], free_port: int) -> int:
    """The port of a real broker, for one test."""
    start_broker()
    return free_port


@pytest.fixture
def drive(facts: Facts) -> Drive:
    return Drive(facts, AgentState(), [])


@pytest.fixture
def asked(wish: Callable[..., Any], desired: Callable[..., Any]) -> Callable[..., DesiredReceived]:
    """Build the event of a desired state with one model."""

    def make(generation: int, *chain: Candidate, choose: Choose = Choose.FIRST) -> DesiredReceived:
        return DesiredReceived(desired(generation, wish(*chain, choose=choose)))

    return make
