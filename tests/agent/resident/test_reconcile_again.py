"""When what was proved is proved again, and what is forgotten then."""

from __future__ import annotations

from typing import Any

import pytest

from edgefleet_agent.records import (
    Activate,
    Activated,
    EnvironmentSeen,
    Event,
    Facts,
    Fetch,
    RequalifyAsked,
    Serving,
    Started,
)
from edgefleet_contract.accept import Choose
from edgefleet_contract.desired import Candidate
from edgefleet_contract.evidence import Trial, Verdict
from edgefleet_contract.report import DeviceState
from edgefleet_hil.drive import Drive


def candidate(letter: str, variant: str = "ort/cpu/fp32") -> Candidate:
    return Candidate(variant=variant, artifact="sha256:" + letter * 64, document_bytes=10, total_bytes=100)


FP32 = candidate("a")
INT8 = candidate("b", "ort/cpu/int8")
SERVED = Serving(artifact=FP32.artifact, variant=FP32.variant, release="sha256:" + "0" * 64)


def crashed() -> Trial:
    return Trial(verdict=Verdict.CRASHED, reason="the worker was killed by signal 9 (SIGKILL)")


def test_an_artifact_that_qualified_begins_without_strikes(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    for _ in range(3):
        drive.try_next(crashed())
        drive.qualify_and_activate()
        drive(RequalifyAsked("digits"))
    drive.qualify_and_activate()
    assert drive.said()[-1].state is DeviceState.ACTIVE


def in_mode(facts: Facts, mode: str) -> Facts:
    return Facts(facts.profile.model_copy(update={"power_mode": mode}), facts.now_ns)


@pytest.mark.parametrize("event", [EnvironmentSeen(), Started({"digits": SERVED})])
def test_another_power_mode_proves_what_serves_again_while_it_runs_and_after_a_restart(
    drive: Drive, asked: Any, event: Event
) -> None:
    drive(Started())
    drive(asked(1, FP32))
    drive.qualify_and_activate()
    assert drive.state.work is None
    drive(EnvironmentSeen())
    assert drive.state.work is None, "nothing has changed"
    drive.facts = in_mode(drive.facts, "nvpmodel 2")
    drive(event)
    assert drive.state.models[0].serving is not None
    drive.qualify_and_activate()
    assert [evidence.verdict for evidence in drive.evidence()] == [Verdict.QUALIFIED] * 2


@pytest.mark.parametrize("event", [EnvironmentSeen(), Started()])
def test_half_a_chain_proved_in_another_environment_is_proved_from_its_start(
    drive: Drive, asked: Any, event: Event
) -> None:
    drive(Started())
    drive(asked(1, INT8, FP32, choose=Choose.FASTEST))
    drive.try_next(Trial(verdict=Verdict.QUALIFIED))
    drive.facts = in_mode(drive.facts, "nvpmodel 2")
    drive(event)
    assert drive.last(Fetch).candidate == INT8
    assert drive.state.models[0].findings == ()


def test_a_switch_whose_answer_is_on_the_way_counts_whatever_comes_in_between(drive: Drive, asked: Any) -> None:
    drive(asked(1, INT8))
    drive.qualify_and_activate()
    drive(asked(2, FP32))
    drive.try_next(Trial(verdict=Verdict.QUALIFIED))
    late = drive.token
    assert drive.last(Activate).serving.artifact == FP32.artifact
    drive(asked(3, candidate("d")))
    drive(Activated(late))
    drive.try_next(Trial(verdict=Verdict.FAILED, reason="no"))
    assert drive.said()[-1].reason == "no variant qualified; ort/cpu/fp32 of the previous release still serves"
    assert drive.state.models[0].serving == drive.last(Activate).serving


@pytest.mark.parametrize("verdict", [Verdict.CRASHED, Verdict.TIMEOUT, Verdict.OUT_OF_MEMORY])
def test_the_evidence_of_a_dead_worker_tells_the_conditions_the_profile_knows(
    drive: Drive, asked: Any, verdict: Verdict
) -> None:
    profile = drive.facts.profile.model_copy(update={"power_mode": "nvpmodel 2, governor schedutil"})
    drive.facts = Facts(profile, 0)
    drive(asked(1, FP32))
    drive.try_next(Trial(verdict=verdict, reason="the worker died"))
    told = drive.evidence()[0].conditions
    assert told is not None
    engine = profile.engine("ort/cpu")
    assert engine is not None
    assert (told.cpu_model, told.runtime, told.runtime_version) == (
        profile.cpu_model,
        "ort",
        engine.version or "unknown",
    )
    assert told.extra == {"told_by": "profile", "nvpmodel": "2", "governor": "schedutil"}
