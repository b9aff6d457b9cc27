"""Which samples are golden and which calibrate."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_controller.compile.ingest import split


@given(st.integers(1, 3000), st.booleans())
def test_golden_and_calibration_share_samples_only_when_they_say_so(n: int, given_elsewhere: bool) -> None:
    chosen = split.choose(n, None, golden_limit=1024, calibration_limit=128, calibration_given=given_elsewhere)
    common = set(chosen.golden.tolist()) & set(chosen.calibration.tolist())
    assert bool(common) == chosen.overlaps
    assert 1 <= len(chosen.golden) <= 1024
    assert len(chosen.calibration) <= 128
    assert len(set(chosen.golden.tolist())) == len(chosen.golden)
    assert chosen.overlaps == (n < split.MIN_APART_N and not given_elsewhere)


def test_calibration_comes_from_what_golden_leaves_over() -> None:
    chosen = split.choose(2000, None, golden_limit=1024, calibration_limit=500, calibration_given=False)
    assert (len(chosen.golden), len(chosen.calibration)) == (1024, 128)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=300), st.integers(1, 300))
def test_every_prefix_holds_the_classes_as_evenly_as_they_come(labels: list[int], limit: int) -> None:
    array = np.array(labels)
    order = split.balanced_order(len(array), array)
    assert sorted(order.tolist()) == list(range(len(array)))
    taken = array[order[:limit]]
    for label in set(labels):
        share = np.count_nonzero(taken == label)
        most = max(np.count_nonzero(taken == other) for other in set(labels))
        assert share >= min(np.count_nonzero(array == label), most - 1)


def test_the_order_is_the_same_every_time() -> None:
    np.testing.assert_array_equal(split.balanced_order(50, None), split.balanced_order(50, None))


def test_golden_samples_are_bounded_by_number_and_by_bytes_in_and_out() -> None:
    assert split.golden_limit_n(784, 40) == 1024
    assert split.golden_limit_n(1024**2, 40) == 16
    assert split.golden_limit_n(784, 32 * 1024**2) == 2
    assert split.golden_limit_n(10**9, 10**9) == 1
