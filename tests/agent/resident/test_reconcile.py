"""State in → state out, for every rule of the resident agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from edgefleet_agent.consistency import check_consistency
from edgefleet_agent.reconcile import STRIKE_LIMIT, reopened_while_stopped, undone_while_stopped
from edgefleet_agent.records import (
    Action,
    Activate,
    Activated,
    ActivationFailed,
    AgentState,
    ArtifactReady,
    CancelWork,
    CollectGarbage,
    Deactivate,
    DesiredReceived,
    Facts,
    Fetch,
    FetchFailed,
    RequalifyAsked,
    RetryDue,
    RetryLater,
    Say,
    Serving,
    Settled,
    Stage,
    Started,
    StartTrial,
    TrialDone,
    Undone,
)
from edgefleet_agent.state import AGENT_DIED, MACHINE_DIED
from edgefleet_contract.accept import Choose
from edgefleet_contract.desired import Candidate
from edgefleet_contract.errors import InternalError
from edgefleet_contract.evidence import EnergyResult, EnergyStatus, LatencyResult, LatencyVerdict, Trial, Verdict
from edgefleet_contract.profile import EngineProbe, ProbeStatus
from edgefleet_contract.report import DeviceState
from edgefleet_hil.drive import Drive

A = TypeVar("A", bound=Action)


def candidate(letter: str, variant: str = "ort/cpu/fp32", total_bytes: int = 100) -> Candidate:
    return Candidate(variant=variant, artifact="sha256:" + letter * 64, document_bytes=10, total_bytes=total_bytes)


FP32 = candidate("a", "ort/cpu/fp32", 400)
INT8 = candidate("b", "ort/cpu/int8", 100)
CUDA = candidate("c", "ort/cuda/fp16", 200)


def failed(reason: str = "missed parity") -> Trial:
    return Trial(verdict=Verdict.FAILED, reason=reason)


def timed(p50_ms: float) -> Trial:
    latency = LatencyResult(
        n=1,
        n_eff=1,
        p50_ms=p50_ms,
        p95_ms=p50_ms,
        p99_ms=p50_ms,
        verdict=LatencyVerdict.VALID,
        min_ms=p50_ms,
        max_ms=p50_ms,
        mean_ms=p50_ms,
        load_ms=1,
        first_ms=1,
        warmup_n=1,
        duration_s=1,
        threads=1,
        spinning=False,
        preempted_n=0,
        harness_floor_ms=0,
    )
    return Trial(verdict=Verdict.QUALIFIED, latency=latency)


def test_a_wish_is_fetched_qualified_activated_and_reported(drive: Drive, asked: Any) -> None:
    assert [type(action) for action in drive(asked(1, FP32))] == [Say, Fetch]
    assert [type(action) for action in drive(ArtifactReady(drive.token))] == [Say, StartTrial]
    done = drive(TrialDone(drive.token, Trial(verdict=Verdict.QUALIFIED), 5, 1.5))
    assert [type(action) for action in done] == [Say, Activate]
    assert [type(action) for action in drive(Activated(drive.token))] == [Say, CollectGarbage]
    assert [said.state.value for said in drive.said()] == ["fetching", "qualifying", "active"]
    assert drive.last(Activate).serving.artifact == FP32.artifact
    assert drive.last(CollectGarbage).keep == {FP32.artifact}
    assert [(found.verdict, found.started_at_ns, found.duration_s) for found in drive.evidence()] == [
        (Verdict.QUALIFIED, 5, 1.5)
    ]


def test_what_fails_falls_back_to_the_next_of_the_chain(drive: Drive, asked: Any) -> None:
    drive(asked(1, INT8, FP32))
    drive.try_next(failed("agreement 0.91, allowed 0.98"))
    drive.qualify_and_activate()
    active = drive.said()[-1]
    assert (active.state, active.variant) == (DeviceState.ACTIVE, "ort/cpu/fp32")
    assert [(tried.variant, tried.reason) for tried in active.tried] == [
        ("ort/cpu/int8", "agreement 0.91, allowed 0.98")
    ]


def test_first_stops_at_the_first_that_qualifies(drive: Drive, asked: Any) -> None:
    drive(asked(1, INT8, FP32))
    drive.qualify_and_activate()
    assert drive.said()[-1].variant == "ort/cpu/int8"
    assert drive.said()[-1].tried == ()
    assert len(drive.evidence()) == 1


def test_what_the_device_lacks_is_ruled_out_without_a_transfer(drive: Drive, asked: Any) -> None:
    drive(asked(1, CUDA, FP32))
    assert drive.evidence()[0].verdict is Verdict.UNSUPPORTED
    assert drive.evidence()[0].reason == "no CUDA device"
    assert drive.evidence()[0].level.value == "table-only"
    assert drive.last(Fetch).candidate == FP32


def test_what_nothing_can_run_is_refused_and_the_old_release_still_serves(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    drive.qualify_and_activate()
    drive(asked(2, INT8))
    drive.try_next(failed())
    refused = drive.said()[-1]
    assert refused.state is DeviceState.REFUSED
    assert refused.reason == "no variant qualified; ort/cpu/fp32 of the previous release still serves"
    held = drive.state.progress("digits")
    assert held is not None
    assert held.serving is not None
    assert held.serving.artifact == FP32.artifact


def test_a_generation_not_above_its_own_is_ignored(drive: Drive, asked: Any) -> None:
    drive(asked(3, FP32))
    before = drive.state
    assert drive(asked(3, INT8)) == ()
    assert drive(asked(2, INT8)) == ()
    assert drive.state == before


def test_the_same_wish_in_a_new_generation_is_no_change(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    drive.qualify_and_activate()
    actions = drive(asked(2, FP32))
    assert [type(action) for action in actions] == [Say, CollectGarbage]
    said = drive.said()[-1]
    assert (said.state, said.generation, said.artifact) == (DeviceState.ACTIVE, 2, FP32.artifact)
    assert "no change" in str(said.reason)


def test_a_new_generation_with_the_same_wish_goes_on_with_work_in_hand(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    token = drive.token
    actions = drive(asked(2, FP32))
    assert drive.token == token
    assert not any(isinstance(action, (CancelWork, Fetch)) for action in actions)
    assert drive.said()[-1].generation == 2


def test_another_release_cancels_the_work_in_hand_and_its_answer_is_ignored(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    drive(ArtifactReady(drive.token))
    old = drive.token
    drive(asked(2, INT8))
    assert drive.last(CancelWork).token == old
    before = drive.state
    assert drive(TrialDone(old, Trial(verdict=Verdict.QUALIFIED), 5, 1.0)) == ()
    assert drive.state == before


def test_a_refused_wish_is_tried_afresh_in_a_new_generation(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    drive.try_next(failed())
    drive(asked(2, FP32))
    drive.qualify_and_activate()
    assert drive.said()[-1].state is DeviceState.ACTIVE


def test_fastest_tries_all_and_tells_the_others_by_how_much_they_are_slower(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32, INT8, choose=Choose.FASTEST))
    drive.try_next(timed(0.064))
    drive.try_next(timed(0.041))
    drive(Activated(drive.token))
    active = drive.said()[-1]
    assert active.variant == "ort/cpu/int8"
    assert [(tried.verdict, tried.reason) for tried in active.tried] == [
        (Verdict.QUALIFIED, "slower: p50 0.064 ms against 0.041 ms")
    ]


def test_smallest_takes_the_fewest_bytes_among_those_that_qualify(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32, INT8, choose=Choose.SMALLEST))
    drive.try_next(Trial(verdict=Verdict.QUALIFIED))
    drive.try_next(Trial(verdict=Verdict.QUALIFIED))
    drive(Activated(drive.token))
    assert drive.said()[-1].variant == "ort/cpu/int8"
    assert drive.said()[-1].tried[0].reason == "larger: 400 B against 100 B"


def test_least_energy_without_a_sensor_takes_the_first_and_says_so(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32, INT8, choose=Choose.LEAST_ENERGY))
    drive.try_next(Trial(verdict=Verdict.QUALIFIED))
    drive.try_next(Trial(verdict=Verdict.QUALIFIED))
    drive(Activated(drive.token))
    assert drive.said()[-1].variant == "ort/cpu/fp32"
    assert "energy is unmeasured" in str(drive.said()[-1].reason)


def test_least_energy_takes_the_lowest_measured(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32, INT8, choose=Choose.LEAST_ENERGY))
    for energy_mj in (9.0, 4.0):
        energy = EnergyResult(status=EnergyStatus.MEASURED, per_inference_mj=energy_mj)
        drive.try_next(Trial(verdict=Verdict.QUALIFIED, energy=energy))
    drive(Activated(drive.token))
    assert drive.said()[-1].variant == "ort/cpu/int8"
    assert drive.said()[-1].tried[0].reason == "more energy: 9 mJ against 4 mJ per inference"


def test_one_model_is_worked_on_at_a_time(drive: Drive, wish: Any, desired: Any) -> None:
    drive(DesiredReceived(desired(1, wish(FP32, model="one"), wish(INT8, model="two"))))
    drive.qualify_and_activate()
    assert drive.state.work is not None
    assert (drive.state.work.model, drive.state.work.stage) == ("two", Stage.FETCH)
    drive.qualify_and_activate()
    assert [said.model for said in drive.said() if said.state is DeviceState.ACTIVE] == ["one", "two"]


def test_a_model_gone_from_the_wish_is_removed(drive: Drive, asked: Any, desired: Any) -> None:
    drive(asked(1, FP32))
    drive.qualify_and_activate()
    drive(DesiredReceived(desired(2)))
    assert drive.last(Deactivate).model == "digits"
    assert drive.said()[-1].state is DeviceState.REMOVED
    assert drive.state.models == ()


def test_a_fetch_that_may_pass_is_tried_again_later_with_longer_waits(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    drive(FetchFailed(drive.token, Verdict.FAILED, "disk full", transient=True))
    assert drive.said()[-1].state is DeviceState.REFUSED
    first_s = drive.last(RetryLater).delay_s
    drive(RetryDue("digits"))
    drive(FetchFailed(drive.token, Verdict.FAILED, "disk full", transient=True))
    assert drive.last(RetryLater).delay_s == 2 * first_s
    drive(RetryDue("digits"))
    drive.qualify_and_activate()
    assert drive.said()[-1].state is DeviceState.ACTIVE


def test_corrupt_bytes_are_not_asked_for_again(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    actions = drive(FetchFailed(drive.token, Verdict.CORRUPT, "wrong digest", transient=False))
    assert not any(isinstance(action, RetryLater) for action in actions)
    assert drive.evidence()[-1].verdict is Verdict.CORRUPT


def test_a_link_that_cannot_be_switched_refuses_and_tries_again_without_a_new_trial(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    drive.try_next(Trial(verdict=Verdict.QUALIFIED))
    actions = drive(ActivationFailed(drive.token, "read-only file system"))
    assert [type(action) for action in actions] == [Say, RetryLater, CollectGarbage]
    assert "could not switch: read-only file system" in str(drive.said()[-1].reason)
    assert [type(action) for action in drive(RetryDue("digits"))] == [Activate]


def test_a_restart_in_the_middle_starts_the_candidate_again(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    drive(ArtifactReady(drive.token))
    assert any(isinstance(action, Fetch) for action in drive(Started()))
    drive.qualify_and_activate()
    assert len(drive.evidence()) == 1


def serving(of: Candidate) -> Serving:
    return Serving(artifact=of.artifact, variant=of.variant, release="sha256:" + "0" * 64)


def test_a_restart_says_nothing_of_a_model_that_serves(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    drive.qualify_and_activate()
    actions = drive(Started(on_disk={"digits": serving(FP32)}))
    assert not any(isinstance(action, Say) for action in actions)


def test_a_model_whose_link_is_lost_is_brought_back_and_proved_again(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    drive.qualify_and_activate()
    drive(Started(on_disk={}))
    drive.qualify_and_activate()
    assert len(drive.evidence()) == 2


def test_a_model_on_disk_that_nobody_wishes_for_is_removed_with_the_next_wish(drive: Drive, desired: Any) -> None:
    drive(Started(on_disk={"old": serving(FP32)}))
    drive(DesiredReceived(desired(1)))
    assert drive.last(Deactivate).model == "old"


def test_a_new_engine_reopens_a_refusal_at_the_next_start(drive: Drive, asked: Any) -> None:
    drive(asked(1, CUDA))
    assert drive.said()[-1].state is DeviceState.REFUSED
    engines = (EngineProbe(target="ort/cuda", status=ProbeStatus.AVAILABLE),)
    drive.facts = Facts(drive.facts.profile.model_copy(update={"engines": engines}), 0)
    drive(Started())
    assert drive.last(Fetch).candidate == CUDA


@pytest.mark.parametrize("how", [MACHINE_DIED, AGENT_DIED])
def test_two_deaths_during_its_trial_refuse_an_artifact_and_say_what_died(drive: Drive, asked: Any, how: str) -> None:
    drive(asked(1, FP32))
    drive(Started(strikes={FP32.artifact: how}))
    assert drive.last(Fetch).candidate == FP32
    drive(Started(strikes={FP32.artifact: how}))
    assert drive.evidence()[-1].verdict is Verdict.CRASHED
    assert str(drive.evidence()[-1].reason).endswith(how)
    assert drive.said()[-1].state is DeviceState.REFUSED


def test_an_artifact_refused_for_deaths_is_tried_again_when_somebody_asks(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    for _ in range(2):
        drive(Started(strikes={FP32.artifact: AGENT_DIED}))
    drive(RequalifyAsked("digits"))
    drive.qualify_and_activate()
    assert drive.said()[-1].state is DeviceState.ACTIVE


def test_requalify_while_no_agent_runs_forgives_deaths_of_that_model(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    for _ in range(2):
        drive(Started(strikes={FP32.artifact: AGENT_DIED, INT8.artifact: AGENT_DIED}))
    assert set(reopened_while_stopped(drive.state, "digits").strikes) == {INT8.artifact}


def test_the_schedule_does_not_try_a_crasher_again_and_repeats_why(drive: Drive, asked: Any) -> None:
    drive(asked(1, INT8, FP32))
    drive.try_next(crashed())
    drive.try_next(crashed())
    drive.qualify_and_activate()
    drive(RequalifyAsked("digits", forgives=False))
    assert drive.last(Fetch).candidate == FP32
    assert str(drive.evidence()[-1].reason).endswith("the worker was killed by signal 9 (SIGKILL)")


def crashed() -> Trial:
    return Trial(verdict=Verdict.CRASHED, reason="the worker was killed by signal 9 (SIGKILL)")


def test_a_worker_that_died_once_is_started_once_more(drive: Drive, asked: Any) -> None:
    drive(asked(1, INT8, FP32))
    drive.try_next(crashed())
    assert drive.last(Fetch).candidate == INT8
    drive.qualify_and_activate()
    assert drive.said()[-1].variant == "ort/cpu/int8"
    assert [found.verdict for found in drive.evidence()] == [Verdict.CRASHED, Verdict.QUALIFIED]


def test_a_worker_that_dies_twice_on_an_artifact_makes_it_a_failed_candidate(drive: Drive, asked: Any) -> None:
    drive(asked(1, INT8, FP32))
    drive.try_next(crashed())
    drive.try_next(crashed())
    assert drive.last(Fetch).candidate == FP32
    drive.qualify_and_activate()
    active = drive.said()[-1]
    assert (active.variant, [tried.verdict for tried in active.tried]) == ("ort/cpu/fp32", [Verdict.CRASHED])


def test_what_was_tried_again_later_still_stands_in_its_place_of_the_chain(drive: Drive, asked: Any) -> None:
    drive(asked(1, INT8, FP32))
    drive(FetchFailed(drive.token, Verdict.FAILED, "the disk is full", transient=True))
    drive.try_next(failed())
    drive(RetryDue("digits"))
    drive.try_next(failed())
    assert [tried.variant for tried in drive.said()[-1].tried] == [INT8.variant, FP32.variant]


def test_strikes_are_forgotten_with_a_new_generation(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    for _ in range(STRIKE_LIMIT):
        drive(Started(strikes={FP32.artifact: AGENT_DIED}))
    drive(asked(2, FP32))
    drive.qualify_and_activate()
    assert drive.said()[-1].state is DeviceState.ACTIVE


def test_requalify_proves_a_serving_model_again(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    drive.qualify_and_activate()
    drive(RequalifyAsked("digits"))
    drive.try_next(failed())
    assert drive.said()[-1].reason == "no variant qualified; ort/cpu/fp32 still serves"


def test_a_state_that_serves_what_did_not_qualify_is_refused(drive: Drive, asked: Any) -> None:
    drive(asked(1, FP32))
    progress = drive.state.models[0].model_copy(update={"settled": Settled.ACTIVE, "serving": serving(FP32)})
    with pytest.raises(InternalError, match="did not qualify"):
        check_consistency(AgentState(models=(progress,)))


OLD = Serving(artifact=FP32.artifact, variant=FP32.variant, release="sha256:" + "9" * 64)


def test_what_was_undone_by_hand_stays_until_the_next_release(drive: Drive, asked: Callable[..., Any]) -> None:
    drive(asked(1, INT8))
    drive.qualify_and_activate()
    drive(Undone("digits", OLD))
    assert drive.said()[-1].state is DeviceState.REFUSED
    assert "ort/cpu/fp32 of the release before it" in str(drive.said()[-1].reason)
    said_n = len(drive.said())
    drive(Started({"digits": OLD}))
    assert (len(drive.said()), drive.state.work) == (said_n, None)
    drive(asked(2, INT8))
    assert (drive.said()[-1].state, drive.said()[-1].generation) == (DeviceState.REFUSED, 2)
    assert drive.state.work is None
    drive(asked(3, FP32))
    assert drive.last(Fetch).candidate == FP32


def test_undoing_an_undo_says_that_it_goes_forward(drive: Drive, asked: Callable[..., Any]) -> None:
    drive(asked(1, INT8))
    drive.qualify_and_activate()
    wished = drive.state.models[0].serving
    assert wished is not None
    drive(Undone("digits", OLD))
    drive(Undone("digits", wished))
    assert "ort/cpu/int8 of the wished release serves" in str(drive.said()[-1].reason)


def test_undo_stops_a_trial_of_that_model(drive: Drive, asked: Callable[..., Any]) -> None:
    drive(asked(1, INT8))
    drive(ArtifactReady(drive.token))
    token = drive.token
    drive(Undone("digits", OLD))
    assert drive.last(CancelWork).token == token
    assert drive.state.work is None


def test_requalify_ends_an_undo(drive: Drive, asked: Callable[..., Any]) -> None:
    drive(asked(1, INT8))
    drive.qualify_and_activate()
    drive(Undone("digits", OLD))
    drive(RequalifyAsked("digits"))
    drive.qualify_and_activate()
    assert drive.said()[-1].state is DeviceState.ACTIVE


def test_an_undo_while_no_agent_ran_is_reported_at_the_next_start(drive: Drive, asked: Callable[..., Any]) -> None:
    drive(asked(1, INT8))
    drive.qualify_and_activate()
    drive.state = undone_while_stopped(drive.state, "digits", OLD)
    drive(Started({"digits": OLD}))
    assert "by hand" in str(drive.said()[-1].reason)


def test_a_new_driver_or_runtime_has_everything_proved_again_while_it_serves(
    drive: Drive, asked: Callable[..., Any]
) -> None:
    drive(Started())
    drive(asked(1, INT8))
    drive.qualify_and_activate()
    held = drive.state.models[0].serving
    assert held is not None
    drive(Started({"digits": held}))
    assert drive.state.work is None
    engines = (EngineProbe(target="ort/cpu", status=ProbeStatus.AVAILABLE, version="1.33"),)
    drive.facts = Facts(drive.facts.profile.model_copy(update={"engines": engines}), 2_000)
    drive(Started({"digits": held}))
    assert drive.last(Fetch).candidate == INT8
    assert drive.state.models[0].serving == held
    drive.qualify_and_activate()
    drive(Started({"digits": held}))
    assert drive.state.work is None
