"""The base of every record on the wire, and the few constrained types all of them share."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from edgefleet_contract.text import printable

MAX_REASON_CHARS = 2000

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$")]
"""A model, device, site or class name: safe as a topic level, a folder and a label. 1 to 63 characters."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""The content address of a blob, artifact or release: `sha256:` and 64 hexadecimal digits."""

Reason = Annotated[str, StringConstraints(max_length=MAX_REASON_CHARS)]
"""Words for people: what was got, what is allowed, what to do. At most 2,000 characters."""

TensorName = Annotated[str, StringConstraints(min_length=1, max_length=512)]
"""A tensor's name as its model spells it. Never used in a path or a topic."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A fraction between 0 and 1."""

Generation = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""A counter that only grows; bounded by what every JSON reader holds exactly."""

ByteCount = Annotated[int, Field(ge=0, le=2**53 - 1)]


class Record(BaseModel):
    """An immutable record that refuses unknown fields, NaN and infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    def canonical_json(self) -> bytes:
        """Return the record as canonical JSON bytes: sorted keys, no spaces, UTF-8, nothing omitted."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))


def canonical_json(value: object) -> bytes:
    """Return `value` as canonical JSON bytes: sorted keys, no spaces, UTF-8, no NaN.

    Raises:
        ValueError: the value holds NaN or an infinity.
        TypeError: the value holds something JSON has no form for.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_bytes(data: bytes) -> str:
    """Return the content address (`sha256:<hex>`) of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def hex_of(digest: str) -> str:
    """Return the 64 hexadecimal digits of a `sha256:` digest: its name as a file."""
    return digest.removeprefix("sha256:")


def clip_reason(text: str) -> str:
    """Return `text` as a `Reason` holds it: fit for a screen and a database, shortened with the cut marked."""
    text = printable(text)
    return text if len(text) <= MAX_REASON_CHARS else text[: MAX_REASON_CHARS - 1] + "…"
