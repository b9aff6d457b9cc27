"""Follow an apply until it ends or the time is up. A controller that restarts is waited for by its client."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgefleet_controller.api import FleetApi, RevisionQuery, RevisionStatus

if TYPE_CHECKING:
    from edgefleet_controller.cli.progress import ProgressView

POLL_S = 1.0
"""The controller answers at once when something is new; this only bounds one silent request."""


class Follower:
    """Polls one revision. `status` is the newest answer, None before the first."""

    def __init__(self, api: FleetApi, revision: int, view: ProgressView, clock_s: Callable[[], float]) -> None:
        self.status: RevisionStatus | None = None
        self._api = api
        self._revision = revision
        self._view = view
        self._clock_s = clock_s
        self._after_event = 0

    def until_final(self, timeout_s: float) -> bool:
        """Show progress until the apply ends; False when `timeout_s` passed before.

        Raises:
            EdgefleetError: the controller was lost, or answers with an error.
        """
        deadline_s = self._clock_s() + timeout_s
        while True:
            left_s = max(0.0, deadline_s - self._clock_s())
            if self._poll(min(POLL_S, left_s)).phase.final:
                return True
            if left_s == 0.0:
                return False

    def _poll(self, wait_s: float) -> RevisionStatus:
        query = RevisionQuery(revision=self._revision, after_event=self._after_event, wait_s=wait_s)
        self.status = self._api.revision(query)
        for event in self.status.events:
            self._after_event = max(self._after_event, event.id)
            self._view.show(event)
        return self.status
