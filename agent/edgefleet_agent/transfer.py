"""Which chunks of one blob to ask for, and when. Time comes in as an argument; nothing is sent or written here."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from edgefleet_contract.report import ChunkRequest
from edgefleet_contract.wire import CHUNK_BYTES

WINDOW_FIRST = 16
WINDOW_LEAST = 4
WINDOW_MOST = 64
"""Bounds of the window, in chunks. 64 chunks of 64 KiB are 4 MiB: what a small device can hold in its queue."""

TIMEOUT_LEAST_S = 1.0
TIMEOUT_MOST_S = 15.0
_RTT_FACTOR = 4.0
_QUEUEING_FACTOR = 2.0
"""A round trip longer than this times the shortest one means that chunks wait in queues: do not widen the window."""
_HAVE_BITS = 24_000
"""How much bitmap fits a request's `have` (4,096 characters of base64)."""


def bitmap_bytes(size_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Return the length of the bitmap over a blob's chunks, in bytes."""
    chunk_n = -(-size_bytes // chunk_bytes)
    return -(-chunk_n // 8)


class Transfer:
    """The state of fetching one blob.

    Args:
        digest: the blob's digest.
        size_bytes: its size.
        received: bitmap of chunks already here, least significant bit first; None when there are none.
        chunk_bytes: size of every chunk but the last.
    """

    def __init__(
        self, digest: str, size_bytes: int, received: bytes | None = None, *, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self.chunk_bytes = chunk_bytes
        self.chunk_n = -(-size_bytes // chunk_bytes)
        self.window = WINDOW_FIRST
        self._received = bytearray(received or bytes(bitmap_bytes(size_bytes, chunk_bytes)))
        self._missing_n = self.chunk_n - sum(self.has(index) for index in range(self.chunk_n))
        self._first_missing = 0
        self._in_flight: dict[int, float] = {}
        self._unanswered_n = 0
        self._shortest_rtt_s: float | None = None
        self._rtt_s = TIMEOUT_LEAST_S / _RTT_FACTOR
        self._waits_until_s = 0.0

    @property
    def received(self) -> bytes:
        """Return the bitmap of chunks that are here."""
        return bytes(self._received)

    @property
    def complete(self) -> bool:
        """Tell whether every chunk is here."""
        return self._missing_n == 0

    @property
    def timeout_s(self) -> float:
        """Return how long to wait for a chunk before asking again; doubles while nothing arrives."""
        patience_s = max(TIMEOUT_LEAST_S, _RTT_FACTOR * self._rtt_s)
        return min(patience_s * 2.0 ** min(self._unanswered_n, 8), TIMEOUT_MOST_S)

    def has(self, index: int) -> bool:
        """Tell whether a chunk is here."""
        return bool(self._received[index // 8] >> (index % 8) & 1)

    def length_of(self, index: int) -> int | None:
        """Return the size of a chunk in bytes, or None when the blob has no such chunk."""
        if not 0 <= index < self.chunk_n:
            return None
        return min(self.chunk_bytes, self.size_bytes - index * self.chunk_bytes)

    def request(self, now_s: float) -> ChunkRequest | None:
        """Return what to ask for now, or None while enough is under way or the wait after a refusal lasts."""
        self._expire(now_s)
        if self.complete or now_s < self._waits_until_s or len(self._in_flight) > self.window // 2:
            return None
        room_n = self.window - len(self._in_flight)
        wanted = [index for index, _ in zip(self._askable(), range(room_n), strict=False)]
        if not wanted:
            return None
        request = ChunkRequest(
            digest=self.digest,
            chunk_bytes=self.chunk_bytes,
            offset=wanted[0],
            have=self._have(wanted[0], wanted[-1]),
            window=len(wanted),
        )
        self._in_flight.update(dict.fromkeys(wanted, now_s))
        return request

    def arrived(self, index: int, now_s: float) -> bool:
        """Note a chunk that is here and whole; return False when it was here already."""
        asked_at_s = self._in_flight.pop(index, None)
        if self.has(index):
            return False
        self._received[index // 8] |= 1 << (index % 8)
        self._missing_n -= 1
        self._unanswered_n = 0
        if asked_at_s is not None:
            self._learn(now_s - asked_at_s)
        return True

    def damaged(self, index: int) -> None:
        """Note a chunk that arrived damaged, so that it is asked for again."""
        self._in_flight.pop(index, None)

    def pause(self, until_s: float) -> None:
        """Ask for nothing before a time, and for everything missing then."""
        self._in_flight.clear()
        self._waits_until_s = until_s

    def due_s(self, now_s: float) -> float | None:
        """Return when `request` should next be called, or None when only an arrival matters."""
        if self.complete:
            return None
        if self._waits_until_s > now_s or not self._in_flight:
            return self._waits_until_s
        return min(self._in_flight.values()) + self.timeout_s

    def _askable(self) -> Iterator[int]:
        while self._first_missing < self.chunk_n and self.has(self._first_missing):
            self._first_missing += 1
        for index in range(self._first_missing, self.chunk_n):
            if index not in self._in_flight and not self.has(index):
                yield index

    def _have(self, offset: int, last: int) -> str:
        """Return the bitmap, from `offset` on, of chunks between the wanted ones that must not be sent."""
        bits = 0
        for index in range(offset, min(last, offset + _HAVE_BITS)):
            if index in self._in_flight or self.has(index):
                bits |= 1 << (index - offset)
        return base64.b64encode(bits.to_bytes(-(-bits.bit_length() // 8), "little")).decode()

    def _learn(self, rtt_s: float) -> None:
        self._rtt_s += (rtt_s - self._rtt_s) / 8.0
        self._shortest_rtt_s = min(rtt_s, self._shortest_rtt_s or rtt_s)
        if self._rtt_s <= _QUEUEING_FACTOR * max(self._shortest_rtt_s, 0.001):
            self.window = min(self.window + 1, WINDOW_MOST)

    def _expire(self, now_s: float) -> None:
        limit_s = self.timeout_s
        late = [index for index, asked_at_s in self._in_flight.items() if asked_at_s + limit_s <= now_s]
        for index in late:
            del self._in_flight[index]
        if late:
            self.window = max(self.window // 2, WINDOW_LEAST)
            self._unanswered_n += 1
