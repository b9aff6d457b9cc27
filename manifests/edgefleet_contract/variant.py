"""Variants: how a model runs, written `runtime/engine/precision`."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, WithJsonSchema

_PART = re.compile(r"^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$")

PRECISIONS: tuple[str, ...] = ("fp32", "fp16", "bf16", "int8", "int8-dynamic", "int16x8", "int4")

ENGINES: dict[str, tuple[str, ...]] = {
    "ort": ("cpu", "cuda", "tensorrt", "coreml", "qnn", "openvino", "xnnpack"),
    "tflite": ("cpu", "xnnpack", "gpu", "nnapi", "coreml", "edgetpu", "external"),
    "tensorrt": ("gpu", "dla"),
    "tensorrt-rtx": ("gpu",),
    # Misbehaves on purpose, for rigs: the engine names the fault. Agents offer it only when started to.
    "misbehave": ("segv", "hang", "oom", "garbage", "exit", "wrong"),
}
"""Every runtime of the grammar and its engines. What a given device offers stands in its profile."""


_FOR_TESTS = "misbehave"
"""A runtime that no user is offered."""


class Variant(NamedTuple):
    """A variant taken apart. `str()` gives its canonical form back."""

    runtime: str
    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.runtime}/{self.engine}/{self.precision}"

    @property
    def target(self) -> str:
        """Return `runtime/engine`: what a device offers or lacks."""
        return f"{self.runtime}/{self.engine}"


def parse_variant(text: str) -> Variant:
    """Take a variant apart.

    Raises:
        ValueError: not three parts, or a runtime, engine or precision the grammar does not know.
    """
    parts = text.split("/") if len(text) <= 128 else []
    if len(parts) != 3 or not all(_PART.match(part) for part in parts):
        msg = f"not a variant: {text[:128]!r}; write runtime/engine/precision, for example ort/cpu/int8"
        raise ValueError(msg)
    runtime, engine, precision = parts
    _require(runtime, tuple(ENGINES), "runtime")
    _require(engine, ENGINES[runtime], f"engine of {runtime}")
    _require(precision, PRECISIONS, "precision")
    return Variant(runtime, engine, precision)


def _require(value: str, allowed: tuple[str, ...], what: str) -> None:
    if value not in allowed:
        shown = ", ".join(each for each in allowed if each != _FOR_TESTS)
        msg = f"unknown {what} {value!r}; allowed: {shown}"
        raise ValueError(msg)


def _validate(text: str) -> str:
    return str(parse_variant(text))


def _pattern() -> str:
    targets = "|".join(f"{runtime}/({'|'.join(engines)})" for runtime, engines in ENGINES.items())
    return f"^({targets})/({'|'.join(PRECISIONS)})$"


VariantName = Annotated[
    str,
    AfterValidator(_validate),
    WithJsonSchema({"type": "string", "pattern": _pattern(), "examples": ["ort/cpu/int8"]}),
]
"""A variant in its canonical form, checked."""
