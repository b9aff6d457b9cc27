"""Text from outside is fit for a screen and for every database."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_contract.base import MAX_REASON_CHARS, clip_reason
from edgefleet_contract.text import printable


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("as it is: ä, 漢, 🙂\tand\nso on", "as it is: ä, 漢, 🙂\tand\nso on"),
        ("\x1b[1;31mError\x1b[0m", "Error"),
        ("\x1b]0;a title\x07text", "text"),
        ("a\x00b", "a\ufffdb"),
        ("progress 1\rprogress 2\r\ndone", "progress 1\nprogress 2\ndone"),
        ("lone \ud800", "lone \ufffd"),
    ],
)
def test_what_steers_a_terminal_goes_and_what_people_read_stays(raw: str, shown: str) -> None:
    assert printable(raw) == shown


@given(st.text(st.characters()))
def test_no_text_is_left_that_a_terminal_or_a_database_takes_amiss(raw: str) -> None:
    shown = printable(raw)
    assert not [letter for letter in shown if ord(letter) < 32 and letter not in "\t\n"]
    assert "\x7f" not in shown
    shown.encode()
    assert printable(shown) == shown


def test_a_reason_is_short_and_printable() -> None:
    reason = clip_reason("\x1b[31m" + "x\x00" * MAX_REASON_CHARS)
    assert len(reason) == MAX_REASON_CHARS
    assert reason.endswith("…")
    assert "\x00" not in reason
