"""Coverage: where each operator of a model would run on a target, and who says so."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from pydantic import Field

from edgefleet_contract.base import Reason, Record

MAX_OPERATORS = 100_000

OperatorCount = Annotated[int, Field(ge=0, le=MAX_OPERATORS)]
OperatorIndex = Annotated[int, Field(ge=0, le=MAX_OPERATORS - 1)]


class Placed(str, Enum):
    """Where an operator would run."""

    ACCELERATOR = "accelerator"
    CPU = "cpu"
    UNSUPPORTED = "unsupported"


class CoverageSource(str, Enum):
    """Who says where operators would run; a claim is worth what its source is worth."""

    RUNTIME = "runtime"
    """The runtime itself, with the model loaded."""
    VENDOR_PARSER = "vendor-parser"
    """The vendor's parser or compiler, on the builder."""
    STATIC_TABLE = "static-table"
    """A table of rules from the vendor's documentation; `source_version` names its edition."""


class OperatorCoverage(Record):
    """One operator, in graph order."""

    index: OperatorIndex
    name: str = Field(max_length=512)
    """The node's name as the model spells it, or the name of its first output where it has none."""
    type: str = Field(max_length=128)
    placed: Placed
    reason: Reason | None = None
    """Why it does not run on the accelerator; None where it does."""
    rewrite: str | None = Field(default=None, max_length=256)
    """A rewrite that would make it fit, where we know one."""


class Coverage(Record):
    """Where every operator of a model would run on one target."""

    target: str = Field(max_length=64)
    """`runtime/engine`."""
    source: CoverageSource
    source_version: str = Field(max_length=128)
    operators: tuple[OperatorCoverage, ...] = Field(max_length=MAX_OPERATORS)

    @property
    def counts(self) -> dict[str, int]:
        """Return how many operators are placed where."""
        return {placed.value: sum(each.placed is placed for each in self.operators) for placed in Placed}

    @property
    def first_blocking(self) -> OperatorCoverage | None:
        """Return the first operator that does not run where it is meant to, or None.

        That is the accelerator; where the target is the CPU itself, nothing blocks but what is not supported.
        """
        meant = {Placed.ACCELERATOR, Placed.CPU} if self.target.endswith("/cpu") else {Placed.ACCELERATOR}
        return next((each for each in self.operators if each.placed not in meant), None)
