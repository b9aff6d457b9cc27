"""The loop of the resident agent, with a link, a worker and a clock that tests hold in their hands."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_agent.jobs import JobDeath
from edgefleet_agent.link import LinkDown, Received
from edgefleet_agent.state import StateStore
from edgefleet_contract.child import ChildEnd, ChildLimits
from edgefleet_contract.evidence import Trial, Verdict
from edgefleet_contract.job import QualifyAnswer, QualifyJob
from edgefleet_contract.profile import Profile
from edgefleet_contract.report import (
    DeviceState,
    EvidenceReport,
    Heartbeat,
    Presence,
    ProfileReport,
    Report,
    ReportAck,
    Requalify,
    Transition,
)
from edgefleet_contract.wire import decode
from edgefleet_hil.lone_agent import TOPICS, LoneAgent, dies_of, qualifies, waits_for_its_end


@pytest.fixture
def world(tmp_path: Path, profile: Profile) -> LoneAgent:
    world = LoneAgent(tmp_path, profile, qualifies)
    world.boot()
    return world


@pytest.fixture
def made(artifact: Any, world: LoneAgent) -> Any:
    made = artifact({"model.onnx": b"m" * 200_000, "samples.npz": b"s"})
    world.blobs.update(made.blobs)
    return made


@pytest.fixture
def asked(made: Any, wish: Any, desired: Any) -> Callable[[int], Any]:
    return lambda generation: desired(generation, wish(made.candidate))


def test_at_birth_it_says_that_it_is_here_and_what_it_is(world: LoneAgent) -> None:
    assert (world.presence.online, world.presence.connection, world.presence.generation) == (True, 1, 0)
    assert world.presence.profile == world.profile.digest
    assert world.bodies(ProfileReport)[0].profile == world.profile
    assert not decode(Presence, world.link.will(2)).online


def test_a_wish_becomes_a_link_on_disk_and_is_reported(world: LoneAgent, made: Any, asked: Any) -> None:
    world.wish(asked(1))
    active = world.until_said(DeviceState.ACTIVE)
    assert active.artifact == made.candidate.artifact
    assert (world.config.home / "models/digits/current/model.onnx").read_bytes() == b"m" * 200_000
    assert world.presence.generation == 1
    assert [body.evidence.verdict for body in world.bodies(EvidenceReport)] == [Verdict.QUALIFIED]


def test_a_verdict_closes_its_attempt(world: LoneAgent, asked: Any) -> None:
    world.wish(asked(1))
    world.until(lambda: bool(StateStore(world.connection).open_strikes("other")))
    world.until_said(DeviceState.ACTIVE)
    assert StateStore(world.connection).open_strikes("other") == {}


def test_a_worker_that_dies_is_a_failed_candidate_with_its_last_words(world: LoneAgent, asked: Any) -> None:
    world.worker = dies_of(ChildEnd.CRASHED)
    world.wish(asked(1))
    refused = world.until_said(DeviceState.REFUSED)
    assert refused.tried[0].verdict is Verdict.CRASHED
    assert refused.tried[0].reason == "the worker killed by signal 11 (SIGSEGV); its last words: last line"


def test_what_was_damaged_during_its_trial_does_not_become_active(world: LoneAgent, made: Any, asked: Any) -> None:
    def spoils(job: QualifyJob, _: ChildLimits, __: threading.Event) -> QualifyAnswer:
        with (Path(job.artifact_dir) / "model.onnx").open("r+b") as file:
            file.write(b"other")
        return QualifyAnswer(trial=Trial(verdict=Verdict.QUALIFIED))

    world.worker = spoils
    world.wish(asked(1))
    assert world.until_said(DeviceState.REFUSED).tried[0].verdict is Verdict.CORRUPT
    assert not (world.config.home / "models/digits/current").exists()


def test_after_a_restart_it_serves_on_and_says_nothing_anew(world: LoneAgent, asked: Any) -> None:
    world.wish(asked(1))
    world.until_said(DeviceState.ACTIVE)
    boot = world.presence.boot
    world.receive(TOPICS.ack, ReportAck(boot=boot, committed=100))
    world.settle()
    world.boot()
    world.wish(asked(1))
    world.settle()
    assert world.bodies(Transition) == []
    assert world.presence.generation == 1
    assert world.presence.boot != boot


def test_reports_of_a_life_that_ended_are_delivered_by_the_next(world: LoneAgent, asked: Any) -> None:
    world.wish(asked(1))
    world.until_said(DeviceState.ACTIVE)
    old = [(report.boot, report.seq) for report in world.link.said(TOPICS.event, Report)]
    world.boot()
    new = [(report.boot, report.seq) for report in world.link.said(TOPICS.event, Report)]
    assert new[: len(set(old))] == sorted(set(old), key=lambda key: key[1])


def test_a_reboot_during_a_trial_is_a_strike_and_the_second_refuses(world: LoneAgent, made: Any, asked: Any) -> None:
    world.worker = waits_for_its_end
    world.wish(asked(1))
    for boot in ("boot-2", "boot-3"):
        world.until(lambda: bool(StateStore(world.connection).open_strikes("other")))
        world.agent._background.cancel()
        world.machine_boot = boot
        world.boot()
    assert world.until_said(DeviceState.REFUSED).tried[0].verdict is Verdict.CRASHED


def test_an_orderly_stop_is_no_strike_even_when_the_worker_does_not_end_in_time(world: LoneAgent, asked: Any) -> None:
    released = threading.Event()

    def is_deaf(job: QualifyJob, limits: ChildLimits, cancelled: threading.Event) -> JobDeath:
        released.wait(30.0)
        return waits_for_its_end(job, limits, cancelled)

    world.worker = is_deaf
    world.wish(asked(1))
    world.until(lambda: bool(StateStore(world.connection).open_strikes("other")))
    world.agent.stop()
    world.agent.run()
    assert StateStore(world.connection).open_strikes("other") == {}
    released.set()


def test_a_clean_stop_kills_the_worker_is_no_strike_and_says_farewell(world: LoneAgent, asked: Any) -> None:
    world.worker = waits_for_its_end
    world.wish(asked(1))
    world.until(lambda: bool(StateStore(world.connection).open_strikes("other")))
    world.agent.stop()
    world.agent.run()
    assert StateStore(world.connection).open_strikes("other") == {}
    assert not decode(Presence, world.link.farewell).online


def test_another_release_kills_the_trial_under_way(world: LoneAgent, artifact: Any, wish: Any, desired: Any) -> None:
    slow, quick = artifact({"model.onnx": b"slow"}), artifact({"model.onnx": b"quick"})
    world.blobs.update({**slow.blobs, **quick.blobs})
    world.worker = waits_for_its_end
    world.wish(desired(1, wish(slow.candidate)))
    world.until(lambda: bool(StateStore(world.connection).open_strikes("other")))
    world.worker = qualifies
    world.wish(desired(2, wish(quick.candidate)))
    assert world.until_said(DeviceState.ACTIVE).artifact == quick.candidate.artifact
    assert len(world.bodies(EvidenceReport)) == 1


def test_a_wish_for_another_device_is_refused(world: LoneAgent, asked: Any) -> None:
    world.wish(asked(1).model_copy(update={"device": "two"}))
    world.wish(asked(1).model_copy(update={"site": "else"}))
    world.settle()
    assert world.agent.malformed_n == 2
    assert world.presence.generation == 0


def test_a_command_to_requalify_proves_a_model_again(world: LoneAgent, asked: Any) -> None:
    world.wish(asked(1))
    world.until_said(DeviceState.ACTIVE)
    world.receive(TOPICS.command, Requalify(model="digits"))
    world.until(lambda: len(world.bodies(EvidenceReport)) == 2)


def finds(verdict: Verdict) -> Callable[[QualifyJob, ChildLimits, threading.Event], QualifyAnswer]:
    return lambda *_: QualifyAnswer(trial=Trial(verdict=verdict, reason="as told"))


def has_seen(world: LoneAgent, evidence_n: int) -> bool:
    return len(world.bodies(EvidenceReport)) >= evidence_n


def test_by_schedule_what_serves_is_proved_again_and_again_even_after_a_proof_that_failed(
    world: LoneAgent, asked: Any
) -> None:
    world.die()
    world.config = replace(world.config, requalify_every_s=3600.0)
    world.boot()
    world.wish(asked(1))
    world.until_said(DeviceState.ACTIVE)
    proved: list[Verdict] = []
    for verdict in (Verdict.QUALIFIED, Verdict.FAILED, Verdict.QUALIFIED):
        world.worker = finds(verdict)
        world.now_s += 3600.0
        world.agent.turn(0.0)
        seen_n = len(proved) + 2
        world.until(partial(has_seen, world, seen_n))
        world.settle()
        proved.append(world.bodies(EvidenceReport)[-1].evidence.verdict)
        assert (world.config.home / "models/digits/current").is_symlink()
    assert proved == [Verdict.QUALIFIED, Verdict.FAILED, Verdict.QUALIFIED]
    assert world.bodies(Transition)[-1].state is DeviceState.ACTIVE


def test_another_power_mode_is_seen_while_the_agent_runs_offline_too(world: LoneAgent, asked: Any) -> None:
    world.wish(asked(1))
    world.until_said(DeviceState.ACTIVE)
    world.link.events.put(LinkDown("gone"))
    world.now_s += 60.0
    world.settle()
    assert len(evidence_kept(world)) == 1
    world.power_mode = "nvpmodel 2"
    world.now_s += 60.0
    world.agent.turn(0.0)
    world.until(lambda: len(evidence_kept(world)) == 2)
    world.settle()
    assert [body.profile.power_mode for body in kept(world, ProfileReport)] == ["", "nvpmodel 2"]


def kept(world: LoneAgent, kind: type[Any]) -> list[Any]:
    """Return the bodies of this kind that wait in the outbox."""
    rows = world.connection.execute("SELECT body FROM report ORDER BY life, seq").fetchall()
    return [body for (raw,) in rows if isinstance(body := decode(Report, raw).body, kind)]


def evidence_kept(world: LoneAgent) -> list[EvidenceReport]:
    return kept(world, EvidenceReport)


def test_reports_are_sent_again_until_acknowledged(world: LoneAgent) -> None:
    sent_n = len(world.link.said(TOPICS.event, Report))
    world.now_s += 6.0
    world.agent.turn(0.0)
    assert len(world.link.said(TOPICS.event, Report)) == sent_n + 1
    world.receive(TOPICS.ack, ReportAck(boot=world.presence.boot, committed=1))
    world.settle()
    world.now_s += 60.0
    world.agent.turn(0.0)
    assert len(world.link.said(TOPICS.event, Report)) == sent_n + 1


def test_heartbeats_come_at_their_period_and_only_while_connected(world: LoneAgent) -> None:
    for _ in range(3):
        world.now_s += 10.0
        world.agent.turn(0.0)
    assert len(world.link.said(TOPICS.heartbeat, Heartbeat)) == 3
    world.link.events.put(LinkDown("gone"))
    world.settle()
    world.now_s += 100.0
    world.agent.turn(0.0)
    assert len(world.link.said(TOPICS.heartbeat, Heartbeat)) == 3


def test_a_blob_nobody_serves_is_given_up_and_tried_again_later(world: LoneAgent, asked: Any) -> None:
    blobs = dict(world.blobs)
    world.blobs.clear()
    world.wish(asked(1))
    for _ in range(20):
        world.settle()
        world.now_s += 10.0
    assert world.until_said(DeviceState.REFUSED).tried[0].verdict is Verdict.FAILED
    world.blobs.update(blobs)
    world.now_s += 100.0
    world.agent.turn(0.0)
    world.until_said(DeviceState.ACTIVE)


class FullDisk(sqlite3.Connection):
    """A database whose commits fail while the disk is full."""

    full = False

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        if self.full and arguments[0] == "COMMIT":
            msg = "database or disk is full"
            raise sqlite3.OperationalError(msg)
        return super().execute(*arguments)


def test_a_full_disk_delays_decisions_keeps_their_order_and_leaves_no_gap(
    world: LoneAgent, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, factory=FullDisk, **kwargs))
    world.boot()
    disk: Any = world.connection
    disk.full = True
    world.wish(asked(1))
    world.wish(asked(2))
    world.settle()
    assert world.presence.generation == 0
    disk.full = False
    world.now_s += 6.0
    world.agent.turn(0.0)
    assert world.until_said(DeviceState.ACTIVE).generation == 2
    mine = [report.seq for report in world.link.said(TOPICS.event, Report) if report.boot == world.presence.boot]
    assert sorted(set(mine)) == list(range(1, len(set(mine)) + 1))


TOPIC_NAMES = ("desired", "ack", "command")


@settings(max_examples=100, deadline=None)
@given(
    topic=st.sampled_from(
        (*(getattr(TOPICS, name) for name in TOPIC_NAMES), TOPICS.block("sha256:" + "a" * 64, 3), "x")
    ),
    payload=st.one_of(st.binary(max_size=200), st.just(b"[" * 5000), st.just(b'{"api":"fleet/v1"}')),
    properties=st.dictionaries(st.sampled_from(("digest", "sha256", "x")), st.text(max_size=80), max_size=3),
)
def test_no_message_whatever_it_holds_stops_the_loop(
    topic: str, payload: bytes, properties: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = hostile_world(tmp_path_factory)
    world.link.events.put(Received(topic, payload, properties))
    world.settle()
    assert world.presence.generation == 0


_HOSTILE: list[LoneAgent] = []


def hostile_world(factory: pytest.TempPathFactory) -> LoneAgent:
    if not _HOSTILE:
        profile = Profile(
            device="one",
            site="lab",
            agent_version="0",
            arch="x",
            os="x",
            kernel="x",
            python_version="3",
            cpu_model="x",
            cpu_count=1,
            memory_bytes=1,
            disk_free_bytes=1,
        )
        _HOSTILE.append(LoneAgent(factory.mktemp("hostile"), profile, qualifies))
        _HOSTILE[0].boot()
    return _HOSTILE[0]
