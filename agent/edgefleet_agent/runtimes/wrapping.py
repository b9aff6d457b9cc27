"""What every session around another hands on to it as it is."""

from __future__ import annotations

from edgefleet_agent.runtimes.base import Session, reset_state
from edgefleet_contract.evidence import PlacementResult


class Wrapping:
    """The part of a session around another that is the inner one's own. Inherit, and say what differs."""

    def __init__(self, inner: Session) -> None:
        self._inner = inner

    def placement(self) -> PlacementResult | None:
        """Return where operators run."""
        return self._inner.placement()

    def reset(self) -> None:
        """Forget what earlier inferences left behind."""
        reset_state(self._inner)

    def close(self) -> None:
        """Free the model."""
        self._inner.close()
