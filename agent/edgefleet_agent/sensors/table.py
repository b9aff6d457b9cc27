"""A probed profile's sensors as rows of a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from edgefleet_contract.profile import ProbedProfile, RailReading, ThrottleFlag, TotalReading

Row = tuple[str, object]


def sensor_rows(profile: ProbedProfile) -> Iterator[Row]:
    """Yield (name, words) of each rail, the total, each temperature and each throttle flag."""
    for rail in profile.rails:
        yield f"rail {rail.name}", _rail(rail)
    yield "total", _total(profile.total)
    for zone in profile.temperatures:
        yield f"zone {zone.name}", zone.reason if zone.celsius is None else f"{zone.celsius:.1f} °C"
    for flag in profile.throttle:
        yield f"throttle {flag.name}", _flag(flag)
    for note in profile.notes:
        yield "note", note


def _rail(rail: RailReading) -> str:
    figure = _figure(rail.watts, rail.joules) or rail.reason or "no figure"
    inside = f"; contains {', '.join(rail.includes)}" if rail.includes else ""
    return f"{figure}, {rail.kind.value}, feeds {rail.scope}{inside}"


def _total(total: TotalReading) -> str:
    figure = _figure(total.watts, total.joules) or ""
    words = (f"{total.status} {figure}".strip(), total.reason, total.rails and " + ".join(total.rails))
    return "; ".join(str(word) for word in words if word)


def _figure(watts: float | None, joules: float | None) -> str | None:
    if watts is not None:
        return f"{watts:.4g} W"
    return None if joules is None else f"{joules:.6g} J counted"


def _flag(flag: ThrottleFlag) -> str:
    words = []
    if flag.active is not None:
        words.append("now" if flag.active else "not now")
    if flag.since_boot is not None:
        words.append("since boot" if flag.since_boot else "not since boot")
    if flag.events_n is not None:
        words.append(f"{flag.events_n} events")
    return ", ".join(words)
