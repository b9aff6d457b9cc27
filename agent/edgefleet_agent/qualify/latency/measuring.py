"""Measuring: samples until the percentile asked for is known well enough, or the time is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edgefleet_agent.qualify.latency.clocks import Clocks
from edgefleet_agent.qualify.latency.contention import MAX_PREEMPTED
from edgefleet_agent.qualify.latency.early_stopping import needed_queries
from edgefleet_agent.qualify.latency.loop import RECOVERY_NS, Call, Samples, take, take_scheduled
from edgefleet_agent.qualify.latency.scenario import Schedule
from edgefleet_agent.qualify.latency.stats import Nanoseconds, quantile_interval
from edgefleet_agent.qualify.latency.steady import BLOCK_N
from edgefleet_agent.qualify.latency.wander import level_of
from edgefleet_contract.evidence import StopReason
from edgefleet_contract.job import LatencyBudget

NARROW_SHARE = 0.05
"""The run may end when the 95 % interval of the percentile asked for is this narrow, relative to its upper end."""
CHECK_GROWTH = 1.3
"""Between looks at the interval the run grows by this factor, so looking costs little and never biases much."""
OVERTIME = 4
"""The run goes on past its time to reach its smallest n, and never past this many times its time."""
WANDER_TIME = 3
"""So many times its time a run may take to average a level that goes to and fro: as long as three tries would take."""
LOOK_NS = 1_000_000_000
"""A chip's temperature moves within seconds."""
LOOK_COST = 50
"""A look that takes long is taken less often: 2 % of the time at most."""
_NS_PER_S = 1_000_000_000
_NEVER_NS = 2**63 - 1


class Looks:
    """Looks at something now and then, between samples.

    Args:
        look: looks once; None: there is nothing to look at.
        now_ns: a monotonic clock.
    """

    def __init__(self, look: Callable[[], object] | None, now_ns: Callable[[], int]) -> None:
        self._look, self._now_ns = look, now_ns
        self.due_ns = _NEVER_NS if look is None else now_ns()

    def if_due(self) -> None:
        """Look, where the last time was long enough ago."""
        began_ns = self._now_ns()
        if self._look is None or began_ns < self.due_ns:
            return
        self._look()
        ended_ns = self._now_ns()
        self.due_ns = ended_ns + max(LOOK_NS, LOOK_COST * (ended_ns - began_ns))


@dataclass
class Measuring:
    """One run under way.

    Attributes:
        call: one query.
        budget: how long and how many.
        planned: when queries arrive; None where each follows the last.
        typical_ns: what a query takes, from warm-up.
        clocks: time and the kernel's accounts.
        looks: what to look at between samples.
        samples: what was recorded.
        paused_ns: how long the harness paused between samples.
    """

    call: Call
    budget: LatencyBudget
    planned: Schedule | None
    typical_ns: int
    clocks: Clocks
    looks: Looks
    samples: Samples = field(default_factory=Samples)
    paused_ns: int = 0
    _arrivals_ns: Nanoseconds | None = field(default=None, init=False)

    def run(self) -> StopReason:
        """Fill `samples`; return why there are no more."""
        budget, samples = self.budget, self.samples
        began_ns = ended_ns = self.clocks.now_ns()
        usual_ns = int(budget.max_duration_s * _NS_PER_S)
        max_n = max(budget.min_n, budget.max_n)
        if self.planned is not None:
            self._arrivals_ns = self.planned.arrivals_ns + began_ns
            max_n = len(self.planned.arrivals_ns)
        # The smallest n may take overtime; what comes after it may only where the level goes to and fro.
        ended_ns = self._go_on(min(budget.min_n, max_n), began_ns + OVERTIME * usual_ns)
        while samples.n < max_n:
            spent_ns = ended_ns - began_ns
            if spent_ns >= budget.min_duration_s * _NS_PER_S and seen_enough(samples, budget.percentile):
                return StopReason.INTERVAL
            allowed_ns = usual_ns * (WANDER_TIME if spent_ns >= usual_ns and self._wants_time() else 1)
            if spent_ns >= allowed_ns:
                break
            before_n = samples.n
            self._pause(ended_ns)
            ended_ns = self._go_on(min(max_n, int(before_n * CHECK_GROWTH) + BLOCK_N), began_ns + allowed_ns)
            if samples.n == before_n:
                break
        return StopReason.COUNT if samples.n >= max_n else StopReason.TIME

    def _wants_time(self) -> bool:
        # What comes by a schedule has been planned for the usual time.
        return self._arrivals_ns is None and wants_time(self.samples, self.budget.percentile)

    def _go_on(self, stop_n: int, deadline_ns: int) -> int:
        """Take samples until there are `stop_n`, or the deadline; return the clock at the end."""
        if self._arrivals_ns is not None:
            return take_scheduled(self.call, self.samples, self._arrivals_ns, stop_n, deadline_ns, self.clocks)
        while True:
            until_ns = min(deadline_ns, self.looks.due_ns)
            ended_ns = take(self.call, self.samples, stop_n, until_ns, self.clocks, typical_ns=self.typical_ns)
            if self.samples.n >= stop_n or ended_ns >= deadline_ns:
                return ended_ns
            self._pause(ended_ns)

    def _pause(self, since_ns: int) -> None:
        """Look around, where that is due, and infer without recording until caches are as warm as before."""
        self.looks.if_due()
        until_ns = self.clocks.now_ns() + RECOVERY_NS
        while True:
            self.call()
            now_ns = self.clocks.now_ns()
            if now_ns >= until_ns:
                break
        self.paused_ns += now_ns - since_ns
        if self._arrivals_ns is not None:
            # Nothing arrives while the harness computes: else its own pause would stand in the latencies.
            self._arrivals_ns[self.samples.n :] += now_ns - since_ns


def seen_enough(samples: Samples, asked: float) -> bool:
    """Tell whether the percentile asked for is known well enough, of a level that lasts.

    On a contended machine more samples do not narrow the disturbed tail, so there the undisturbed one decides.
    """
    if samples.n < needed_queries(asked):
        return False
    kept = ~samples.disturbed
    undisturbed_ns = samples.wall_ns[kept]
    if not level_of(samples.service_ns[kept]).lasts:
        return False
    contended = samples.preempted_share > MAX_PREEMPTED
    return _is_narrow(samples.wall_ns, asked) or (contended and _is_narrow(undisturbed_ns, asked))


def wants_time(samples: Samples, asked: float) -> bool:
    """Tell whether a run that is over wants more time: its level goes to and fro, too slowly for an interval so far."""
    level = level_of(samples.service_ns[~samples.disturbed])
    return level.wants_time and not (level.lasts and quantile_interval(samples.wall_ns, asked)[1] is not None)


def _is_narrow(samples: Nanoseconds, asked: float) -> bool:
    if len(samples) == 0:
        return False
    _, interval_ns = quantile_interval(samples, asked)
    return interval_ns is not None and interval_ns[1] - interval_ns[0] <= NARROW_SHARE * interval_ns[1]
