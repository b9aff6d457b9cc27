"""Every record of the contract: a valid one survives a round trip, and nothing invalid raises but our error.

Values are drawn from the records' own annotations, so a new record or field is tested the day it is written.
"""

from __future__ import annotations

import functools
import importlib
import json
import math
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Literal

import annotated_types
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BeforeValidator, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

import edgefleet_contract
from edgefleet_contract import artifact, desired, job, labels, manifest, report, units, variant, wire
from edgefleet_contract.base import Record
from edgefleet_contract.errors import WireError

Strategy = st.SearchStrategy[Any]

VARIANTS = ["ort/cpu/int8", "ort/cpu/fp32", "tflite/edgetpu/int8", "tensorrt/gpu/fp16", "misbehave/segv/fp32"]
SELECTORS = ["site=lobby", "arch in (aarch64, x86_64), !canary", "edgetpu", "a!=b", "a notin (b)"]
NUMBERS = st.floats(0, 1e12, allow_nan=False).map(repr) | st.integers(0, 10**15).map(str)

BY_VALIDATOR: dict[Callable[..., Any], Strategy] = {
    variant._validate: st.sampled_from(VARIANTS),
    artifact._validate_axes: st.permutations(range(4)).map(list) | st.just([]),
    labels._validate: st.sampled_from(SELECTORS),
    units.parse_duration_s: st.builds("{}{}".format, NUMBERS, st.sampled_from(list(units.DURATION_S))),
    units.parse_duration_ms: st.builds("{} {}".format, NUMBERS, st.sampled_from(list(units.DURATION_MS))),
    units.parse_size_bytes: st.integers(0, 2**53 - 1).map("{} B".format),
    units.parse_energy_mj: st.builds("{} {}".format, NUMBERS, st.sampled_from(list(units.ENERGY_MJ))),
    units.parse_rate_hz: st.floats(0.1, 1e6).map("{!r} Hz".format),
    units.parse_load_share: st.floats(0.01, 0.99) | st.integers(1, 99).map("{}%".format),
    units.parse_share: st.floats(0, 1) | st.floats(0, 100).map("{}%".format),
}


def all_records() -> list[type[Record]]:
    for module in pkgutil.iter_modules(edgefleet_contract.__path__):
        importlib.import_module(f"edgefleet_contract.{module.name}")
    return sorted(_below(Record), key=lambda kind: kind.__name__)


def _below(kind: type[Record]) -> Iterator[type[Record]]:
    for sub in kind.__subclasses__():
        if sub.__module__.startswith("edgefleet_contract."):
            yield sub
            yield from _below(sub)


RECORDS = all_records()


def values(annotation: Any, metadata: tuple[Any, ...] = ()) -> Strategy:
    """Draw what JSON would hold for an annotation."""
    if typing.get_origin(annotation) is typing.Annotated:
        base, *extra = typing.get_args(annotation)
        return values(base, (*_flat(extra), *metadata))
    for item in metadata:
        if isinstance(item, (BeforeValidator, AfterValidator)) and item.func in BY_VALIDATOR:
            return _above(BY_VALIDATOR[item.func], item.func, metadata)
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return st.one_of([values(branch) for branch in typing.get_args(annotation)])
    collection = _collection(annotation, metadata)
    return _scalar(annotation, metadata) if collection is None else collection


def _above(drawn: Strategy, read: Callable[..., Any], metadata: tuple[Any, ...]) -> Strategy:
    """Leave out what is read as a value at or below a limit: no unit makes `0 ms` more."""
    limit = next((item.gt for item in metadata if isinstance(item, annotated_types.Gt)), None)
    return drawn if limit is None else drawn.filter(lambda text: bool(read(text) > limit))


def _flat(extra: list[Any]) -> Iterator[Any]:
    for item in extra:
        yield from item.metadata if isinstance(item, FieldInfo) else [item]


def _collection(annotation: Any, metadata: tuple[Any, ...]) -> Strategy | None:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    least = next((item.min_length for item in metadata if isinstance(item, annotated_types.MinLen)), 0)
    if origin is tuple and args[-1] is ...:
        return st.lists(values(args[0]), min_size=least, max_size=least + 2)
    if origin is tuple:
        return st.tuples(*map(values, args)).map(list)
    if origin is dict:
        return st.dictionaries(values(args[0]), values(args[1]), min_size=least, max_size=least + 1)
    return None


def _scalar(annotation: Any, metadata: tuple[Any, ...]) -> Strategy:
    if typing.get_origin(annotation) is typing.Literal:
        return st.sampled_from(typing.get_args(annotation))
    if annotation in {None, type(None)}:
        return st.none()
    if issubclass(annotation, Enum):
        return st.sampled_from([member.value for member in annotation])
    if issubclass(annotation, Record):
        return inputs(annotation)
    if annotation is bool:
        return st.booleans()
    return _text(metadata) if annotation is str else _number(annotation, metadata)


SLOW_PATTERNS: dict[str, Strategy] = {
    "^sha256:[0-9a-f]{64}$": st.integers(0, 2**256 - 1).map("sha256:{:064x}".format),
    "^[0-9a-f]{32}$": st.integers(0, 2**128 - 1).map("{:032x}".format),
}
"""Patterns of the contract that are slow to draw from."""


def _text(metadata: tuple[Any, ...]) -> Strategy:
    least = 0
    for item in metadata:
        if pattern := getattr(item, "pattern", None):
            return SLOW_PATTERNS[pattern] if pattern in SLOW_PATTERNS else _matching(pattern)
        least = getattr(item, "min_length", None) or least
    drawn = st.text(st.characters(exclude_categories=["Cs"]), min_size=least, max_size=20)
    return drawn.filter(lambda text: len(text.strip()) >= least)  # some texts are stripped before they are counted


def _matching(pattern: str) -> Strategy:
    drawn = st.from_regex(pattern.removeprefix("^").removesuffix("$"), fullmatch=True)
    return drawn.filter(lambda text: len(text) <= 60 and text.isprintable())


def _number(kind: type[int | float], metadata: tuple[Any, ...]) -> Strategy:
    low, high = -(2.0**53), 2.0**53
    for item in metadata:
        low = getattr(item, "ge", getattr(item, "gt", low - 1e-3) + 1e-3)
        high = getattr(item, "le", high)
    return st.integers(math.ceil(low), math.floor(high)) if kind is int else st.floats(float(low), float(high))


@functools.cache
def inputs(kind: type[Record]) -> Strategy:
    """Draw what JSON would hold for a valid record; fields with a default are left out now and then."""
    fields = {name: values(field.annotation, tuple(field.metadata)) for name, field in kind.model_fields.items()}
    kept = {name for name, field in kind.model_fields.items() if field.is_required() or name in {"kind", "v"}}
    drawn = st.fixed_dictionaries(
        {name: strategy for name, strategy in fields.items() if name in kept},
        optional={name: strategy for name, strategy in fields.items() if name not in kept},
    )
    return drawn.filter(functools.partial(_is_valid, kind))


def _is_valid(kind: type[Record], value: object) -> bool:
    """Tell whether a whole record's own validator takes the value; any other error is one of these strategies."""
    try:
        kind.model_validate(value)
    except ValidationError as error:
        if any(detail["type"] != "value_error" for detail in error.errors()):
            raise
        return False
    return True


def records(kind: type[Record]) -> Strategy:
    """Draw valid records."""
    return inputs(kind).map(kind.model_validate)


QUICK = settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_a_valid_record_survives_a_round_trip(kind: type[Record]) -> None:
    @QUICK
    @given(records(kind))
    def check(record: Record) -> None:
        data = record.canonical_json()
        again = kind.model_validate_json(data)
        assert again == record
        assert again.canonical_json() == data
        assert wire.decode(kind, wire.encode(record)) == record

    check()


UNIONS: dict[str, Any] = {
    "Job": job.Job,
    "Answer": job.Answer,
    "Command": report.Command,
    "ReportBody": report.ReportBody,
}


@pytest.mark.parametrize("name", UNIONS)
def test_a_union_on_the_wire_is_told_apart_by_its_kind(name: str) -> None:
    adapter: TypeAdapter[Record] = TypeAdapter(UNIONS[name])
    branches = typing.get_args(typing.get_args(UNIONS[name])[0])

    @QUICK
    @given(st.one_of([records(branch) for branch in branches]))
    def check(record: Record) -> None:
        again = wire.decode_as(adapter, wire.encode(record))
        assert again == record
        assert type(again) is type(record)

    check()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def spoilt(draw: st.DrawFn, kind: type[Record]) -> bytes:
    """Draw a valid message with one thing changed: a value, a missing field, a further field, or its bytes."""
    message = dict(draw(inputs(kind)))
    names = sorted(message)
    how = draw(st.sampled_from(["value", "missing", "further", "bytes"]))
    if how == "value" and names:
        message[draw(st.sampled_from(names))] = draw(JSON)
    elif how == "missing" and names:
        del message[draw(st.sampled_from(names))]
    elif how == "further":
        message[draw(st.text(max_size=5))] = draw(JSON)
    data = json.dumps(message).encode()
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.binary(max_size=2)) + data[at + 1 :] if how == "bytes" else data


def decodes_or_wire_error(kind: type[Record], data: bytes) -> None:
    modes: tuple[Literal["forbid", "ignore"], ...] = ("forbid", "ignore")
    for unknown in modes:
        try:
            decoded = wire.decode(kind, data, unknown=unknown)
        except WireError:
            continue
        assert isinstance(decoded, kind)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_no_message_makes_decode_raise_anything_but_wire_error(kind: type[Record]) -> None:
    @QUICK
    @given(st.binary(max_size=64) | spoilt(kind))
    def check(data: bytes) -> None:
        decodes_or_wire_error(kind, data)

    check()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"models":' + b"[" * 40 + b"]" * 40 + b"}",
        b'{"generation":' + b"9" * 10_000 + b"}",
        b'{"generation":1e999}',
        b'{"generation":NaN}',
        b'{"site":"\\ud800"}',
        b'{"site":"\xff"}',
        b'{"a":1,"a":2}',
        b" " * (wire.MAX_MESSAGE_BYTES + 1),
        b"\xef\xbb\xbf{}",
    ],
    ids=range(13),
)
@pytest.mark.parametrize("kind", [desired.DesiredState, report.Report, report.Presence, artifact.ArtifactDocument])
def test_hostile_messages_are_wire_errors(kind: type[Record], data: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode(kind, data)


def test_a_record_too_large_to_send_is_a_wire_error() -> None:
    spec = artifact.TensorSpec(name="x" * 500, dtype="float32", shape=())
    long = job.InspectAnswer(inputs=(spec,) * 600, outputs=())
    with pytest.raises(WireError, match="too large to send"):
        wire.encode(long)


def test_a_field_of_a_newer_peer_is_tolerated_only_on_request() -> None:
    data = b'{"kind":"requalify","model":"digits","priority":{"level":3}}'
    assert wire.decode(report.Requalify, data, unknown="ignore").model == "digits"
    with pytest.raises(WireError, match="priority"):
        wire.decode(report.Requalify, data)


def test_the_contract_has_the_records_it_is_known_for() -> None:
    names = {kind.__name__ for kind in RECORDS}
    assert {"Manifest", "Profile", "ArtifactDocument", "DesiredState", "Report", "Presence", "Evidence"} <= names
    assert {"ChunkRequest", "QualifyJob", "QualifyAnswer", "ErrorAnswer", "Heartbeat", "ReportAck"} <= names
    assert manifest.Manifest in RECORDS


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_every_record_says_what_it_is_and_is_closed(kind: type[Record]) -> None:
    assert kind.__doc__
    assert kind.model_config["extra"] == "forbid"
    assert kind.model_config["frozen"]
    assert kind.model_config["allow_inf_nan"] is False
