"""Power cuts and dead workers at random moments: what serves was proved, the state loads, and the work goes on."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.jobs import JobDeath
from edgefleet_contract.artifact import ArtifactDocument
from edgefleet_contract.base import digest_bytes, hex_of
from edgefleet_contract.child import ChildEnd, ChildLimits, ChildOutcome
from edgefleet_contract.evidence import Trial, Verdict
from edgefleet_contract.job import QualifyAnswer, QualifyJob
from edgefleet_contract.profile import Profile
from edgefleet_contract.report import DeviceState, Transition
from edgefleet_hil.lone_agent import LoneAgent
from edgefleet_hil.powercut import PowerCutError, PowerCutFilesystem

FAST_N = 60
ALL_N = 1000
LIVES_MAX = 60
ORPHANS_MAX = 8
"""Files and folders half-made at a cut that may still lie about when all is settled."""


class Scenario:
    """Three releases come one after the other; the second does not qualify, so the first serves until the third."""

    def __init__(self, root: Path, profile: Profile, seed: int, make: Callable[..., Any]) -> None:
        self.rng = random.Random(seed)
        self.root = root
        self.profile = profile
        self.good = make({"model.onnx": b"1" * 70_000, "samples.npz": b"s"})
        self.bad = make({"model.onnx": b"2" * 70_000, "samples.npz": b"s"}, "ort/cpu/int8")
        self.newer = make({"model.onnx": b"3" * 70_000, "samples.npz": b"s"})
        self.proved: set[str] = set()
        self.died: set[str] = set()
        self.said_active: str | None = None
        """The artifact last reported as serving."""
        self.lives_n = 0
        self.cuts_n = 0

    def worker(self, job: QualifyJob, _: ChildLimits, __: threading.Event) -> QualifyAnswer | JobDeath:
        """Judge by content; now and then die instead, once an artifact, as a worker the kernel killed."""
        artifact = "sha256:" + Path(job.artifact_dir).name
        if artifact not in self.died and self.rng.random() < 0.2:
            self.died.add(artifact)
            return JobDeath(ChildOutcome(ChildEnd.CRASHED, None, "was killed by signal 9 (SIGKILL)", "", 0.1))
        verdict = Verdict.FAILED if artifact == self.bad.candidate.artifact else Verdict.QUALIFIED
        if verdict is Verdict.QUALIFIED:
            self.proved.add(artifact)
        return QualifyAnswer(trial=Trial(verdict=verdict, reason=None if verdict is Verdict.QUALIFIED else "lossy"))

    def filesystem(self, cut_after: int | None) -> PowerCutFilesystem:
        graveyard = self.root / "graves" / str(self.lives_n)
        graveyard.mkdir(parents=True)
        return PowerCutFilesystem(graveyard, cut_after, self.rng)

    def live(self, goal: Any, cut_after: int | None) -> bool:
        """Let the agent live until a model is settled under the goal, or the power goes; return which it was."""
        self.lives_n += 1
        filesystem = self.filesystem(cut_after)
        agent = LoneAgent(self.root / "home", self.profile, self.worker, filesystem)
        agent.blobs = {**self.good.blobs, **self.bad.blobs, **self.newer.blobs}
        try:
            agent.boot()
            agent.wish(goal)
            agent.until(lambda: filesystem.down or is_settled(agent, goal.generation), idle_s=0.2)
        except (PowerCutError, AssertionError):
            if cut_after is None:
                raise
        finally:
            said = agent.bodies(Transition) if agent.links else []
            active = [body for body in said if body.state is DeviceState.ACTIVE]
            self.said_active = active[-1].artifact if active else self.said_active
            agent.die()
        if cut_after is not None:
            filesystem.down = True
            filesystem.lose()
            self.cuts_n += 1
        return cut_after is None

    def check(self) -> None:
        """What a reader of the disk sees must be whole and proved, and no older than what was said to serve."""
        link = self.root / "home/models/digits/current"
        if not link.is_symlink():
            assert self.said_active is None
            return
        folder = link.resolve()
        document = ArtifactDocument.model_validate_json((folder / "artifact.json").read_bytes())
        for file in document.files:
            assert digest_bytes((folder / file.name).read_bytes()) == file.digest
        assert document.digest in self.proved
        newer = self.newer.candidate.artifact
        assert document.digest in {self.said_active, newer} or self.said_active is None
        assert document.digest != self.bad.candidate.artifact


def is_settled(agent: LoneAgent, generation: int) -> bool:
    state = agent.agent._state
    return state.generation >= generation and all(progress.settled for progress in state.models)


def run(root: Path, profile: Profile, seed: int, make: Callable[..., Any], wish: Any, desired: Any) -> Scenario:
    (root / "home").mkdir(parents=True)
    scenario = Scenario(root, profile, seed, make)
    goals = [
        desired(generation, wish(made.candidate))
        for generation, made in enumerate((scenario.good, scenario.bad, scenario.newer), 1)
    ]
    for goal in goals:
        settled = False
        while not settled:
            cut = scenario.rng.randint(1, 60) if scenario.rng.random() < 0.7 else None
            settled = scenario.live(goal, cut)
            scenario.check()
            assert scenario.lives_n < LIVES_MAX
    return scenario


def noted(home: Path) -> list[tuple[str, ...]]:
    """Return what a sound database says of each model."""
    connection = sqlite3.connect(home / "agent.db")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return connection.execute("SELECT model, body FROM progress").fetchall()
    finally:
        connection.close()


def leftovers(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.name.endswith((".new", ".partial", ".part"))]


@pytest.fixture(params=[pytest.param(FAST_N, id="some"), pytest.param(ALL_N, id="all", marks=pytest.mark.slow)])
def cuts_wanted_n(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.timeout(1800)
def test_no_power_cut_makes_an_unproved_model_serve_or_stops_the_work(
    tmp_path: Path, profile: Profile, artifact: Any, wish: Any, desired: Any, cuts_wanted_n: int
) -> None:
    cuts_n, seed = 0, 0
    while cuts_n < cuts_wanted_n:
        root = tmp_path / str(seed)
        scenario = run(root, profile, seed, artifact, wish, desired)
        cuts_n, seed = cuts_n + scenario.cuts_n, seed + 1
        home = root / "home"
        assert (home / "models/digits/current").resolve().name == hex_of(scenario.newer.candidate.artifact), noted(home)
        assert noted(home)
        assert len(leftovers(home)) <= ORPHANS_MAX
        assert list(home.glob("agent.db.unreadable-*")) == []


def test_a_disk_that_forgets_what_was_synced_would_be_noticed(tmp_path: Path) -> None:
    """The layer itself: what was synced stays, what was not may go."""
    survived: set[tuple[bool, bool]] = set()
    for seed in range(20):
        folder = tmp_path / str(seed)
        (folder / "graves").mkdir(parents=True)
        filesystem = PowerCutFilesystem(folder / "graves", None, random.Random(seed))
        filesystem.write(folder / "kept", b"a")
        filesystem.sync(folder)
        filesystem.write(folder / "loose", b"b")
        filesystem.rename(folder / "kept", folder / "renamed")
        filesystem.lose()
        assert (folder / "kept").exists() != (folder / "renamed").exists()
        survived.add(((folder / "loose").exists(), (folder / "renamed").exists()))
    assert survived == {(False, False), (True, False), (True, True)}
