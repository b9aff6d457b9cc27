"""Reads every rail once and puts it as the records of the contract."""

from __future__ import annotations

import math

from edgefleet_agent.sensors.files import SensorFileError
from edgefleet_agent.sensors.probe import Sensors
from edgefleet_agent.sensors.rails import NEVER_RUN, Rail, Total
from edgefleet_agent.sensors.reader import RailReader
from edgefleet_contract.base import clip_reason
from edgefleet_contract.profile import RailKind, RailReading, TotalReading

Values = dict[str, "float | str"]
"""Value of each rail by name, or why it has none."""


def read_rails(sensors: Sensors) -> tuple[tuple[RailReading, ...], TotalReading]:
    """Return every rail's reading and the total's, from one reading of each rail."""
    values = {rail.name: _value(rail) for rail in sensors.rails}
    added = {rail.name for rail in sensors.total.rails}
    readings = tuple(_reading(rail, values[rail.name], in_total=rail.name in added) for rail in sensors.rails)
    return readings, _total(sensors.total, values)


def _value(rail: Rail) -> float | str:
    if rail.problem:
        return rail.problem
    try:
        with RailReader([rail]) as reader:
            return reader.values(reader.read())[0]
    except SensorFileError as error:
        return str(error)


def _reading(rail: Rail, value: float | str, *, in_total: bool) -> RailReading:
    figure = value if isinstance(value, float) else None
    counts = rail.kind is RailKind.COUNTER
    return RailReading(
        name=rail.name,
        scope=rail.scope,
        kind=rail.kind,
        watts=None if counts else figure,
        joules=figure if counts else None,
        includes=rail.includes,
        feeds=rail.feeds,
        sensor=rail.sensor[:128],
        in_total=in_total,
        window_s=rail.window_s,
        reason=clip_reason(value) if isinstance(value, str) else rail.inferred,
        proven_on=NEVER_RUN,
    )


def _total(total: Total, values: Values) -> TotalReading:
    if not total.rails:
        return TotalReading(status="none", reason=clip_reason(total.reason or "no power sensor on this device"))
    watts, joules, problem = _sums(total, values)
    if problem and not (watts or joules or total.kind == "mixed"):
        return TotalReading(status="none", reason=problem)
    return TotalReading.model_validate(
        {
            "status": "modelled" if total.modelled else "available",
            "rails": [rail.name for rail in total.rails],
            "scope": total.scope,
            "kind": total.kind,
            "watts": watts,
            "joules": joules,
            "rule": clip_reason(total.rule),
            "leaves_out": total.leaves_out,
            "reason": problem or total.reason,
        }
    )


def _sums(total: Total, values: Values) -> tuple[float | None, float | None, str | None]:
    """Return (watts, joules, why there is no figure). Watts and counted joules are not added to each other."""
    taken = [(rail, values[rail.name]) for rail in total.rails]
    for rail, value in taken:
        if isinstance(value, str):
            return None, None, clip_reason(f"{rail.name}: {value}")
    powers = [value for rail, value in taken if rail.kind is not RailKind.COUNTER and isinstance(value, float)]
    counts = [value for rail, value in taken if rail.kind is RailKind.COUNTER and isinstance(value, float)]
    if powers and counts:
        return None, None, "counters and power rails add up only over time: two readings of the counters are needed"
    return (round(math.fsum(powers), 9) if powers else None, round(math.fsum(counts), 9) if counts else None, None)
