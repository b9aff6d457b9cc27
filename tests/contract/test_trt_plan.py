"""Plan headers: what is read, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_contract.trt_plan import HEADER_BYTES, PlanHeaderError, read_header

RTX_HEADER = bytes.fromhex("76747274000000000200000000000000ac0306000000000001070174")
"""The first 28 bytes of a plan that TensorRT-RTX 1.7.1.116 wrote."""


def test_the_header_of_a_real_plan_names_its_library() -> None:
    header = read_header(RTX_HEADER + b"rest")
    assert (header.runtime, header.version) == ("tensorrt-rtx", "1.7.1.116")


@pytest.mark.parametrize(
    ("version", "same"),
    [("1.7.1.116", True), ("1.7.1", True), ("1.7.1.115", False), ("1.8.1.116", False), ("", False), ("x", False)],
)
def test_a_plan_matches_the_very_version_that_wrote_it(version: str, same: bool) -> None:
    assert read_header(RTX_HEADER).matches(version) is same


def test_a_post_release_is_the_version_it_follows() -> None:
    plan = b"ftrt" + bytes(20) + bytes((10, 13, 3, 9))
    assert read_header(plan).runtime == "tensorrt"
    assert read_header(plan).matches("10.13.3.9.post1")


@given(st.binary(max_size=64).filter(lambda data: data[:4] not in {b"ftrt", b"vtrt"}))
def test_anything_else_is_no_plan(data: bytes) -> None:
    with pytest.raises(PlanHeaderError):
        read_header(data)


@given(st.binary(max_size=HEADER_BYTES - 5))
def test_a_plan_cut_inside_its_header_is_no_plan(data: bytes) -> None:
    with pytest.raises(PlanHeaderError, match="bytes"):
        read_header(b"vtrt" + data)
