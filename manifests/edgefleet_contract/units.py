"""Quantities as people write them (`20 ms`, `200 MiB`, `50 mJ`, `10m`, `5%`) and as code carries them.

Each parser returns one fixed unit, which stands in the name of whatever holds the value. A bare number has no
unit and is refused, except for counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

_NUMBER = r"[0-9]{1,17}(?:\.[0-9]{1,25})?(?:[eE][+-]?[0-9]{1,3})?"
"""Wide enough for every float as Python writes it (17 digits; up to 21 after the point)."""
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([A-Za-zµ%]{{1,8}})\s*")

DURATION_S: Mapping[str, float] = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0,
}  # fmt: skip
DURATION_MS: Mapping[str, float] = {
    "ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "min": 6e4, "h": 3.6e6, "d": 8.64e7,
}  # fmt: skip
SIZE_BYTES: Mapping[str, float] = {
    "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3,
}  # fmt: skip
ENERGY_MJ: Mapping[str, float] = {"uJ": 1e-3, "µJ": 1e-3, "mJ": 1.0, "J": 1e3, "kJ": 1e6}
RATE_HZ: Mapping[str, float] = {"Hz": 1.0, "kHz": 1e3, "mHz": 1e-3}
SHARE: Mapping[str, float] = {"%": 0.01}
MAX_RATE_HZ = 1e6


def parse_quantity(value: object, units: Mapping[str, float], kind: str) -> float:
    """Return a quantity in the base unit of `units`.

    Args:
        value: text such as `20 ms`; anything else is refused.
        units: unit symbol → factor to the base unit.
        kind: what is asked for, for the message: `a duration`.

    Raises:
        ValueError: not text, no number, unknown unit, or not finite.
    """
    allowed = ", ".join(units)
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) and len(value) <= 64 else None
    if match is None:
        msg = f"not {kind}: write a number and a unit ({allowed}), for example {_example(units)!r}"
        raise ValueError(msg)
    number, unit = match.groups()
    if unit not in units:
        msg = f"unknown unit {unit!r} for {kind}; allowed: {allowed}"
        raise ValueError(msg)
    factor = units[unit]
    result = float(number) if factor == 1.0 else float(number) * factor
    if not math.isfinite(result):
        msg = f"{kind} is too large"
        raise ValueError(msg)
    return result


def _example(units: Mapping[str, float]) -> str:
    base = next((unit for unit, factor in units.items() if factor == 1.0), next(iter(units)))
    return f"20{base}" if base == "%" else f"20 {base}"


def parse_duration_s(value: object) -> float:
    """Return a duration such as `10m` in seconds. Raises ValueError as `parse_quantity`."""
    return parse_quantity(value, DURATION_S, "a duration")


def parse_duration_ms(value: object) -> float:
    """Return a duration such as `20 ms` in milliseconds. Raises ValueError as `parse_quantity`."""
    return parse_quantity(value, DURATION_MS, "a duration")


def parse_size_bytes(value: object) -> int:
    """Return a size such as `200 MiB` in whole bytes. Raises ValueError as `parse_quantity`."""
    size = parse_quantity(value, SIZE_BYTES, "a size")
    if size > 2**53 - 1:
        msg = "a size is too large; allowed: up to 2^53 - 1 bytes"
        raise ValueError(msg)
    return round(size)


def parse_energy_mj(value: object) -> float:
    """Return an energy such as `50 mJ` in millijoules. Raises ValueError as `parse_quantity`."""
    return parse_quantity(value, ENERGY_MJ, "an energy")


def parse_share(value: object) -> float:
    """Return a share such as `5%` or `0.05` as a fraction between 0 and 1.

    Raises:
        ValueError: neither a percentage nor a fraction, or outside 0 to 1.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        share = float(value)
    else:
        share = parse_quantity(value, SHARE, "a share")
    if not 0.0 <= share <= 1.0:
        msg = f"a share must lie between 0% and 100% (0 and 1), got {value!r}"
        raise ValueError(msg)
    return share


def parse_rate_hz(value: object) -> float:
    """Return a rate such as `20 Hz` in events per second.

    Raises:
        ValueError: as `parse_quantity`, or outside 0 (excluded) to 1 MHz.
    """
    rate_hz = parse_quantity(value, RATE_HZ, "a rate")
    if not 0.0 < rate_hz <= MAX_RATE_HZ:
        msg = f"a rate must lie above 0 Hz and at or below 1000 kHz, got {value!r}"
        raise ValueError(msg)
    return rate_hz


def parse_load_share(value: object) -> float:
    """Return a load such as `50%` as a fraction of what the device can do.

    Raises:
        ValueError: as `parse_share`, or outside 1 % to 99 %: at full load a queue grows without end.
    """
    share = parse_share(value)
    if not 0.01 <= share <= 0.99:
        msg = f"a load must lie between 1% and 99%, got {value!r}; at full load the queue grows without end"
        raise ValueError(msg)
    return share


def format_share(share: float) -> str:
    """Return a fraction as a percentage people read: `12.3%`."""
    return f"{100 * share:.4g}%"


def format_bytes(size_bytes: float) -> str:
    """Return a size in the largest binary unit that leaves at least 1: `17.8 MiB`."""
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{int(size_bytes)} B"


def format_ms(duration_ms: float) -> str:
    """Return a duration in µs, ms or s, with three significant digits."""
    if duration_ms < 1.0:
        return f"{1000 * duration_ms:.3g} µs"
    return f"{duration_ms:.3g} ms" if duration_ms < 1000 else f"{duration_ms / 1000:.3g} s"


def _schema(units: Mapping[str, float]) -> WithJsonSchema:
    pattern = rf"^\s*{_NUMBER}\s*({'|'.join(units)})\s*$"
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [_example(units)]})


DurationS = Annotated[
    float,
    BeforeValidator(parse_duration_s),
    PlainSerializer(lambda v: f"{v!r} s", return_type=str),
    _schema(DURATION_S),
]
"""A duration written with its unit (`10m`), carried in seconds."""

DurationMs = Annotated[
    float,
    BeforeValidator(parse_duration_ms),
    PlainSerializer(lambda v: f"{v!r} ms", return_type=str),
    _schema(DURATION_MS),
]
"""A duration written with its unit (`20 ms`), carried in milliseconds."""

SizeBytes = Annotated[
    int,
    BeforeValidator(parse_size_bytes),
    PlainSerializer(lambda v: f"{v} B", return_type=str),
    _schema(SIZE_BYTES),
]
"""A size written with its unit (`200 MiB`), carried in bytes."""

EnergyMj = Annotated[
    float,
    BeforeValidator(parse_energy_mj),
    PlainSerializer(lambda v: f"{v!r} mJ", return_type=str),
    _schema(ENERGY_MJ),
]
"""An energy written with its unit (`50 mJ`), carried in millijoules."""

ShareText = Annotated[
    float,
    BeforeValidator(parse_share),
    Field(ge=0.0, le=1.0),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1},
                {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*%\s*$"},
            ]
        }
    ),
]
"""A share written as `5%` or `0.05`, carried as a fraction."""

RateHzText = Annotated[
    float,
    BeforeValidator(parse_rate_hz),
    PlainSerializer(lambda v: f"{v!r} Hz", return_type=str),
    _schema(RATE_HZ),
]
"""A rate written with its unit (`20 Hz`), carried in events per second."""

LoadShareText = Annotated[
    float,
    BeforeValidator(parse_load_share),
    Field(ge=0.0, le=1.0),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0.01, "maximum": 0.99},
                {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*%\s*$"},
            ]
        }
    ),
]
"""A load written as `50%` or `0.5`, carried as a fraction of what the device can do."""
