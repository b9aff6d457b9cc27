"""Tells a level that goes to and fro, and can be averaged, from one that does not last. Pure.

Neighbours on a shared machine move a latency's level by some percent every few hundred milliseconds. That is noise with
a long memory, and intervals at the effective sample size hold for it, once a run is long against that memory and its
parts are alike. The parts of a run with a trend, a step or a slow cycle are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgefleet_agent.qualify.latency.stats import Nanoseconds, block_medians, effective_n
from edgefleet_agent.qualify.latency.steady import BLOCK_N, MOST_BLOCKS, Trace, TraceKind, classify
from edgefleet_contract.evidence import Wander
from edgefleet_contract.units import format_share

MAX_DRIFT = 0.05
"""A lasting change of the median beyond this is no steady state; twice the noise of steady machines (2 %) and more."""
MAX_UPPER_DRIFT = 0.08
"""The same for the level that a tenth of the blocks exceed, which half a run tells less well."""
MAX_SPREAD = 0.25
"""A level that goes to and fro over more than this is no noise around one latency: clocks or neighbours double it."""
LEAST_LEVELS_N = 15
"""Independent levels from which on parts of a run are alike for a reason: one random walk in 30 shows as many without
drift, and no cycle of three periods (`python -m bench steady`)."""
_REACH = (0.025, 0.975)
_UPPER = 0.9
_LEAST_BLOCKS = 6


@dataclass(frozen=True)
class Level:
    """What the level of a run did.

    Attributes:
        trace: its kind.
        wander: how it went to and fro; None where one level lasted, or there is too little to tell.
    """

    trace: Trace
    wander: Wander | None = None

    @property
    def averages(self) -> bool:
        """Tell whether it went to and fro, but near enough, often enough and without drift."""
        seen = self.wander
        return self.trace.kind is TraceKind.UNSTEADY and seen is not None and _why_not(seen) is None

    @property
    def lasts(self) -> bool:
        """Tell whether figures of the run stand for the next one, as far as its level tells."""
        return self.trace.kind in {TraceKind.FLAT, TraceKind.SHORT} or self.averages

    @property
    def wants_time(self) -> bool:
        """Tell whether a longer run may show that it averages: what drifts now may be on its way back."""
        seen = self.wander
        return self.trace.kind is TraceKind.UNSTEADY and seen is not None and seen.spread_share <= MAX_SPREAD

    def change(self) -> str | None:
        """Return what it did, in words; None where it lasted."""
        if self.lasts:
            return None
        if self.trace.kind is TraceKind.UNSTEADY:
            why = _why_not(self.wander) if self.wander else None
            return f"no level lasted: {why or 'the median drifted, or went to and fro'}"
        rose = self.trace.kind is TraceKind.SLOW_DOWN
        share = _percent(abs(1.0 / (1.0 + self.trace.change_share) - 1.0))
        return f"the median {'rose' if rose else 'fell'} by {share} after {self.trace.steady_from_n} samples"


def level_of(samples: Nanoseconds) -> Level:
    """Return what the level of a series of latencies did.

    Args:
        samples: wall time of each inference in issue order, in nanoseconds.
    """
    trace = classify(samples, equivalent_share=MAX_DRIFT)
    if trace.kind in {TraceKind.FLAT, TraceKind.SHORT}:
        return Level(trace)
    return Level(trace, wander_of(samples))


def wander_of(samples: Nanoseconds) -> Wander | None:
    """Return how far, how often and whither the level went; None for fewer than 6 blocks."""
    medians = block_medians(samples, max(BLOCK_N, math.ceil(len(samples) / MOST_BLOCKS)))
    if len(medians) < _LEAST_BLOCKS or medians.min() <= 0.0:
        return None
    levels = np.log(medians)
    half, third = len(levels) // 2, len(levels) // 3
    first, last = levels[:half], levels[-half:]
    drifts = (np.median(last) - np.median(first), np.median(levels[-third:]) - np.median(levels[:third]))
    low, high = np.quantile(levels, _REACH)
    return Wander(
        spread_share=math.expm1(float(high - low)),
        drift_share=math.expm1(float(max(drifts, key=abs))),
        upper_drift_share=math.expm1(float(np.quantile(last, _UPPER) - np.quantile(first, _UPPER))),
        levels_n=effective_n(levels > np.median(levels)),
    )


def to_and_fro(seen: Wander) -> str:
    """Return how a level that averages went, in words."""
    return f"the level went to and fro by {_percent(seen.spread_share)}"


def _percent(share: float) -> str:
    """Return a share to two digits: more are not known of it."""
    return format_share(float(f"{share:.2g}"))


def _why_not(seen: Wander) -> str | None:
    """Return why a level that moved does not average, in words; None where it does."""
    if seen.spread_share > MAX_SPREAD:
        return f"it went to and fro by {_percent(seen.spread_share)}"
    if abs(seen.drift_share) > MAX_DRIFT:
        return f"it drifted by {_percent(abs(seen.drift_share))}"
    if abs(seen.upper_drift_share) > MAX_UPPER_DRIFT:
        became = "slower" if seen.upper_drift_share > 0 else "faster"
        return f"slow stretches became {_percent(abs(seen.upper_drift_share))} {became}"
    if seen.levels_n < LEAST_LEVELS_N:
        return f"it went to and fro by {_percent(seen.spread_share)}, too slowly to average in this run"
    return None
