"""Order statistics: ranks, effective sample size, and whether intervals cover what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.special import betainc
from scipy.stats import beta, norm, t

from edgefleet_agent.qualify.latency.stats import (
    block_medians,
    effective_n,
    interval_ranks,
    mean_interval,
    nearest_rank,
    percentiles,
    quantile_interval,
)
from edgefleet_agent.qualify.latency.stats_beta import beta_cdf, student_975


@pytest.mark.parametrize(("quantile", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (0.001, 1), (1.0, 100)])
def test_nearest_rank_is_the_smallest_value_with_that_share_at_or_below(quantile: float, expected: int) -> None:
    assert nearest_rank(list(range(1, 101)), quantile) == expected


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_nearest_rank_always_returns_a_value_that_was_measured(values: list[int], quantile: float) -> None:
    ordered = sorted(values)
    got = nearest_rank(ordered, quantile)
    assert got in values
    assert sum(value <= got for value in values) >= quantile * len(values) - 1e-9


@pytest.mark.parametrize(("n", "exists"), [(367, False), (368, True)])
def test_the_interval_of_p99_exists_from_368_samples_on(n: int, exists: bool) -> None:
    assert (interval_ranks(n, 0.99) is not None) is exists


@pytest.mark.parametrize(("n", "quantile"), [(60, 0.5), (400, 0.95), (1000.5, 0.99)])
def test_interval_ranks_leave_out_two_and_a_half_percent_on_each_side(n: float, quantile: float) -> None:
    ranks = interval_ranks(n, quantile)
    assert ranks is not None
    # The k-th smallest of n is distributed as Beta(k, n - k + 1).
    assert [beta.cdf(quantile, rank, n - rank + 1) for rank in ranks] == pytest.approx([0.975, 0.025], abs=1e-4)


def test_interval_ranks_of_many_samples_follow_the_normal_distribution() -> None:
    n = 1_000_000
    ranks = interval_ranks(n, 0.95)
    assert ranks is not None
    reach = 1.959964 * math.sqrt(n * 0.95 * 0.05)
    assert ranks[0] == pytest.approx(0.95 * n - reach, abs=3)
    assert ranks[1] == pytest.approx(0.95 * n + reach, abs=3)


def test_independent_samples_count_in_full() -> None:
    indicator = np.random.default_rng(1).random(4000) < 0.05
    assert 0.8 * 4000 <= effective_n(indicator) <= 4000


def test_samples_that_come_in_bursts_count_for_less() -> None:
    bursts = np.repeat(np.random.default_rng(2).random(400) < 0.05, 10)
    assert effective_n(bursts) == pytest.approx(400, rel=0.5)


def test_a_series_without_exceedance_counts_in_full() -> None:
    assert effective_n(np.zeros(100, np.bool_)) == 100


def test_the_effective_size_is_never_above_the_real_one() -> None:
    alternating = np.tile([True, False], 500)
    assert effective_n(alternating) == 1000


def autoregressive(rng: np.random.Generator, n: int, rho: float) -> np.ndarray:
    noise = rng.normal(size=n) * math.sqrt(1 - rho**2)
    noise[0] = rng.normal()
    return np.asarray(np.exp(0.1 * lfilter([1], [1, -rho], noise)) * 1e6, np.int64)


@pytest.mark.parametrize(("rho", "quantile"), [(0.0, 0.5), (0.0, 0.99), (0.5, 0.95), (0.9, 0.5), (0.9, 0.95)])
def test_intervals_cover_the_true_quantile_also_of_correlated_samples(rho: float, quantile: float) -> None:
    """The full table is printed by `python -m bench intervals`; naive intervals cover 46 % at rho 0.9."""
    rng = np.random.default_rng(7)
    true = math.exp(0.1 * norm.ppf(quantile)) * 1e6
    found = [quantile_interval(autoregressive(rng, 2000, rho), quantile)[1] for _ in range(250)]
    covered = [interval[0] <= true <= interval[1] for interval in found if interval is not None]
    assert len(covered) > 240
    # 95 % promised; three standard errors of 250 runs on top of the band of 0.93 to 0.97.
    assert 0.90 <= sum(covered) / len(covered) <= 1.0


def test_no_interval_is_better_than_one_from_too_few_independent_samples() -> None:
    """At rho 0.9, 2000 samples are worth 340 independent ones for p99: less than the 368 it takes."""
    rng = np.random.default_rng(7)
    found = [quantile_interval(autoregressive(rng, 2000, 0.9), 0.99)[1] for _ in range(60)]
    assert sum(interval is not None for interval in found) <= 2


@given(st.floats(0.001, 0.999), st.floats(0.5, 5000), st.floats(0.5, 5000))
def test_the_incomplete_beta_function_is_scipys(x: float, a: float, b: float) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(betainc(a, b, x), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("freedom", [3, 4, 10, 50, 1e6])
def test_students_t_is_scipys_within_one_percent(freedom: float) -> None:
    assert student_975(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=0.02)


def test_an_interval_that_does_not_exist_at_the_effective_size_is_none() -> None:
    found = percentiles(np.arange(1, 31, dtype=np.int64) * 1_000_000)
    assert found.ci95_p99_ms is None
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == (15.0, 29.0, 30.0)


def test_percentiles_of_one_sample_exist_without_intervals() -> None:
    found = percentiles(np.array([2_500_000]))
    assert (found.n, found.p50_ms, found.p99_ms, found.ci95_p50_ms) == (1, 2.5, 2.5, None)


def test_intervals_hold_their_percentile() -> None:
    found = percentiles(np.random.default_rng(3).integers(1_000_000, 2_000_000, 5000))
    for value, interval in (
        (found.p50_ms, found.ci95_p50_ms),
        (found.p95_ms, found.ci95_p95_ms),
        (found.p99_ms, found.ci95_p99_ms),
    ):
        assert interval is not None
        assert interval[0] <= value <= interval[1]


def test_block_medians_leave_out_the_unfinished_block() -> None:
    assert block_medians(np.arange(45), 20).tolist() == [9.5, 29.5]


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_intervals_cover_the_true_mean_also_of_correlated_samples(rho: float) -> None:
    rng = np.random.default_rng(11)
    true = math.exp(0.005) * 1e6  # of the log-normal distribution with sigma 0.1
    intervals = [mean_interval(autoregressive(rng, 1000, rho))[1] for _ in range(200)]
    covered = [interval[0] <= true <= interval[1] for interval in intervals if interval is not None]
    assert len(covered) == 200
    assert 0.90 <= sum(covered) / 200 <= 0.99


def test_the_mean_of_too_few_samples_has_no_interval() -> None:
    assert mean_interval(np.arange(9)) == (4.0, None)
