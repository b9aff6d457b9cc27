"""What the store hands out that is not a record of the contract or of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgefleet_contract.manifest import Manifest
from edgefleet_controller.api import Phase


@dataclass(frozen=True)
class RevisionRecord:
    """One apply: what was asked, what was planned, how far it came."""

    revision: int
    created_at_ns: int
    manifest: Manifest
    manifest_digest: str
    phase: Phase
    exit_code: int | None
    changed: bool
    reason: str | None
    plan: dict[str, Any]
    """Whatever the caller stored with it, JSON."""
