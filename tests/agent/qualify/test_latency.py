"""The latency loop on a scripted clock: no test waits, and every figure is known beforehand."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from edgefleet_agent.qualify.latency.clocks import (
    Clocks,
    CpuAccounts,
    read_accounts,
    real_clocks,
    run_delay_reader,
    wait_until,
)
from edgefleet_agent.qualify.latency.loop import Samples
from edgefleet_agent.qualify.latency.run import Start, is_steady, measure_latency
from edgefleet_contract.evidence import LatencyResult, LatencyVerdict, StopReason
from edgefleet_contract.job import LatencyBudget

MS = 1_000_000
START = Start(load_ns=7 * MS, first_ns=3 * MS)
BUDGET = LatencyBudget(min_n=400, max_n=2000, min_duration_s=0.1, max_duration_s=10.0, warmup_max_s=1.0)


class Machine:
    """A machine whose clock moves only when work is done on it.

    Args:
        cost_ns: what the n-th inference takes (n from 0), in nanoseconds.
        preempts: whether the n-th inference is preempted.
    """

    def __init__(self, cost_ns: Callable[[int], int], preempts: Callable[[int], bool] = lambda _: False) -> None:
        self._cost_ns, self._preempts = cost_ns, preempts
        self.now_ns = 0
        self.switches_n = 0
        self.delay_ns = 0
        self.calls_n = 0
        self.collected_while_timed = False
        self.accounts = CpuAccounts()

    def infer(self) -> None:
        self.now_ns += self._cost_ns(self.calls_n)
        self.switches_n += self._preempts(self.calls_n)
        self.calls_n += 1
        self.collected_while_timed |= gc.isenabled()

    def wait_until(self, due_ns: int) -> None:
        self.now_ns = max(self.now_ns, due_ns)

    def clocks(self) -> Clocks:
        return Clocks(
            lambda: self.now_ns, lambda: self.switches_n, lambda: self.accounts, lambda: self.delay_ns, self.wait_until
        )

    def measure(self, budget: LatencyBudget = BUDGET) -> LatencyResult:
        return measure_latency(self.infer, budget, start=START, spinning=False, clocks=self.clocks())


def jitter(n: int) -> int:
    return MS + (n * 7919 % 101) * 100  # 1 ms and up to 1 % more, without any pattern that lasts


def test_a_steady_machine_gives_valid_figures() -> None:
    result = Machine(jitter).measure()
    assert (result.verdict, result.reason) == (LatencyVerdict.VALID, None)
    assert result.p50_ms == pytest.approx(1.005, abs=0.001)
    assert (result.load_ms, result.first_ms, result.harness_floor_ms) == (7.0, 3.0, 0.0)
    assert result.min_ms <= result.p50_ms <= result.p95_ms <= result.p99_ms <= result.max_ms


def test_the_run_ends_as_soon_as_p95_is_known_well_enough() -> None:
    result = Machine(jitter).measure()
    assert result.n == BUDGET.min_n
    assert result.duration_s == pytest.approx(0.4, rel=0.05)


def test_the_run_lasts_at_least_its_smallest_duration() -> None:
    result = Machine(jitter).measure(BUDGET.model_copy(update={"min_duration_s": 0.8}))
    assert result.duration_s >= 0.8


def test_the_run_ends_at_its_largest_n() -> None:
    result = Machine(lambda n: MS // 10 * (1 + n % 50)).measure(BUDGET.model_copy(update={"max_n": 700}))
    assert result.n == 700


def test_a_slow_model_gets_overtime_to_reach_its_smallest_n() -> None:
    result = Machine(lambda _: 50 * MS).measure(BUDGET)
    assert (result.n, result.verdict) == (400, LatencyVerdict.VALID)
    assert 10.0 < result.duration_s <= 40.0


def test_overtime_ends_at_four_times_the_time_and_the_run_is_inconclusive() -> None:
    result = Machine(lambda _: 500 * MS).measure(BUDGET)
    assert (result.n, result.verdict) == (80, LatencyVerdict.INCONCLUSIVE)
    assert result.reason == "only 80 inferences within the time allowed"


def test_warm_up_goes_on_until_blocks_are_equivalent_and_is_left_out() -> None:
    result = Machine(lambda n: 10 * MS - n * 150_000 if n < 60 else MS).measure()
    assert result.warmup_n == 240
    assert result.warmed_up
    assert result.max_ms == 1.0


def test_warm_up_ends_with_its_time_on_a_machine_that_never_settles() -> None:
    result = Machine(lambda n: MS * (1 + n // 60 % 7)).measure()
    assert 0 < result.warmup_n < 1000
    assert result.warmed_up is False


def test_preempted_samples_are_tagged_and_left_out_of_the_undisturbed_figures() -> None:
    machine = Machine(lambda n: 9 * MS if n % 20 == 0 else jitter(n), lambda n: n % 20 == 0)
    result = machine.measure(BUDGET.model_copy(update={"min_n": 1000}))
    assert result.verdict is LatencyVerdict.CONTENDED
    assert result.undisturbed is not None
    assert (result.preempted_n, result.max_ms) == (result.n // 20, 9.0)
    # The samples that begin within 4 ms of a preempted one find cold caches, and do not count either.
    assert result.undisturbed.n == pytest.approx(result.n * 15 / 20, abs=5)
    assert result.undisturbed.p99_ms < 1.1


def test_where_the_cpu_goes_to_and_fro_less_time_to_recover_leaves_samples_to_judge_by() -> None:
    n = 1000
    preempted = np.arange(n) % 4 == 0
    samples = Samples(np.full(n, MS), np.zeros(n, np.int64), preempted)
    # Of each four samples of 1 ms one is preempted; 3 ms of recovery would leave none, 1 ms leaves two.
    assert np.count_nonzero(~samples.disturbed) == n // 2
    few = Samples(samples.wall_ns[:100], samples.late_ns[:100], preempted[:100])
    assert np.count_nonzero(~few.disturbed) == 75


def test_what_is_left_beside_a_hog_is_a_fair_share_and_not_the_few_that_were_left_alone_for_long() -> None:
    # Bursts of three samples of 1 ms between preemptions, and now and then one of eight.
    burst, long_burst = [True, False, False, False], [True] + 8 * [False]
    preempted = np.array((10 * burst + long_burst) * 200)
    samples = Samples(np.full(len(preempted), MS), np.zeros(len(preempted), np.int64), preempted)
    kept_n = np.count_nonzero(~samples.disturbed)
    # 3 ms of recovery would leave 5 in 38, of long bursts alone, and still a thousand; 2 ms leave 16 in 38.
    assert kept_n == pytest.approx(16 / 38 * np.count_nonzero(~preempted), rel=0.02)


def test_a_machine_that_heats_up_and_stays_slow_is_unsteady() -> None:
    result = Machine(lambda n: jitter(n) + n * 500).measure()
    assert result.verdict is LatencyVerdict.UNSTEADY


def test_steal_makes_a_run_contended() -> None:
    machine = Machine(jitter)
    readings = iter([CpuAccounts(), CpuAccounts(steal_ns=10_000 * MS)])
    clocks = Clocks(lambda: machine.now_ns, lambda: 0, lambda: next(readings))
    result = measure_latency(machine.infer, BUDGET, start=START, spinning=False, clocks=clocks)
    assert result.verdict is LatencyVerdict.CONTENDED


def test_no_garbage_is_collected_in_the_loop_and_collection_is_on_again_after() -> None:
    machine = Machine(jitter)
    machine.measure()
    assert not machine.collected_while_timed
    assert gc.isenabled()


def test_garbage_collection_is_on_again_after_an_inference_fails() -> None:
    machine = Machine(jitter)

    def fail() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        measure_latency(fail, BUDGET, start=START, spinning=False, clocks=machine.clocks())
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("samples", "steady"),
    [([100] * 100, True), ([150] * 100 + [100] * 80, False), ([150] * 100 + [100] * 120, True), ([100] * 59, False)],
)
def test_a_level_is_steady_once_it_has_held_for_100_samples(samples: list[int], steady: bool) -> None:
    assert is_steady(np.array(samples)) is steady


def test_a_wait_for_the_cpu_without_a_switch_is_a_disturbance_too() -> None:
    machine = Machine(jitter)
    infer = machine.infer

    def delayed() -> None:
        infer()
        machine.delay_ns += 500_000 if machine.calls_n % 25 == 0 else 500

    result = measure_latency(delayed, BUDGET, start=START, spinning=False, clocks=machine.clocks())
    assert result.preempted_n == pytest.approx(result.n / 25, abs=2)
    assert result.verdict is LatencyVerdict.CONTENDED


def test_a_run_asked_for_p99_goes_on_until_mlperf_would_believe_it() -> None:
    result = Machine(jitter).measure(BUDGET.model_copy(update={"percentile": 0.99}))
    assert result.n >= 662
    assert (result.asked, result.stopped_by) == (0.99, StopReason.INTERVAL)
    stated = {round(100 * said.percentile): said for said in result.early_stopping}
    assert stated[99].needed_n == 662
    assert stated[99].estimate_ms is not None
    assert result.p99_ms <= stated[99].estimate_ms <= result.max_ms


def test_a_percentile_without_an_interval_makes_the_run_inconclusive() -> None:
    result = Machine(jitter).measure(BUDGET.model_copy(update={"percentile": 0.999, "max_n": 500}))
    assert (result.verdict, result.stopped_by) == (LatencyVerdict.INCONCLUSIVE, StopReason.COUNT)
    assert result.reason is not None
    assert "too few" in result.reason


def test_the_histogram_holds_every_sample_within_its_resolution() -> None:
    result = Machine(lambda n: jitter(n) * (1 + n % 7)).measure()
    assert result.histogram is not None
    histogram = HdrHistogram.decode(result.histogram)
    assert histogram.get_total_count() == result.n
    assert histogram.get_value_at_percentile(50) / MS == pytest.approx(result.p50_ms, rel=0.002)
    assert histogram.get_max_value() / MS == pytest.approx(result.max_ms, rel=0.002)


def test_throughput_is_that_of_the_time_spent_inferring() -> None:
    result = Machine(jitter).measure()
    assert result.throughput_hz == pytest.approx(995, rel=0.01)
    assert result.ci95_throughput_hz is not None
    assert result.ci95_throughput_hz[0] <= 995.5
    assert result.ci95_throughput_hz[1] >= 994.5


def test_the_kernels_accounts_are_read_and_only_grow() -> None:
    before = read_accounts()
    sum(range(200_000))
    after = read_accounts()
    assert after.own_ns > before.own_ns > 0
    assert after.busy_ns >= before.busy_ns > 0


def test_accounts_the_kernel_does_not_tell_are_zero(tmp_path: Path) -> None:
    accounts = read_accounts(tmp_path)
    assert (accounts.steal_ns, accounts.busy_ns, accounts.run_delay_ns) == (0, 0, 0)


@pytest.mark.parametrize("threads", [1, 4])
def test_the_real_clocks_move_forward(threads: int) -> None:
    clocks = real_clocks(threads)
    assert clocks.now_ns() < clocks.now_ns() or clocks.now_ns() > 0
    assert clocks.switches() >= 0


def test_run_delay_is_read_of_this_thread_and_is_zero_where_the_kernel_does_not_tell(tmp_path: Path) -> None:
    read = run_delay_reader()
    assert 0 <= read() <= read()
    assert run_delay_reader(tmp_path)() == 0
    (tmp_path / "thread-self").mkdir()
    (tmp_path / "thread-self" / "schedstat").write_text("100 250 3\n")
    assert run_delay_reader(tmp_path)() == 250


def test_waiting_ends_at_the_time_and_not_before_and_what_has_passed_is_not_waited_for() -> None:
    now_ns = time.perf_counter_ns()
    wait_until(now_ns + 300_000)
    assert time.perf_counter_ns() >= now_ns + 300_000
    wait_until(now_ns)


@pytest.mark.parametrize(("period_n", "seconds"), [(100, 1.0), (450, 3.0)])
def test_a_run_whose_level_goes_to_and_fro_takes_more_time_only_where_its_time_is_too_short(
    period_n: int, seconds: float
) -> None:
    budget = BUDGET.model_copy(update={"max_duration_s": 1.0, "max_n": 100_000, "percentile": 0.5})
    result = Machine(lambda n: jitter(n) + n // period_n % 2 * MS // 12).measure(budget)
    assert result.duration_s == pytest.approx(seconds, rel=0.1)
    assert result.wander is not None
    assert result.wander.spread_share == pytest.approx(1 / 12, rel=0.2)


def test_a_wander_that_averages_is_valid_and_its_extent_is_told() -> None:
    budget = BUDGET.model_copy(update={"max_duration_s": 3.0, "max_n": 100_000, "percentile": 0.5})
    result = Machine(lambda n: jitter(n) + n // 60 % 2 * MS // 12).measure(budget)
    assert (result.verdict, result.reason) == (LatencyVerdict.VALID, "the level went to and fro by 8.4%")


def test_what_is_looked_at_is_looked_at_once_a_second_and_never_inside_of_a_sample() -> None:
    machine = Machine(jitter)
    looks_ns: list[int] = []

    def look() -> None:
        looks_ns.append(machine.now_ns)
        machine.now_ns += 5 * MS

    budget = BUDGET.model_copy(update={"min_n": 5000, "max_n": 5000})
    result = measure_latency(machine.infer, budget, start=START, spinning=False, clocks=machine.clocks(), look=look)
    assert 5 <= len(looks_ns) <= 7
    assert min(b - a for a, b in pairwise(looks_ns)) >= 1000 * MS
    assert result.max_ms < 1.02


def test_a_look_that_takes_long_is_taken_less_often() -> None:
    machine, looks_n = Machine(jitter), 0

    def look() -> None:
        nonlocal looks_n
        looks_n += 1
        machine.now_ns += 100 * MS

    budget = BUDGET.model_copy(update={"min_n": 10_000, "max_n": 10_000})
    measure_latency(machine.infer, budget, start=START, spinning=False, clocks=machine.clocks(), look=look)
    assert looks_n <= 3
