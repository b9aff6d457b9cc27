"""Scenarios on a scripted clock: who sees a stall, and what counts as latency."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgefleet_agent.qualify.latency import measuring as latency_measuring
from edgefleet_agent.qualify.latency.clocks import Clocks, CpuAccounts
from edgefleet_agent.qualify.latency.run import Start, measure_latency
from edgefleet_agent.qualify.latency.scenario import budget_for, poisson_arrivals_ns, samples_per_query, schedule
from edgefleet_contract.accept import LatencyAccept, Scenario
from edgefleet_contract.evidence import LatencyResult, LatencyVerdict
from edgefleet_contract.job import LatencyBudget

MS = 1_000_000
START = Start(load_ns=0, first_ns=0)
BUDGET = LatencyBudget(min_n=500, max_n=20_000, min_duration_s=60.0, max_duration_s=120.0, percentile=0.99)


class Stalling:
    """A device that takes 10 ms an inference, and stands still for 300 ms every 5 s."""

    def __init__(self, stall_ns: int = 300 * MS, cost_ns: Callable[[int], int] = lambda _: 10 * MS) -> None:
        self.now_ns = 0
        self.calls_n = 0
        self.switches_n = 0
        self.delay_ns = 0
        self._stall_ns, self._cost_ns = stall_ns, cost_ns
        self._next_stall_ns = 5_000 * MS

    def infer(self) -> None:
        self.now_ns += self._cost_ns(self.calls_n)
        self.calls_n += 1
        if self.now_ns >= self._next_stall_ns:
            self.now_ns += self._stall_ns
            self._next_stall_ns += 5_000 * MS

    def wait_until(self, due_ns: int) -> None:
        self.now_ns = max(self.now_ns, due_ns)

    def measure(self, **changed: object) -> LatencyResult:
        clocks = Clocks(
            lambda: self.now_ns, lambda: self.switches_n, CpuAccounts, lambda: self.delay_ns, self.wait_until
        )
        budget = BUDGET.model_copy(update=changed)
        return measure_latency(self.infer, budget, start=START, spinning=False, clocks=clocks)


def test_a_stall_of_300_ms_every_5_s_shows_in_the_servers_p99_and_is_hidden_from_a_closed_loop() -> None:
    closed = Stalling().measure()
    server = Stalling().measure(scenario=Scenario.SERVER, rate_hz=50.0)
    assert closed.p99_ms == 10.0
    assert server.p99_ms > 200.0
    assert server.service is not None
    assert server.service.p99_ms == 10.0
    assert (server.rate_hz, server.seed, closed.rate_hz) == (50.0, 0, None)


def test_queueing_delay_is_latency_under_server_and_not_under_single_stream() -> None:
    result = Stalling(stall_ns=0).measure(scenario=Scenario.SERVER, rate_hz=80.0)
    # M/D/1 at 80 %: the mean wait is rho / (2 (1 - rho)) of a service, here 20 ms.
    assert result.mean_ms == pytest.approx(30.0, rel=0.25)
    assert result.throughput_hz == pytest.approx(80.0, rel=0.1)


def test_arrivals_are_poisson_seeded_and_the_same_every_time() -> None:
    arrivals_ns = poisson_arrivals_ns(100.0, 50_000, 7)
    gaps_ns = np.diff(arrivals_ns)
    assert gaps_ns.mean() == pytest.approx(10 * MS, rel=0.02)
    assert gaps_ns.std() == pytest.approx(10 * MS, rel=0.03)
    assert abs(np.corrcoef(gaps_ns[1:], gaps_ns[:-1])[0, 1]) < 0.02
    assert np.array_equal(arrivals_ns, poisson_arrivals_ns(100.0, 50_000, 7))
    assert not np.array_equal(arrivals_ns, poisson_arrivals_ns(100.0, 50_000, 8))


def test_without_a_rate_the_load_is_a_share_of_what_single_stream_reaches() -> None:
    result = Stalling(stall_ns=0).measure(scenario=Scenario.SERVER, load_share=0.25)
    assert result.rate_hz == pytest.approx(25.0)


def test_fixed_rate_has_even_gaps_and_counts_from_the_scheduled_arrival() -> None:
    result = Stalling().measure(scenario=Scenario.FIXED_RATE, rate_hz=40.0)
    assert (result.p50_ms, result.seed) == (10.0, None)
    assert result.p99_ms > 150.0  # 12 frames wait for each stall


def test_a_device_that_cannot_keep_up_is_unsteady_and_told_so() -> None:
    result = Stalling(stall_ns=0).measure(scenario=Scenario.FIXED_RATE, rate_hz=110.0)
    assert result.verdict is LatencyVerdict.UNSTEADY
    assert result.reason is not None
    assert "cannot keep up with 110 queries a second" in result.reason


def test_single_and_fixed_scenarios_have_one_sample_a_query_and_the_others_several() -> None:
    def samples_n(scenario: Scenario, said: int | None = None) -> int:
        return samples_per_query(LatencyBudget(scenario=scenario, samples_per_query=said))

    assert [samples_n(scenario, 4) for scenario in Scenario] == [1, 4, 1, 4, 1]
    assert (samples_n(Scenario.MULTI_STREAM), samples_n(Scenario.OFFLINE)) == (8, 32)


def test_a_manifest_that_limits_p99_under_server_asks_for_just_that() -> None:
    accept = LatencyAccept(p50_ms=5.0, p99_ms=50.0, scenario=Scenario.SERVER, rate_hz=20.0)
    budget = budget_for(accept, LatencyBudget())
    assert (budget.percentile, budget.scenario, budget.rate_hz) == (0.99, Scenario.SERVER, 20.0)
    assert budget_for(LatencyAccept(), LatencyBudget()) == LatencyBudget()


def test_only_scheduled_scenarios_have_a_schedule_and_it_is_bounded() -> None:
    assert schedule(LatencyBudget(scenario=Scenario.OFFLINE), 1e6) is None
    planned = schedule(LatencyBudget(scenario=Scenario.SERVER, rate_hz=1e6, max_n=1000), 1e6)
    assert planned is not None
    assert len(planned.arrivals_ns) == 1000


def test_queries_behind_a_preempted_one_are_disturbed_as_well() -> None:
    from edgefleet_agent.qualify.latency.loop import Samples

    late_ns = np.array([0, 0, 5 * MS, 3 * MS, 0, 0])
    due_ns = np.array([0, 20, 25, 37, 51, 100]) * MS
    samples = Samples(late_ns + 10 * MS, late_ns, np.array([False, True, False, False, False, False]), due_ns)
    # The fifth begins 1 ms after the fourth has ended, which itself was not preempted: its caches are warm.
    assert samples.disturbed.tolist() == [False, True, True, True, False, False]
    assert set(samples.service_ns.tolist()) == {10 * MS}


class WokenLate(Stalling):
    """A device that is woken 1 ms late now and then, because something else has the CPU; and preempted while idle."""

    def wait_until(self, due_ns: int) -> None:
        late = self.calls_n % 10 == 0 and self.now_ns < due_ns - MS
        self.switches_n += self.now_ns < due_ns - MS
        self.now_ns = max(self.now_ns, due_ns + MS * late)
        self.delay_ns += MS * late


def test_a_start_that_waits_for_the_cpu_is_disturbed_and_a_switch_while_idle_is_not() -> None:
    result = WokenLate(stall_ns=0).measure(scenario=Scenario.FIXED_RATE, rate_hz=20.0)
    assert result.preempted_n == pytest.approx(result.n / 10, abs=3)
    assert result.p99_ms == pytest.approx(11.0, abs=0.01)
    assert result.undisturbed is not None
    assert result.undisturbed.p99_ms == 10.0


def test_the_harness_own_pauses_stand_in_no_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Stalling(stall_ns=0)

    def slowly(samples: object, asked: float) -> bool:
        device.now_ns += 2_000 * MS
        return False

    monkeypatch.setattr(latency_measuring, "seen_enough", slowly)
    result = device.measure(scenario=Scenario.FIXED_RATE, rate_hz=40.0, min_duration_s=1.0)
    assert result.n > 1000
    assert result.max_ms == 10.0
    assert result.throughput_hz == pytest.approx(40.0, rel=0.01)
