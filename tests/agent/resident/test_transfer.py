from __future__ import annotations

import base64
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_agent.transfer import TIMEOUT_MOST_S, WINDOW_FIRST, WINDOW_LEAST, WINDOW_MOST, Transfer
from edgefleet_contract.report import ChunkRequest

DIGEST = "sha256:" + "a" * 64
CHUNK = 1024


def transfer(chunk_n: int, received: bytes | None = None) -> Transfer:
    return Transfer(DIGEST, chunk_n * CHUNK - 1, received, chunk_bytes=CHUNK)


def served(request: ChunkRequest, chunk_n: int) -> list[int]:
    """Return the chunks a controller sends for a request, as the contract says."""
    have = int.from_bytes(base64.b64decode(request.have), "little")
    wanted = [n for n in range(request.offset, chunk_n) if not have >> (n - request.offset) & 1]
    return wanted[: request.window]


def ask(blob: Transfer, now_s: float) -> list[int]:
    request = blob.request(now_s)
    return served(request, blob.chunk_n) if request else []


def test_the_first_request_asks_for_one_window_from_the_start() -> None:
    blob = transfer(100)
    assert ask(blob, 0.0) == list(range(WINDOW_FIRST))
    assert blob.request(0.0) is None


def test_it_asks_again_when_half_its_window_has_arrived() -> None:
    blob = transfer(100)
    ask(blob, 0.0)
    for index in range(WINDOW_FIRST // 2 - 1):
        blob.arrived(index, 0.01)
        assert blob.request(0.01) is None or blob.window > WINDOW_FIRST
        blob.window = WINDOW_FIRST
    blob.arrived(WINDOW_FIRST // 2 - 1, 0.01)
    blob.window = WINDOW_FIRST
    assert ask(blob, 0.01) == list(range(WINDOW_FIRST, WINDOW_FIRST + 8))


def test_the_last_chunk_is_shorter_and_there_is_none_behind_it() -> None:
    blob = transfer(3)
    assert [blob.length_of(index) for index in (-1, 0, 2, 3)] == [None, CHUNK, CHUNK - 1, None]


def test_an_empty_blob_is_complete_at_once() -> None:
    assert Transfer(DIGEST, 0).complete


def test_a_resumed_transfer_asks_only_for_what_is_missing() -> None:
    blob = transfer(10, bytes([0b11101111, 0b1]))
    assert ask(blob, 0.0) == [4, 9]


def test_chunks_that_do_not_come_are_asked_for_again_after_a_wait_that_doubles() -> None:
    blob = transfer(4)
    waits_s = []
    now_s = 0.0
    for _ in range(6):
        assert ask(blob, now_s) == [0, 1, 2, 3]
        due_s = blob.due_s(now_s)
        assert due_s is not None
        waits_s.append(due_s - now_s)
        assert blob.request(due_s - 0.01) is None
        now_s = due_s
    assert waits_s == [1.0, 2.0, 4.0, 8.0, TIMEOUT_MOST_S, TIMEOUT_MOST_S]


def test_the_window_narrows_on_loss_and_widens_while_round_trips_stay_short() -> None:
    blob = transfer(5000)
    now_s = 0.0
    for _ in range(20):
        for index in ask(blob, now_s):
            blob.arrived(index, now_s + 0.01)
        now_s += 0.01
    assert blob.window == WINDOW_MOST
    for _ in range(8):
        ask(blob, now_s)
        now_s += TIMEOUT_MOST_S
    assert blob.window == WINDOW_LEAST


def test_a_damaged_chunk_is_asked_for_again() -> None:
    blob = transfer(2)
    ask(blob, 0.0)
    blob.damaged(1)
    assert ask(blob, 0.0) == [1]


def test_a_pause_asks_for_nothing_and_then_for_everything() -> None:
    blob = transfer(2)
    ask(blob, 0.0)
    blob.pause(5.0)
    assert blob.due_s(1.0) == 5.0
    assert blob.request(4.9) is None
    assert ask(blob, 5.0) == [0, 1]


def test_a_chunk_that_came_twice_counts_once() -> None:
    blob = transfer(2)
    assert blob.arrived(0, 0.0)
    assert not blob.arrived(0, 0.0)
    assert not blob.complete


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), chunk_n=st.integers(1, 200), lost=st.floats(0, 0.6), damaged=st.floats(0, 0.3))
def test_it_completes_over_any_link_that_loses_delays_reorders_and_damages(
    seed: int, chunk_n: int, lost: float, damaged: float
) -> None:
    rng = random.Random(seed)
    blob = transfer(chunk_n)
    now_s, requests_n = 0.0, 0
    while not blob.complete:
        chunks = ask(blob, now_s)
        rng.shuffle(chunks)
        requests_n += 1
        assert requests_n < 5000
        for index in chunks:
            assert not blob.has(index)
            now_s += rng.random() * 0.01
            if rng.random() < lost:
                continue
            if rng.random() < damaged:
                blob.damaged(index)
            else:
                blob.arrived(index, now_s)
        due_s = blob.due_s(now_s)
        now_s = max(now_s, due_s if due_s is not None else now_s)
    assert blob.request(now_s) is None
    assert blob.received == transfer(chunk_n, blob.received).received
