"""The envelope: records to bytes and back, bounded in size and depth, with one error for everything malformed."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from edgefleet_contract.base import Record
from edgefleet_contract.errors import WireError

MAX_MESSAGE_BYTES = 256 * 1024
"""Largest control message; chunks have their own bound. Below the 1 MB packets of common brokers."""

CHUNK_BYTES = 64 * 1024
"""Best chunk size measured on loopback and LAN brokers; 32 KiB where a broker caps payloads at 64 KB."""

MAX_DEPTH = 32

T = TypeVar("T")
R = TypeVar("R", bound=Record)


def encode(record: Record) -> bytes:
    """Return a record as the bytes of one message.

    Raises:
        WireError: the message would be larger than `MAX_MESSAGE_BYTES`.
    """
    data = record.model_dump_json(by_alias=True).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        msg = f"a {type(record).__name__} of {len(data)} bytes is too large to send; allowed: {MAX_MESSAGE_BYTES}"
        raise WireError(msg)
    return data


def decode(kind: type[R], data: bytes, *, unknown: Literal["forbid", "ignore"] = "forbid") -> R:
    """Return the record a message holds.

    Args:
        kind: the record expected.
        data: the message's payload.
        unknown: `ignore` tolerates fields of a newer peer (agents are updated at their own pace).

    Raises:
        WireError: too large, too deep, not JSON, or not such a record.
    """
    return decode_as(TypeAdapter(kind), data, unknown=unknown)


def decode_as(adapter: TypeAdapter[T], data: bytes, *, unknown: Literal["forbid", "ignore"] = "forbid") -> T:
    """Return what a message holds, for unions and other types. Arguments and errors as `decode`."""
    if len(data) > MAX_MESSAGE_BYTES:
        msg = f"a message of {len(data)} bytes; allowed: {MAX_MESSAGE_BYTES}"
        raise WireError(msg)
    if _depth(data) > MAX_DEPTH:
        msg = f"a message nested deeper than {MAX_DEPTH}"
        raise WireError(msg)
    try:
        return adapter.validate_json(data, extra=unknown)
    except ValidationError as error:
        raise WireError(_first_problem(error)) from error


def _depth(data: bytes) -> int:
    """Return an upper bound of the nesting depth; brackets inside strings count too, which only errs safely."""
    depth = deepest = 0
    for byte in data:
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _first_problem(error: ValidationError) -> str:
    problem: Any = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])[:200] or "the message"
    return f"{place}: {str(problem['msg'])[:300]}"
