"""Revisions, events, wishes and builds."""

from __future__ import annotations

from typing import Any

import pytest

from edgefleet_contract.artifact import ArtifactDocument, ArtifactFile, FileRole, IoContract, TensorSpec
from edgefleet_contract.base import digest_bytes
from edgefleet_contract.errors import InternalError
from edgefleet_contract.evidence import Verdict
from edgefleet_controller.api import Phase, RevisionStatus
from edgefleet_controller.compile.records import BuildRecord
from edgefleet_controller.store import Store
from edgefleet_controller.store import revisions as revisions_module


@pytest.fixture
def revision(store: Store, make: Any) -> int:
    return store.create_revision(make.manifest(), {"note": "plan"}, at_ns=5, changed=True)


def document() -> ArtifactDocument:
    tensor = TensorSpec(name="x", dtype="float32", shape=("batch", 3))
    blob = digest_bytes(b"model")
    return ArtifactDocument(
        model="digits",
        variant="ort/cpu/int8",
        source=blob,
        io=IoContract(inputs=(tensor,), outputs=(tensor,)),
        files=(ArtifactFile(name="model.onnx", role=FileRole.MODEL, size_bytes=5, digest=blob),),
        build_key=blob,
    )


def test_a_revision_is_kept_as_it_was_made(store: Store, revision: int, make: Any) -> None:
    record = store.revision(revision)
    assert record is not None
    assert (record.manifest, record.plan, record.phase) == (make.manifest(), {"note": "plan"}, Phase.PENDING)
    assert record == store.revision(None)
    assert store.revision(99) is None


def test_revisions_count_up_and_the_unfinished_ones_are_found_again(store: Store, revision: int, make: Any) -> None:
    second = store.create_revision(make.manifest(), {}, at_ns=6, changed=True)
    assert second == revision + 1
    store.set_phase(revision, Phase.FAILED, reason="refused", exit_code=3)
    assert [record.revision for record in store.unfinished_revisions()] == [second]
    first = store.revision(revision)
    assert first is not None
    assert (first.phase, first.reason, first.exit_code) == (Phase.FAILED, "refused", 3)


def test_a_reason_of_any_length_can_be_told(store: Store, revision: int) -> None:
    store.set_phase(revision, Phase.ERROR, reason="word " * 1000, exit_code=1)
    record = store.revision(revision)
    assert record is not None
    status = RevisionStatus(revision=revision, phase=record.phase, reason=record.reason)
    assert (status.reason or "").startswith("word word")


def test_the_phase_of_a_revision_that_is_not_there_is_a_bug(store: Store) -> None:
    with pytest.raises(InternalError, match="no revision 7"):
        store.set_phase(7, Phase.BUILDING)


def test_an_event_replaces_its_like_under_a_new_id(store: Store, revision: int) -> None:
    store.add_event(revision, "build", "digits", "1 of 2", at_ns=1, done=1.0, total=2.0, unit="steps")
    store.add_event(revision, "message", "m", "hello", at_ns=2)
    (seen, _) = store.events_after(revision, 0)
    store.add_event(revision, "build", "digits", "2 of 2", at_ns=3, done=2.0, total=2.0, unit="steps")
    events = store.events_after(revision, 0)
    assert [(event.key, event.text) for event in events] == [("m", "hello"), ("digits", "2 of 2")]
    assert [event.text for event in store.events_after(revision, events[0].id)] == ["2 of 2"]
    assert events[1].id > seen.id


def test_replacing_the_newest_event_still_gives_a_new_id(store: Store, revision: int) -> None:
    for text in ("one", "two"):
        store.add_event(revision, "build", "digits", text, at_ns=1)
    assert [event.id for event in store.events_after(revision, 1)] == [2]


def test_events_are_bounded_oldest_first(store: Store, revision: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions_module, "MAX_EVENTS", 5)
    for number in range(8):
        store.add_event(revision, "message", str(number), "text", at_ns=number)
    assert [event.key for event in store.events_after(revision, 0)] == ["3", "4", "5", "6", "7"]


def test_the_newest_wish_of_a_device_counts(wished: Store, make: Any) -> None:
    wished.put_desired(make.desired(generation=2, release=make.other_release))
    assert wished.desired("local") == make.desired(generation=2, release=make.other_release)
    assert wished.all_desired() == (make.desired(generation=2, release=make.other_release),)
    assert wished.desired("nobody") is None


def test_a_generation_not_above_the_newest_is_refused(wished: Store, make: Any) -> None:
    with pytest.raises(InternalError, match="generation 1 for local is not above 1"):
        wished.put_desired(make.desired(generation=1))


def test_wishes_plan_and_phase_come_together_or_not_at_all(wished: Store, make: Any) -> None:
    states = [make.desired(generation=2), make.desired(generation=2)]
    with pytest.raises(InternalError):
        wished.put_wishes(1, states, {"new": "plan"})
    record = wished.revision(1)
    assert record is not None
    assert (record.phase, record.plan) == (Phase.PENDING, {})
    wished.put_wishes(1, states[:1], {"new": "plan"})
    record = wished.revision(1)
    assert record is not None
    assert (record.phase, record.plan) == (Phase.ROLLING_OUT, {"new": "plan"})
    assert wished.all_desired() == (make.desired(generation=2),)


def test_a_wish_for_a_device_nobody_knows_is_a_bug(store: Store, revision: int, make: Any) -> None:
    with pytest.raises(InternalError, match="FOREIGN KEY"):
        store.put_desired(make.desired(revision=revision))


def test_a_build_is_found_again_and_the_newest_of_a_key_counts(store: Store) -> None:
    made = document()
    failed = BuildRecord(
        key=made.build_key, model="digits", variant="ort/cpu/int8", artifact=None,
        verdict=Verdict.BUILD_FAILED, reason="no", duration_s=1.5,
    )  # fmt: skip
    store.record_build(failed)
    assert store.find_build(made.build_key) == failed
    store.put_artifact(made, at_ns=1)
    store.put_artifact(made, at_ns=2)
    built = failed.model_copy(update={"artifact": made.digest, "verdict": Verdict.QUALIFIED, "reason": None})
    store.record_build(built)
    assert store.find_build(made.build_key) == built
    assert store.artifact(made.digest) == made


def test_what_was_never_built_is_none(store: Store) -> None:
    assert store.find_build(digest_bytes(b"")) is None
    assert store.artifact(digest_bytes(b"")) is None
