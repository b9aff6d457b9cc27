from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_contract import units

PARSERS: list[Callable[[object], float]] = [
    units.parse_duration_s,
    units.parse_duration_ms,
    units.parse_size_bytes,
    units.parse_energy_mj,
    units.parse_share,
    units.parse_rate_hz,
    units.parse_load_share,
]


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_duration_s, "10m", 600.0),
        (units.parse_duration_s, "10 min", 600.0),
        (units.parse_duration_s, "1.5 h", 5400.0),
        (units.parse_duration_s, "2d", 172_800.0),
        (units.parse_duration_s, "250 ms", 0.25),
        (units.parse_duration_ms, "20 ms", 20.0),
        (units.parse_duration_ms, "20ms", 20.0),
        (units.parse_duration_ms, " 20  ms ", 20.0),
        (units.parse_duration_ms, "0.5 s", 500.0),
        (units.parse_duration_ms, "30 µs", 0.03),
        (units.parse_duration_ms, "30 us", 0.03),
        (units.parse_duration_ms, "1e3 ns", 0.001),
        (units.parse_size_bytes, "200 MiB", 200 * 1024**2),
        (units.parse_size_bytes, "1 GiB", 1024**3),
        (units.parse_size_bytes, "1.5 KiB", 1536),
        (units.parse_size_bytes, "1 MB", 1_000_000),
        (units.parse_size_bytes, "0 B", 0),
        (units.parse_energy_mj, "50 mJ", 50.0),
        (units.parse_energy_mj, "0.05 J", 50.0),
        (units.parse_energy_mj, "1 kJ", 1e6),
        (units.parse_energy_mj, "7 µJ", 0.007),
        (units.parse_share, "5%", 0.05),
        (units.parse_share, "100 %", 1.0),
        (units.parse_share, 0.05, 0.05),
        (units.parse_share, 0, 0.0),
        (units.parse_share, 1, 1.0),
        (units.parse_rate_hz, "20 Hz", 20.0),
        (units.parse_rate_hz, "1.5kHz", 1500.0),
        (units.parse_rate_hz, "500 mHz", 0.5),
        (units.parse_load_share, "50%", 0.5),
        (units.parse_load_share, 0.8, 0.8),
    ],
)
def test_a_quantity_is_carried_in_its_one_unit(parse: Callable[[object], float], text: object, value: float) -> None:
    assert parse(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("parse", "text", "words"),
    [
        (units.parse_duration_ms, "20", "write a number and a unit"),
        (units.parse_duration_ms, 20, "write a number and a unit"),
        (units.parse_duration_ms, "ms", "for example '20 ms'"),
        (units.parse_duration_ms, "-5 ms", "not a duration"),
        (units.parse_duration_ms, "20 ms\x00", "not a duration"),
        (units.parse_duration_ms, "20 Ms", "unknown unit 'Ms' for a duration; allowed: ns, us"),
        (units.parse_duration_ms, "20 MiB", "unknown unit 'MiB' for a duration"),
        (units.parse_duration_ms, "1e999 ms", "too large"),
        (units.parse_duration_ms, "inf ms", "not a duration"),
        (units.parse_duration_ms, "٣ ms", "not a duration"),
        (units.parse_duration_ms, "1" + " " * 70 + "ms", "not a duration"),
        (units.parse_size_bytes, "1 mib", "unknown unit 'mib' for a size"),
        (units.parse_size_bytes, "9e15 KiB", "too large"),
        (units.parse_energy_mj, "1 MJ", "unknown unit 'MJ'"),
        (units.parse_rate_hz, "20", "write a number and a unit (Hz, kHz, mHz)"),
        (units.parse_rate_hz, "0 Hz", "above 0 Hz"),
        (units.parse_rate_hz, "2000 kHz", "at or below 1000 kHz"),
        (units.parse_load_share, "100%", "the queue grows without end"),
        (units.parse_load_share, 0, "between 1% and 99%"),
        (units.parse_share, "101%", "between 0% and 100%"),
        (units.parse_share, 1.5, "between 0% and 100%"),
        (units.parse_share, -0.1, "between 0% and 100%"),
        (units.parse_share, math.nan, "between 0% and 100%"),
        (units.parse_share, "0.05", "for example '20%'"),
        (units.parse_share, True, "not a share"),
        (units.parse_share, None, "not a share"),
    ],
)
def test_what_is_no_quantity_is_a_value_error_that_says_what_is(
    parse: Callable[[object], float], text: object, words: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are checked below
        parse(text)
    assert words in str(caught.value)


ANY: st.SearchStrategy[Any] = (
    st.text(max_size=12) | st.text("0123456789.eE+-% msBKiJ\nµ", max_size=10) | st.integers() | st.floats() | st.none()
)


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
def test_any_value_is_a_quantity_or_a_value_error(parse: Callable[[object], float]) -> None:
    @given(ANY)
    def check(value: object) -> None:
        try:
            result = parse(value)
        except ValueError:
            return
        assert math.isfinite(result)
        assert result >= 0

    check()


@given(st.floats(0, 1e300))
def test_every_number_python_writes_is_read_back(number: float) -> None:
    assert units.parse_duration_ms(f"{number!r} ms") == number


@given(st.integers(0, 2**53 - 1))
def test_every_size_in_bytes_is_read_back_exactly(size_bytes: int) -> None:
    assert units.parse_size_bytes(f"{size_bytes} B") == size_bytes


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (units.format_bytes(17.8 * 1024**2), "17.8 MiB"),
        (units.format_bytes(1023), "1023 B"),
        (units.format_bytes(1024), "1.0 KiB"),
        (units.format_bytes(5 * 1024**3), "5.0 GiB"),
        (units.format_ms(0.046), "46 µs"),
        (units.format_ms(20.0), "20 ms"),
        (units.format_ms(1500.0), "1.5 s"),
        (units.format_share(0.1234), "12.34%"),
    ],
)
def test_quantities_are_shown_in_a_unit_people_read(text: str, shown: str) -> None:
    assert text == shown
