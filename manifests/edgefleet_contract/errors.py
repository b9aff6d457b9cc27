"""Errors in families: the user's input, the device, the transport, or a bug in us.

Each message says what was got, what is allowed and what to do. Exit codes and HTTP statuses are mapped from
the family at the edge only.
"""

from __future__ import annotations

from dataclasses import dataclass


class EdgefleetError(Exception):
    """Base of every error raised on purpose.

    Args:
        message: what was got and what is allowed. Defaults to the class's docstring.
        next_step: the command or the change that helps, without a full stop.
    """

    def __init__(self, message: str | None = None, *, next_step: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or type(self).__name__).splitlines()[0]
        self.next_step = next_step
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} (next: {self.next_step})" if self.next_step else self.message


class UserInputError(EdgefleetError):
    """Something the user gave is wrong; nothing was changed."""


class DeviceError(EdgefleetError):
    """The device cannot do what was asked."""


class TransportError(EdgefleetError):
    """The other side could not be reached, or what it sent cannot be trusted."""


class WireError(TransportError):
    """A message does not follow the contract."""


class InternalError(EdgefleetError):
    """A bug in edgefleet; please report it with the text above."""


@dataclass(frozen=True)
class Location:
    """A place in a text file; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class ManifestError(UserInputError):
    """The manifest is not valid.

    Args:
        message: what was got and what is allowed.
        location: where the offending text stands; None when the file as a whole is meant.
        offending: the text itself, shortened.
        suggestion: what was probably meant.
    """

    def __init__(
        self,
        message: str,
        *,
        location: Location | None = None,
        offending: str | None = None,
        suggestion: str | None = None,
        next_step: str | None = None,
    ) -> None:
        super().__init__(message, next_step=next_step)
        self.location = location
        self.offending = offending
        self.suggestion = suggestion

    def __str__(self) -> str:
        where = f"{self.location}: " if self.location else ""
        got = f"; got {self.offending!r}" if self.offending is not None else ""
        hint = f"; did you mean {self.suggestion!r}?" if self.suggestion else ""
        step = f" (next: {self.next_step})" if self.next_step else ""
        return f"{where}{self.message}{got}{hint}{step}"
