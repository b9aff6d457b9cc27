from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_contract.labels import MAX_SELECTOR_CHARS, parse_selector

LOBBY = {"site": "lobby", "arch": "aarch64", "edgetpu": "usb"}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("site=lobby", True),
        ("site==lobby", True),
        ("site = lobby", True),
        ("site=roof", False),
        ("site!=roof", True),
        ("site!=lobby", False),
        ("floor!=3", True),
        ("floor=3", False),
        ("edgetpu", True),
        ("canary", False),
        ("!canary", True),
        ("! canary", True),
        ("!edgetpu", False),
        ("arch in (aarch64, x86_64)", True),
        ("arch in (x86_64)", False),
        ("arch notin (x86_64, armv7l)", True),
        ("arch notin (aarch64)", False),
        ("floor notin (1, 2)", True),
        ("floor in (1, 2)", False),
        ("site=lobby, arch in (aarch64, x86_64), !canary", True),
        ("site=lobby,arch in (x86_64),!canary", False),
        ("site=LOBBY", False),
    ],
)
def test_a_selector_means_what_kubernetes_means(selector: str, matches: bool) -> None:
    assert parse_selector(selector).matches(LOBBY) is matches


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ",",
        "a,",
        "a=",
        "=a",
        "a=b=c",
        "a in b",
        "a in ()",
        "a in (b",
        "a in (b,)",
        "a in ((b))",
        "!a=b",
        "!!a",
        "a b",
        "A=b",
        "a=b c",
        "a=-b",
        "a~b",
        "a=b;c=d",
        "a in (b) c",
        "a" * 64 + "=b",
        "a\n=b\n,c\x00",
    ],
)
def test_what_is_no_selector_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a condition"):
        parse_selector(text)


def test_a_selector_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_SELECTOR_CHARS} characters"):
        parse_selector("a," * MAX_SELECTOR_CHARS)


@given(st.text(max_size=40) | st.text("ab=!,() in\nt", max_size=40))
def test_any_text_is_a_selector_or_a_value_error(text: str) -> None:
    try:
        selector = parse_selector(text)
    except ValueError:
        return
    assert selector.requirements
    assert selector.matches({}) in {True, False}


KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.sampled_from(["x", "y", "z"])
LABELS = st.dictionaries(KEYS, VALUES)


@given(KEYS, st.lists(VALUES, min_size=1), LABELS)
def test_in_and_notin_are_opposites(key: str, values: list[str], held: dict[str, str]) -> None:
    listed = ", ".join(values)
    inside = parse_selector(f"{key} in ({listed})").matches(held)
    assert parse_selector(f"{key} notin ({listed})").matches(held) is not inside


@given(st.lists(st.sampled_from(["a=x", "!b", "c", "a in (x, y)", "b notin (z)"]), min_size=1, max_size=3), LABELS)
def test_conditions_are_joined_by_and_in_any_order(conditions: list[str], held: dict[str, str]) -> None:
    each = all(parse_selector(condition).matches(held) for condition in conditions)
    for order in itertools.permutations(conditions):
        assert parse_selector(",".join(order)).matches(held) is each
