"""Faults a compile child reports as answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgefleet_contract.coverage import CoverageSource
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


@dataclass(frozen=True)
class RefusedOperator:
    """A node that keeps a model from being built."""

    type: str
    name: str
    """As the node is named, or its first output where it has no name."""
    why: str


class OperatorsFaultError(CompileFaultError):
    """The model cannot be used because of operators that are known.

    Args:
        what: which of the user's things is meant.
        message: what was got and what is allowed.
        operators: the nodes meant, at least one.
        told_by: who refuses them, and its version.
        next_step: what helps.
        family: as of CompileFaultError.
    """

    def __init__(
        self,
        what: FaultPlace,
        message: str,
        operators: tuple[RefusedOperator, ...],
        told_by: tuple[CoverageSource, str],
        *,
        next_step: str | None = None,
        family: Literal["input", "unsupported"] = "input",
    ) -> None:
        super().__init__(what, message, next_step=next_step, family=family)
        self.operators = operators
        self.told_by = told_by
