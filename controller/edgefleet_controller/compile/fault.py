"""Faults a compile child reports as answers."""

from __future__ import annotations

from typing import Literal

from edgefleet_contract.errors import EdgefleetError
from edgefleet_controller.compile.protocol import FaultPlace


def one_line(error: Exception, limit_chars: int = 300) -> str:
    """Return an error's text on one line, shortened."""
    return " ".join(str(error).split())[:limit_chars]


class CompileFaultError(EdgefleetError):
    """The model or its samples cannot be used.

    Args:
        what: which of the user's things is meant.
        message: what was got and what is allowed.
        next_step: what helps.
        at: keys below the user's thing that lead to what is wrong.
        family: `input` where the user's file is wrong, `unsupported` where this version cannot do it.
    """

    def __init__(
        self,
        what: FaultPlace,
        message: str,
        *,
        next_step: str | None = None,
        at: tuple[str, ...] = (),
        family: Literal["input", "unsupported"] = "input",
    ) -> None:
        super().__init__(message, next_step=next_step)
        self.what = what
        self.at = at
        self.family = family
