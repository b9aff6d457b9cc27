"""What the resident agent's loop takes beside the events its rules know."""

from __future__ import annotations

from dataclasses import dataclass

from edgefleet_agent.fetch import BlobHashed
from edgefleet_agent.link import LinkEvent
from edgefleet_agent.records import Event
from edgefleet_contract.profile import Profile


@dataclass(frozen=True)
class ProfileReady:
    """The device has been probed."""

    profile: Profile


@dataclass(frozen=True)
class OrdersWaiting:
    """Somebody at the device has left an order."""


@dataclass(frozen=True)
class RequalifyDue:
    """What serves is to be proved again, by the schedule."""


@dataclass(frozen=True)
class PowerModeDue:
    """It is time to look whether somebody has set another power mode."""


@dataclass(frozen=True)
class Stop:
    """End the loop."""


LoopEvent = LinkEvent | Event | BlobHashed | ProfileReady | OrdersWaiting | RequalifyDue | PowerModeDue | Stop
