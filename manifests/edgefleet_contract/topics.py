"""MQTT topics: `fleet/<site>/<device>/{down,up}/…`, built and taken apart in one place. At most 6 slashes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgefleet_contract.base import hex_of
from edgefleet_contract.errors import WireError

ROOT = "fleet"
_LEVEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_UP = re.compile(rf"{ROOT}/({_LEVEL})/({_LEVEL})/up/(state|hb|ev|get)")
_BLOCK = re.compile(rf"{ROOT}/({_LEVEL})/({_LEVEL})/down/blk/([0-9a-f]{{16}})/(0|[1-9][0-9]{{0,8}})")


@dataclass(frozen=True)
class DeviceTopics:
    """The topics of one device."""

    site: str
    device: str

    @property
    def _base(self) -> str:
        return f"{ROOT}/{self.site}/{self.device}"

    @property
    def desired(self) -> str:
        """Desired state, retained, controller → agent."""
        return f"{self._base}/down/desired"

    @property
    def command(self) -> str:
        """One-off commands, controller → agent."""
        return f"{self._base}/down/cmd"

    @property
    def ack(self) -> str:
        """What reports were committed, controller → agent."""
        return f"{self._base}/down/ack"

    @property
    def state(self) -> str:
        """Presence, retained, agent → controller; also the last will."""
        return f"{self._base}/up/state"

    @property
    def heartbeat(self) -> str:
        """Heartbeat, agent → controller."""
        return f"{self._base}/up/hb"

    @property
    def event(self) -> str:
        """Reports from the outbox, agent → controller."""
        return f"{self._base}/up/ev"

    @property
    def get(self) -> str:
        """Requests for chunks, agent → controller."""
        return f"{self._base}/up/get"

    def block(self, digest: str, index: int) -> str:
        """Chunk `index` of a blob, controller → agent."""
        return f"{self._base}/down/blk/{hex_of(digest)[:16]}/{index}"

    @property
    def block_filter(self) -> str:
        """The filter an agent subscribes to for its chunks."""
        return f"{self._base}/down/blk/#"


@dataclass(frozen=True)
class UpTopic:
    """A topic an agent publishes on, taken apart; `channel` is state, hb, ev or get."""

    site: str
    device: str
    channel: str


UP_FILTER = f"{ROOT}/+/+/up/+"
"""The filter a controller subscribes to."""


def parse_up(topic: str) -> UpTopic:
    """Take apart a topic an agent publishes on. Raises WireError on any other topic."""
    match = _UP.fullmatch(topic)
    if match is None:
        msg = f"not a topic agents publish on: {topic[:200]!r}"
        raise WireError(msg)
    return UpTopic(match[1], match[2], match[3])


def parse_block(topic: str) -> tuple[str, int]:
    """Return (first 16 hexadecimal digits of the digest, chunk index) of a chunk's topic. Raises WireError."""
    match = _BLOCK.fullmatch(topic)
    if match is None:
        msg = f"not a chunk's topic: {topic[:200]!r}"
        raise WireError(msg)
    return match[3], int(match[4])
