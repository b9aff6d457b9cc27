"""Variants, topics, digests, errors: the small grammars of the contract."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_contract.base import MAX_REASON_CHARS, canonical_json, clip_reason, digest_bytes, hex_of
from edgefleet_contract.errors import EdgefleetError, Location, ManifestError, UserInputError, WireError
from edgefleet_contract.manifest import BUILTIN_CLASSES, is_class_name
from edgefleet_contract.topics import UP_FILTER, DeviceTopics, UpTopic, parse_block, parse_up
from edgefleet_contract.variant import ENGINES, PRECISIONS, parse_variant

ALL_VARIANTS = [
    f"{runtime}/{engine}/{precision}"
    for runtime, engines in ENGINES.items()
    for engine in engines
    for precision in PRECISIONS
]
NAMES = st.from_regex("[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
DIGESTS = st.binary(max_size=4).map(digest_bytes)


def test_every_variant_of_the_grammar_is_its_own_canonical_form() -> None:
    assert all(str(parse_variant(text)) == text for text in ALL_VARIANTS)
    assert parse_variant("ort/cpu/int8-dynamic").target == "ort/cpu"


def test_a_runtime_that_exists_for_tests_alone_is_not_offered() -> None:
    with pytest.raises(ValueError, match="unknown runtime") as told:
        parse_variant("otr/cpu/int8")
    assert "misbehave" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "write runtime/engine/precision"),
        ("ort/cpu", "write runtime/engine/precision"),
        ("ort/cpu/int8/x", "write runtime/engine/precision"),
        ("ORT/cpu/int8", "write runtime/engine/precision"),
        ("ort/cpu/int8\n", "unknown precision|write runtime"),
        ("otr/cpu/int8", "unknown runtime 'otr'; allowed: ort"),
        ("ort/edgetpu/int8", "unknown engine of ort 'edgetpu'; allowed: cpu"),
        ("ort/cpu/int9", "unknown precision 'int9'; allowed: fp32"),
        ("x" * 1000, "write runtime/engine/precision"),
    ],
)
def test_what_is_no_variant_is_a_value_error_that_says_what_is(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_variant(text)


@given(st.text(max_size=20) | st.lists(st.sampled_from(["ort", "cpu", "int8", "", "x"])).map("/".join))
def test_any_text_is_a_variant_or_a_value_error(text: str) -> None:
    try:
        parsed = parse_variant(text)
    except ValueError:
        return
    assert str(parsed) == text


@given(NAMES, NAMES, st.sampled_from(["state", "hb", "ev", "get"]))
def test_a_topic_agents_publish_on_is_taken_apart_again(site: str, device: str, channel: str) -> None:
    assert parse_up(f"fleet/{site}/{device}/up/{channel}") == UpTopic(site, device, channel)


@given(NAMES, NAMES, DIGESTS, st.integers(0, 999_999_999))
def test_a_chunks_topic_is_taken_apart_again(site: str, device: str, digest: str, index: int) -> None:
    topic = DeviceTopics(site, device).block(digest, index)
    assert parse_block(topic) == (hex_of(digest)[:16], index)
    assert topic.startswith(DeviceTopics(site, device).block_filter.removesuffix("#"))


def test_every_topic_has_at_most_six_slashes() -> None:
    topics = DeviceTopics("default", "local")
    up = (topics.state, topics.heartbeat, topics.event, topics.get)
    down = (topics.desired, topics.command, topics.ack, topics.block_filter, topics.block(digest_bytes(b""), 7))
    assert all(topic.count("/") <= 6 for topic in (*up, *down))
    assert [parse_up(topic).channel for topic in up] == ["state", "hb", "ev", "get"]
    assert UP_FILTER == "fleet/+/+/up/+"


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fleet",
        "fleet/a/b/up/state/x",
        "fleet/a/b/up/nothing",
        "fleet/a/b/up/state\n",
        "fleet//b/up/state",
        "fleet/+/b/up/state",
        "fleet/a/B/up/state",
        "fleet/a/-b/up/state",
        f"fleet/a/{'b' * 64}/up/state",
        "fleet/a/b/down/blk/0123456789abcdef/01",
        "fleet/a/b/down/blk/0123456789abcdef/-1",
        "fleet/a/b/down/blk/0123456789abcdef/1\n",
        "fleet/a/b/down/blk/0123456789ABCDEF/1",
        "fleet/a/b/down/blk/0123/1",
        "fleet/a/b/down/blk/0123456789abcdef/٣",
        "fleet/a/b/down/blk/0123456789abcdef/9999999999",
    ],
)
def test_any_other_topic_is_a_wire_error(topic: str) -> None:
    with pytest.raises(WireError):
        parse_up(topic)
    with pytest.raises(WireError):
        parse_block(topic)


@given(st.text(max_size=60))
def test_any_text_is_a_topic_or_a_wire_error(text: str) -> None:
    for parse in (parse_up, parse_block):
        with pytest.raises(WireError):
            parse(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(JSON)
def test_canonical_json_is_stable_whatever_the_order_of_keys(value: object) -> None:
    data = canonical_json(value)
    assert canonical_json(json.loads(data)) == data
    assert canonical_json(_turned_over(value)) == data


def _turned_over(value: object) -> object:
    if isinstance(value, dict):
        return {key: _turned_over(value[key]) for key in reversed(value)}
    return [_turned_over(item) for item in value] if isinstance(value, list) else value


def test_canonical_json_is_these_bytes() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "ä"}) == b'{"a":"\xc3\xa4","b":[1,2.5,null]}'


@pytest.mark.parametrize(
    ("value", "error"), [(float("nan"), ValueError), (float("inf"), ValueError), ({1, 2}, TypeError), (b"", TypeError)]
)
def test_what_json_has_no_form_for_is_refused(value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        canonical_json([value])


def test_a_digest_is_sha256_with_its_name() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # FIPS 180-4, the empty message
    assert digest_bytes(b"") == f"sha256:{empty}"
    assert hex_of(f"sha256:{empty}") == empty


@pytest.mark.parametrize("length", [0, MAX_REASON_CHARS, MAX_REASON_CHARS + 1, 10 * MAX_REASON_CHARS])
def test_a_reason_is_clipped_with_the_cut_marked(length: int) -> None:
    clipped = clip_reason("x" * length)
    assert len(clipped) <= MAX_REASON_CHARS
    assert clipped.endswith("…") is (length > MAX_REASON_CHARS)


@pytest.mark.parametrize("target", ["all", "kiosk", "Kiosk", "a-b", "a_b", *BUILTIN_CLASSES])
def test_a_bare_word_names_a_class(target: str) -> None:
    assert is_class_name(target)


@pytest.mark.parametrize("target", ["a=b", "!a", "a in (b)", "a, b", "a.b/c", "", "a\n"])
def test_anything_else_is_a_selector(target: str) -> None:
    assert not is_class_name(target)


def test_an_error_says_what_to_do_next() -> None:
    assert str(UserInputError("no", next_step="try again")) == "no (next: try again)"
    assert str(UserInputError()) == "Something the user gave is wrong; nothing was changed."
    assert isinstance(ManifestError("x"), UserInputError)
    assert isinstance(WireError("x"), EdgefleetError)


def test_a_manifest_error_has_place_text_and_suggestion() -> None:
    error = ManifestError(
        "unknown key", location=Location("f.yaml", 3, 9), offending="sampels", suggestion="samples", next_step="mend it"
    )
    assert str(error) == "f.yaml:3:9: unknown key; got 'sampels'; did you mean 'samples'? (next: mend it)"
