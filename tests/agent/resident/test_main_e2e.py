"""The agent as a process on a real broker, against a tiny controller that speaks only the contract."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import queue
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgefleet_agent.state import AGENT_DIED, StateStore, machine_boot_id, open_database
from edgefleet_contract.desired import DesiredModel, DesiredState
from edgefleet_contract.evidence import Verdict
from edgefleet_contract.report import (
    ChunkRequest,
    DeviceState,
    EvidenceReport,
    Presence,
    ProfileReport,
    Report,
    ReportAck,
    Transition,
)
from edgefleet_contract.topics import UP_FILTER, DeviceTopics, parse_up
from edgefleet_contract.wire import decode, encode

pytestmark = pytest.mark.e2e

WAIT_S = 40.0
HALF_MADE_MAX = 8
"""Files half-made at a kill that may lie about afterwards: the next fetch, switch or tidying takes them."""


@dataclass
class Controller:
    """Serves chunks, collects and acknowledges reports, publishes wishes; in memory."""

    port: int
    blobs: dict[str, bytes] = field(default_factory=dict)
    reports: dict[tuple[str, int], Report] = field(default_factory=dict)
    requests_n: int = 0
    acks: bool = True
    events: queue.SimpleQueue[Report | Presence] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self.topics = DeviceTopics("lab", "one")
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id="controller", protocol=MQTTProtocolVersion.MQTTv5
        )
        self.client.on_message = self._on_message
        self.client.on_connect = lambda client, *_: client.subscribe(UP_FILTER, 1)
        self.client.connect("127.0.0.1", self.port)
        self.client.loop_start()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def wish(self, desired: DesiredState) -> None:
        self.client.publish(self.topics.desired, encode(desired), qos=1, retain=True)

    def _on_message(self, client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        channel = parse_up(message.topic).channel
        if channel == "ev":
            self._commit(decode(Report, bytes(message.payload)))
        elif channel == "get":
            self._serve(decode(ChunkRequest, bytes(message.payload)))
        elif channel == "state":
            self.events.put(decode(Presence, bytes(message.payload)))

    def _commit(self, report: Report) -> None:
        if (report.boot, report.seq) not in self.reports:
            self.reports[report.boot, report.seq] = report
            self.events.put(report)
        if self.acks:
            also = tuple(seq for boot, seq in self.reports if boot == report.boot)
            self.client.publish(self.topics.ack, encode(ReportAck(boot=report.boot, committed=0, also=also)), qos=1)

    def _serve(self, request: ChunkRequest) -> None:
        self.requests_n += 1
        blob = self.blobs[request.digest]
        have = int.from_bytes(base64.b64decode(request.have), "little")
        left = [n for n in range(-(-len(blob) // request.chunk_bytes)) if n >= request.offset]
        for n in [n for n in left if not have >> (n - request.offset) & 1][: request.window]:
            data = blob[n * request.chunk_bytes : (n + 1) * request.chunk_bytes]
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call] # paho leaves it so
            properties.UserProperty = [("digest", request.digest), ("sha256", sha256(data).hexdigest())]
            self.client.publish(self.topics.block(request.digest, n), data, qos=0, properties=properties)

    def until(self, matches: Callable[[Report | Presence], bool]) -> Report | Presence:
        end_s = time.monotonic() + WAIT_S
        while (left_s := end_s - time.monotonic()) > 0:
            event = self.events.get(timeout=left_s)
            if matches(event):
                return event
        raise TimeoutError

    def until_state(self, state: DeviceState, generation: int) -> Transition:
        def matches(event: Report | Presence) -> bool:
            body = event.body if isinstance(event, Report) else None
            return isinstance(body, Transition) and (body.state, body.generation) == (state, generation)

        event = self.until(matches)
        assert isinstance(event, Report)
        assert isinstance(event.body, Transition)
        return event.body

    def said(self, kind: type[Any]) -> list[Any]:
        return [report.body for report in self.reports.values() if isinstance(report.body, kind)]


@pytest.fixture
def controller(broker_port: int) -> Iterator[Controller]:
    controller = Controller(broker_port)
    yield controller
    controller.close()


@pytest.fixture
def start_agent(broker_port: int, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "edgefleet_agent", "run", "--home", str(tmp_path / "home"), "--device", "one"]
        argv += ["--site", "lab", "--broker", f"mqtt://127.0.0.1:{broker_port}", "--exit-with-stdin", *options]
        started.append(subprocess.Popen(argv, stdin=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdin:
            process.stdin.close()


@pytest.fixture(scope="session")
def digits_files() -> dict[str, bytes]:
    """The digit classifier, a hundred samples and its outputs, as a builder would pack them."""
    import numpy as np
    import onnxruntime as ort

    examples = Path(__file__).parents[3] / "manifests/examples"
    model = (examples / "models/mnist_cnn_fp32.onnx").read_bytes()
    data = np.load(examples / "data/digits.npz")
    images, labels = data["image"][:100], data["labels"][:100]
    feed = ((images.astype(np.float32) - 33.3285) / 78.5655)[:, None].astype(np.float32)
    outputs = {"logits": ort.InferenceSession(model).run(None, {"image": feed})[0]}
    return {
        "model.onnx": model,
        "samples.npz": _npz(np, {"image": images, "labels": labels}),
        "source_outputs.npz": _npz(np, outputs),
        "artifact_outputs.npz": _npz(np, outputs),
    }


def _npz(np: Any, arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.fixture
def digits(digits_files: dict[str, bytes], artifact: Any) -> Callable[..., Any]:
    from edgefleet_contract.artifact import FileRole, InputTransform, IoContract, Layout, TensorSpec

    kinds = (FileRole.MODEL, FileRole.SAMPLES, FileRole.SOURCE_OUTPUTS, FileRole.ARTIFACT_OUTPUTS)
    roles = dict(zip(digits_files, kinds, strict=True))
    io_contract = IoContract(
        inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 1, 28, 28), layout=Layout.NCHW),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 10)),),
        preprocess={"image": InputTransform(sample_layout=Layout.NHW, layout=Layout.NCHW, mean=33.3285, std=78.5655)},
    )

    def make(variant: str = "ort/cpu/fp32") -> Any:
        made = artifact(digits_files, variant)
        files = tuple(file.model_copy(update={"role": roles[file.name]}) for file in made.document.files)
        document = made.document.model_copy(update={"io": io_contract, "files": files})
        module = sys.modules[type(made).__module__]
        return module.pack(document, list(digits_files.values()))

    return make


def test_a_wish_becomes_active_and_the_same_wish_again_changes_nothing(
    controller: Controller, start_agent: Any, digits: Any, wish: Any, desired: Any, tmp_path: Path
) -> None:
    made = digits()
    controller.blobs = made.blobs
    start_agent()
    controller.until(lambda event: isinstance(event, Report) and isinstance(event.body, ProfileReport))
    asked: DesiredModel = wish(made.candidate)
    controller.wish(desired(1, asked))
    active = controller.until_state(DeviceState.ACTIVE, 1)
    assert active.artifact == made.candidate.artifact
    current = tmp_path / "home/models/digits/current"
    assert json.loads((current / "artifact.json").read_bytes())["model"] == "digits"
    requests_n = controller.requests_n
    controller.wish(desired(2, asked))
    assert "no change" in str(controller.until_state(DeviceState.ACTIVE, 2).reason)
    evidence = controller.said(EvidenceReport)
    assert [report.evidence.verdict for report in evidence] == [Verdict.QUALIFIED], evidence
    assert controller.requests_n == requests_n


def test_a_worker_that_crashes_is_one_failed_candidate(
    controller: Controller, start_agent: Any, digits: Any, wish: Any, desired: Any
) -> None:
    bad, good = digits("misbehave/segv/fp32"), digits()
    controller.blobs = {**bad.blobs, **good.blobs}
    start_agent("--test-runtimes")
    controller.wish(desired(1, wish(bad.candidate, good.candidate)))
    active = controller.until_state(DeviceState.ACTIVE, 1)
    assert [(tried.variant, tried.verdict) for tried in active.tried] == [("misbehave/segv/fp32", Verdict.CRASHED)]


def test_an_agent_killed_again_and_again_ends_in_the_same_state_once_the_wish_is_sent_anew(
    controller: Controller, start_agent: Any, digits: Any, wish: Any, desired: Any
) -> None:
    made = digits()
    controller.blobs = made.blobs
    controller.wish(desired(1, wish(made.candidate)))
    for delay_s in (0.4, 0.9, 1.4, 2.0, 2.6):
        process = start_agent()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay_s)
        process.kill()
        process.wait()
    controller.wish(desired(2, wish(made.candidate)))  # two of the deaths within its trial have refused it till then
    start_agent()
    assert controller.until_state(DeviceState.ACTIVE, 2).artifact == made.candidate.artifact
    verdicts = [body.evidence.verdict for body in controller.said(EvidenceReport)]
    assert (verdicts.count(Verdict.QUALIFIED), len(verdicts) <= 2) == (1, True)
    finals = [body for body in controller.said(Transition) if (body.state, body.generation) == (DeviceState.ACTIVE, 2)]
    assert len(finals) == 1


def test_the_agent_stops_when_asked_and_says_farewell(controller: Controller, start_agent: Any) -> None:
    process = start_agent()
    controller.until(lambda event: isinstance(event, Presence) and event.online)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0
    controller.until(lambda event: isinstance(event, Presence) and not event.online)


def test_the_agent_ends_when_its_standard_input_closes(controller: Controller, start_agent: Any) -> None:
    process = start_agent()
    controller.until(lambda event: isinstance(event, Presence) and event.online)
    process.stdin.close()
    process.wait(WAIT_S)


def test_the_resident_process_loads_neither_numpy_nor_a_runtime(controller: Controller, start_agent: Any) -> None:
    process = start_agent()
    controller.until(lambda event: isinstance(event, Presence) and event.online)
    mapped = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
    assert "numpy" not in mapped
    assert "onnxruntime" not in mapped
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
    pss_kib = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    assert pss_kib < 64 * 1024


@pytest.fixture
def in_a_trial(controller: Controller, start_agent: Any, digits: Any, wish: Any, desired: Any) -> Any:
    """Return the process of an agent whose worker hangs in a trial, and the candidate under trial."""
    hangs = digits("misbehave/hang/fp32")
    controller.blobs = hangs.blobs
    process = start_agent("--test-runtimes")
    controller.wish(desired(1, wish(hangs.candidate)))
    controller.until_state(DeviceState.QUALIFYING, 1)
    return process, hangs.candidate


def test_a_worker_dies_with_the_agent_that_was_killed(in_a_trial: Any) -> None:
    process, _ = in_a_trial
    end_s = time.monotonic() + WAIT_S
    workers: list[psutil.Process] = []
    while not workers and time.monotonic() < end_s:
        workers = psutil.Process(process.pid).children()
    assert workers
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(workers, timeout=5.0)
    assert (len(gone), alive) == (1, [])


@pytest.mark.parametrize("ended_by", ["SIGTERM", "stdin", "SIGKILL"])
def test_only_an_agent_that_died_leaves_a_strike_on_the_artifact_in_its_trial(
    in_a_trial: Any, tmp_path: Path, ended_by: str
) -> None:
    process, candidate = in_a_trial
    if ended_by == "stdin":
        process.stdin.close()
    else:
        process.send_signal(getattr(signal, ended_by))
    process.wait(WAIT_S)
    struck = StateStore(open_database(tmp_path / "home/agent.db").connection).open_strikes(machine_boot_id())
    assert struck == ({candidate.artifact: AGENT_DIED} if ended_by == "SIGKILL" else {})


def agent_command(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "edgefleet_agent", *words, "--home", str(home)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_undo_and_requalify_work_beside_a_running_agent_and_without_one(
    controller: Controller, start_agent: Any, digits: Any, wish: Any, desired: Any, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    first, second = digits("ort/cpu/fp32"), digits("ort/cpu/int8")
    controller.blobs = {**first.blobs, **second.blobs}
    process = start_agent()
    for generation, made in ((1, first), (2, second)):
        controller.wish(desired(generation, wish(made.candidate)))
        controller.until_state(DeviceState.ACTIVE, generation)
    told = agent_command(home, "undo", "digits")
    assert told.returncode == 0, told.stderr
    assert "fp32" in told.stdout
    refused = controller.until_state(DeviceState.REFUSED, 2)
    assert "by hand" in str(refused.reason)
    assert "ort/cpu/fp32 of the release before it" in told.stdout
    assert "ort/cpu/int8 of the wished release" in agent_command(home, "undo", "digits").stdout
    agent_command(home, "undo", "digits")
    assert (
        json.loads(agent_command(home, "status", "-o", "json").stdout)["serving"]["digits"]["variant"] == "ort/cpu/fp32"
    )
    assert agent_command(home, "requalify", "digits").returncode == 0
    assert controller.until_state(DeviceState.ACTIVE, 2).variant == "ort/cpu/int8"
    nosuch = agent_command(home, "requalify", "nosuch")
    process.send_signal(signal.SIGTERM)
    process.wait()
    for refusal in (nosuch, agent_command(home, "requalify", "nosuch")):
        assert "next: edgefleet-agent status lists the models" in refusal.stderr
    for _ in range(2):
        assert agent_command(home, "undo", "digits").returncode == 0
    assert "ort/cpu/fp32 of the release before it" in agent_command(home, "undo", "digits").stdout
    status = json.loads(agent_command(home, "status", "-o", "json").stdout)
    assert status["serving"]["digits"]["variant"] == "ort/cpu/fp32"
    assert status["previous"]["digits"]["variant"] == "ort/cpu/int8"
    assert status["models"]["digits"]["settled"] == "undone"
    start_agent()
    controller.until_state(DeviceState.REFUSED, 2)
    unknown = agent_command(home, "undo", "nothing-here")
    assert unknown.returncode == 1
    assert "no previous release" in unknown.stderr


@pytest.fixture(params=[pytest.param(10, id="some"), pytest.param(1000, id="all", marks=pytest.mark.slow)])
def kills_n(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.timeout(3600)
def test_whatever_is_killed_when_no_unproved_model_ever_serves(
    controller: Controller, start_agent: Any, digits: Any, wish: Any, desired: Any, tmp_path: Path, kills_n: int
) -> None:
    """SIGKILL of the agent or its worker at random moments, while releases change; every fourth one is broken."""
    rng = random.Random(7)
    goods, bad = [digits("ort/cpu/fp32"), digits("ort/cpu/int8")], digits("misbehave/wrong/fp32")
    controller.blobs = {**goods[0].blobs, **goods[1].blobs, **bad.blobs}
    current = tmp_path / "home/models/digits/current"
    fit_to_serve = {made.document.variant for made in goods}
    process = start_agent("--test-runtimes")
    generation = 0
    controller.until(lambda event: isinstance(event, Presence) and event.online)
    for kill in range(kills_n):
        if kill % 3 == 0:
            generation += 1
            made = bad if generation % 4 == 0 else goods[generation % 2]
            controller.wish(desired(generation, wish(made.candidate)))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.0, 2.5))
        workers = psutil.Process(process.pid).children()
        victim = rng.choice([*workers, psutil.Process(process.pid)])
        victim.kill()
        if victim.pid == process.pid:
            process.wait()
            process = start_agent("--test-runtimes")
        if current.is_symlink():
            assert json.loads((current / "artifact.json").read_bytes())["variant"] in fit_to_serve
    controller.wish(desired(generation + 1, wish(goods[0].candidate)))
    assert controller.until_state(DeviceState.ACTIVE, generation + 1).artifact == goods[0].candidate.artifact
    home = tmp_path / "home"
    assert list(home.glob("agent.db.unreadable-*")) == [], "each start must have read the state of the life before"
    half_made = [path for path in home.rglob("*") if path.suffix in {".new", ".part", ".map-new"}]
    assert len(half_made) <= HALF_MADE_MAX, half_made
