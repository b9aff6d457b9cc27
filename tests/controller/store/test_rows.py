"""Rows of `fleet apply -o json`: each wished model, with the evidence that belongs to its state."""

from __future__ import annotations

from typing import Any

from edgefleet_contract.evidence import Gate, Verdict
from edgefleet_contract.report import DeviceState, Tried
from edgefleet_controller.api import ApplyRequest, DeviceModelRow
from edgefleet_controller.applying import Application, Wish, revision_rows
from edgefleet_controller.store import Store


def only(store: Store) -> DeviceModelRow:
    (row,) = store.device_rows()
    return row


def test_a_model_nobody_has_reported_on_is_pending(wished: Store) -> None:
    row = only(wished)
    assert (row.device, row.model, row.state, row.variant) == ("local", "digits", DeviceState.PENDING, None)


def test_an_active_model_shows_the_evidence_of_its_artifact(wished: Store, make: Any) -> None:
    wished.ingest(
        [
            make.report(make.missed(Gate.LATENCY, latency=make.latency(9.0)), 1),
            make.report(make.trial(make.fp32, latency=make.latency(2.0)), 2),
            make.report(make.transition(variant=make.fp32), 3),
        ],
        1,
    )
    row = only(wished)
    assert (row.state, row.variant, row.artifact) == (DeviceState.ACTIVE, make.fp32, make.artifact(make.fp32))
    assert row.latency is not None
    assert (row.latency.p95_ms, row.evidence) == (2.0, "executed-on-device")


def test_a_newer_trial_of_another_artifact_does_not_speak_for_the_active_one(wished: Store, make: Any) -> None:
    wished.ingest(
        [
            make.report(make.trial(make.fp32, latency=make.latency(2.0)), 1),
            make.report(make.transition(variant=make.fp32), 2),
            make.report(make.missed(Gate.LATENCY, latency=make.latency(9.0)), 3),
        ],
        1,
    )
    latency = only(wished).latency
    assert latency is not None
    assert latency.p95_ms == 2.0


def test_the_newest_of_two_proofs_counts(wished: Store, make: Any) -> None:
    for seq, p95_ms in ((1, 5.0), (2, 3.0)):
        wished.ingest([make.report(make.trial(latency=make.latency(p95_ms)), seq)], seq)
    wished.ingest([make.report(make.transition(), 3)], 3)
    latency = only(wished).latency
    assert latency is not None
    assert latency.p95_ms == 3.0


def test_a_refused_model_shows_the_last_evidence(wished: Store, make: Any) -> None:
    wished.ingest(
        [
            make.report(make.missed(Gate.PARITY), 1),
            make.report(make.missed(Gate.MEMORY, make.fp32, memory=make.memory()), 2),
            make.report(make.transition(DeviceState.REFUSED, None, reason="nothing qualified"), 3),
        ],
        1,
    )
    row = only(wished)
    assert (row.state, row.reason, row.memory) == (DeviceState.REFUSED, "nothing qualified", make.memory())


def test_a_state_under_another_release_is_pending_and_its_evidence_is_not_shown(wished: Store, make: Any) -> None:
    wished.ingest([make.report(make.trial(latency=make.latency()), 1), make.report(make.transition(), 2)], 1)
    wished.put_desired(make.desired(generation=2, release=make.other_release))
    row = only(wished)
    assert (row.state, row.latency, row.variant) == (DeviceState.PENDING, None, None)


def test_what_fell_out_before_the_device_comes_before_what_it_tried(wished: Store, make: Any) -> None:
    early = Tried(variant="tflite/edgetpu/int8", verdict=Verdict.UNSUPPORTED, reason="no Edge TPU found")
    late = Tried(variant=make.int8, verdict=Verdict.FAILED, reason="parity")
    wished.ingest([make.report(make.transition(variant=make.fp32, tried=(late,)))], 1)
    (row,) = wished.device_rows(extra_tried={("local", "digits"): (early,)})
    assert row.tried == (early, late)


def test_an_apply_tells_what_was_tried_in_the_order_of_the_chain_whoever_refused_it(wished: Store, make: Any) -> None:
    unbuilt = Tried(variant="tflite/gpu/fp16", verdict=Verdict.BUILD_FAILED, reason="no converter")
    lacking = Tried(variant="ort/cuda/fp16", verdict=Verdict.UNSUPPORTED, reason="no GPU found")
    late = Tried(variant=make.int8, verdict=Verdict.FAILED, reason="parity")
    wished.ingest([make.report(make.transition(variant=make.fp32, tried=(late,)))], 1)
    chain = ("ort/cuda/fp16", make.int8, "tflite/gpu/fp16", make.fp32)
    wish = Wish(
        chains={"local": {"digits": chain, "other": chain}},
        tried={"local": {"digits": (unbuilt, lacking), "other": (unbuilt, lacking)}},
        refused={"local": {"other": "nothing left"}},
    )
    request = ApplyRequest(manifest=make.manifest(), files={})
    plan = Application(request=request, request_digest="", wish=wish).model_dump(mode="json")
    revision = wished.create_revision(make.manifest(), plan, at_ns=2, changed=True)
    record = wished.revision(revision)
    assert record is not None
    rows, _ = revision_rows(wished, record)
    assert [row.tried for row in rows] == [(lacking, late, unbuilt), (lacking, unbuilt)]


def test_rows_can_be_narrowed_to_devices_and_models(wished: Store) -> None:
    assert wished.device_rows(devices=["other"]) == ()
    assert wished.device_rows(models=["other"]) == ()
    assert len(wished.device_rows(devices=["local"], models=["digits"])) == 1


def test_a_device_comes_with_its_models_and_generations(wished: Store, make: Any) -> None:
    wished.presence(make.presence(generation=1), 9)
    wished.ingest([make.report(make.said()), make.report(make.transition(), 2)], 1)
    (device,) = wished.devices()
    assert (device.desired_generation, device.reported_generation, device.last_seen_ns) == (1, 1, 9)
    assert device.profile == make.profile()
    assert [row.state for row in device.models] == [DeviceState.ACTIVE]
    assert wished.device("local") == device
