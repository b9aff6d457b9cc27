from __future__ import annotations

import pytest

from edgefleet_contract.artifact import ArtifactDocument, ArtifactFile, FileRole, IoContract, TensorSpec
from edgefleet_contract.desired import Candidate, DesiredModel, DesiredState
from edgefleet_controller.deliveries import Deliveries, Moved

SAMPLES = "sha256:" + "5" * 64
NUMBERS = {"ort/cpu/int8": "1", "ort/cpu/fp32": "2"}


def digest(variant: str, what: str) -> str:
    return "sha256:" + NUMBERS[variant] * 63 + what


def document(variant: str) -> ArtifactDocument:
    """A document of a model file of 100 bytes and shared samples of 50 bytes."""
    tensor = TensorSpec(name="x", dtype="float32", shape=(1,))
    files = (
        ArtifactFile(name="model.onnx", role=FileRole.MODEL, size_bytes=100, digest=digest(variant, "a")),
        ArtifactFile(name="samples.npz", role=FileRole.SAMPLES, size_bytes=50, digest=SAMPLES),
    )
    return ArtifactDocument(
        model="digits",
        variant=variant,
        source=SAMPLES,
        io=IoContract(inputs=(tensor,), outputs=(tensor,)),
        files=files,
        build_key=SAMPLES,
    )


def desired(device: str, *variants: str) -> DesiredState:
    chain = tuple(
        Candidate(variant=variant, artifact=digest(variant, "d"), document_bytes=10, total_bytes=150)
        for variant in variants
    )
    model = DesiredModel(model="digits", release=SAMPLES, chain=chain)
    return DesiredState(site="lab", device=device, generation=1, revision=1, issued_at_ns=0, models=(model,))


@pytest.fixture
def deliveries() -> Deliveries:
    documents = {digest(variant, "d"): document(variant) for variant in NUMBERS}
    made = Deliveries(documents.get)
    for device in ("one", "two"):
        made.expect(desired(device, *NUMBERS))
    return made


def done(moved: Moved | None) -> tuple[str, int, int] | None:
    return None if moved is None else (moved.variant, moved.done_bytes, moved.total_bytes)


def test_bytes_are_told_as_a_part_of_the_artifact_they_belong_to(deliveries: Deliveries) -> None:
    assert deliveries.sent("one", digest("ort/cpu/int8", "d"), 10) == Moved("digits", "ort/cpu/int8", "one", 10, 160)
    assert done(deliveries.sent("one", digest("ort/cpu/int8", "a"), 64)) == ("ort/cpu/int8", 74, 160)
    assert done(deliveries.sent("one", digest("ort/cpu/int8", "a"), 100)) == ("ort/cpu/int8", 110, 160)
    assert done(deliveries.sent("one", SAMPLES, 50)) == ("ort/cpu/int8", 160, 160)


def test_what_is_sent_again_counts_once(deliveries: Deliveries) -> None:
    for end_bytes in (100, 40, 100):
        moved = deliveries.sent("one", digest("ort/cpu/int8", "a"), end_bytes)
        assert done(moved) == ("ort/cpu/int8", 100, 160)


def test_a_shared_blob_counts_for_the_artifact_that_is_fetched_now_and_is_there_for_the_next(
    deliveries: Deliveries,
) -> None:
    deliveries.sent("one", digest("ort/cpu/fp32", "d"), 10)
    assert done(deliveries.sent("one", SAMPLES, 50)) == ("ort/cpu/fp32", 60, 160)
    assert done(deliveries.sent("one", digest("ort/cpu/int8", "d"), 10)) == ("ort/cpu/int8", 60, 160)


def test_each_device_has_its_own_count(deliveries: Deliveries) -> None:
    deliveries.sent("one", SAMPLES, 50)
    assert done(deliveries.sent("two", digest("ort/cpu/int8", "d"), 10)) == ("ort/cpu/int8", 10, 160)


def test_a_device_that_held_the_rest_completes_the_count_when_it_has_the_artifact(deliveries: Deliveries) -> None:
    deliveries.sent("one", digest("ort/cpu/int8", "d"), 10)
    assert done(deliveries.arrived("one", "digits", "ort/cpu/int8")) == ("ort/cpu/int8", 160, 160)
    assert deliveries.arrived("one", "digits", "ort/cpu/int8") is None


def test_an_artifact_of_which_nothing_or_everything_was_sent_needs_no_completion(deliveries: Deliveries) -> None:
    assert deliveries.arrived("one", "digits", "ort/cpu/fp32") is None
    assert deliveries.arrived("nobody", "digits", "ort/cpu/fp32") is None
    for what, size_bytes in ((digest("ort/cpu/int8", "d"), 10), (digest("ort/cpu/int8", "a"), 100), (SAMPLES, 50)):
        deliveries.sent("one", what, size_bytes)
    assert deliveries.arrived("one", "digits", "ort/cpu/int8") is None


def test_bytes_nobody_was_told_to_fetch_are_not_told(deliveries: Deliveries) -> None:
    assert deliveries.sent("one", "sha256:" + "f" * 64, 10) is None
    assert deliveries.sent("nobody", SAMPLES, 10) is None
    deliveries.expect(desired("one", "ort/cpu/fp32"))
    assert deliveries.sent("one", digest("ort/cpu/int8", "a"), 10) is None


def test_an_artifact_whose_document_cannot_be_read_is_left_out() -> None:
    deliveries = Deliveries(lambda _: None)
    deliveries.expect(desired("one", "ort/cpu/int8"))
    assert deliveries.sent("one", SAMPLES, 10) is None


def test_what_a_device_no_longer_wants_is_forgotten(deliveries: Deliveries) -> None:
    fp32 = digest("ort/cpu/fp32", "a")
    assert deliveries.sent("one", fp32, 100) == Moved("digits", "ort/cpu/fp32", "one", 100, 160)
    deliveries.expect(desired("one", "ort/cpu/int8"))
    assert deliveries.sent("one", fp32, 100) is None
    deliveries.expect(desired("one", *NUMBERS))
    assert deliveries.sent("one", digest("ort/cpu/fp32", "d"), 10) == Moved("digits", "ort/cpu/fp32", "one", 10, 160)
