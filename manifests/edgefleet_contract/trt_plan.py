"""The header of a serialised TensorRT plan: which library version wrote it. Read before every load.

NVIDIA does not document the layout. It was read off plans of TensorRT-RTX 1.7 that we built: bytes 0 to 3 are a magic,
24 to 27 major, minor, patch and build. The GPU a plan is for does not stand in it.
"""

from __future__ import annotations

from dataclasses import dataclass

HEADER_BYTES = 28
_VERSION_AT = 24
_MAGIC = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}


class PlanHeaderError(ValueError):
    """Not a TensorRT plan; the message says what was got."""


@dataclass(frozen=True)
class PlanHeader:
    """What a plan says of itself.

    Attributes:
        runtime: `tensorrt` or `tensorrt-rtx`.
        numbers: major, minor, patch and build, each modulo 256.
    """

    runtime: str
    numbers: tuple[int, int, int, int]

    @property
    def version(self) -> str:
        """Return the version as the library prints it: `10.13.3.9`."""
        return ".".join(map(str, self.numbers))

    def matches(self, version: str) -> bool:
        """Return whether a library of this version wrote the plan, as far as both tell: `10.3.0` names no build."""
        given = [part for part in version.split(".") if part.isdecimal()][:4]
        return bool(given) and all(int(part) % 256 == got for part, got in zip(given, self.numbers, strict=False))


def read_header(plan: bytes) -> PlanHeader:
    """Return the header of a plan; its first 28 bytes are enough.

    Raises:
        PlanHeaderError: too short, or another magic.
    """
    if len(plan) < HEADER_BYTES:
        raise PlanHeaderError(f"{len(plan)} bytes; a plan has a header of {HEADER_BYTES}")
    runtime = _MAGIC.get(plan[:4])
    if runtime is None:
        raise PlanHeaderError(f"starts with {plan[:4]!r}; a plan starts with {b'ftrt'!r} or {b'vtrt'!r} (RTX)")
    major, minor, patch, build = plan[_VERSION_AT:HEADER_BYTES]
    return PlanHeader(runtime, (major, minor, patch, build))
