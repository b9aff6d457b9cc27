from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_contract.errors import (
    DeviceError,
    EdgefleetError,
    InternalError,
    Location,
    ManifestError,
    TransportError,
    UserInputError,
    WireError,
)
from edgefleet_controller.api import Empty, FleetApi, QueryRequest
from edgefleet_controller.stack.client import HttpApi
from edgefleet_controller.stack.operations import decode_error, encode_error

Handler = Callable[[httpx.Request], httpx.Response]
DEVICES = {"api": "fleet/v1", "devices": []}


class FakeTime:
    def __init__(self) -> None:
        self.now_s = 0.0

    def clock_s(self) -> float:
        return self.now_s

    def sleep_s(self, duration_s: float) -> None:
        self.now_s += duration_s


def client_of(handler: Handler, *, still_there: Callable[[], None] = lambda: None) -> tuple[HttpApi, FakeTime]:
    fake = FakeTime()
    transport = httpx.MockTransport(handler)
    client = HttpApi(
        "http://127.0.0.1:1",
        "t0ken",
        still_there=still_there,
        transport=transport,
        clock_s=fake.clock_s,
        sleep_s=fake.sleep_s,
    )
    return client, fake


def failing(times_n: int, failure: httpx.Response | Exception) -> tuple[Handler, list[httpx.Request]]:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if len(seen) > times_n:
            return httpx.Response(200, json=DEVICES)
        if isinstance(failure, Exception):
            raise failure
        return failure

    return handle, seen


def test_the_client_is_a_fleet_api() -> None:
    client, _ = client_of(lambda _: httpx.Response(200, json=DEVICES))
    api: FleetApi = client
    assert api.devices(Empty()).devices == ()


def test_the_token_and_the_record_are_sent() -> None:
    handle, seen = failing(0, httpx.Response(500))
    client, _ = client_of(handle)
    client.devices(Empty())
    assert seen[0].headers["authorization"] == "Bearer t0ken"
    assert (seen[0].url.path, seen[0].content) == ("/v1/devices", b"{}")


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("closed in the middle"),
        httpx.Response(503),
    ],
)
def test_a_controller_that_is_away_for_a_while_is_waited_for(failure: httpx.Response | Exception) -> None:
    handle, seen = failing(5, failure)
    client, fake = client_of(handle)
    assert client.devices(Empty()).devices == ()
    assert len(seen) == 6
    assert fake.now_s < 20


def test_patience_ends_after_twenty_seconds_with_what_to_do() -> None:
    handle, _ = failing(10_000, httpx.ConnectError("refused"))
    client, fake = client_of(handle)
    with pytest.raises(TransportError, match=r"could not be reached for 20 s .*refused") as caught:
        client.devices(Empty())
    assert 18 <= fake.now_s <= 20
    assert "fleet up" in str(caught.value.next_step)


def test_waiting_ends_at_once_when_the_stack_has_failed() -> None:
    def gave_up() -> None:
        raise DeviceError("the controller exited with code 1, more than 8 times")

    handle, seen = failing(10_000, httpx.ConnectError("refused"))
    client, _ = client_of(handle, still_there=gave_up)
    with pytest.raises(DeviceError, match="more than 8 times"):
        client.devices(Empty())
    assert len(seen) == 1


def test_an_answer_that_refuses_is_not_asked_again() -> None:
    status, document = encode_error(TransportError("the broker is gone", next_step="start it"))
    handle, seen = failing(10_000, httpx.Response(status, json=document))
    client, _ = client_of(handle)
    with pytest.raises(TransportError, match="the broker is gone"):
        client.devices(Empty())
    assert len(seen) == 1


@pytest.mark.parametrize("content", [b"", b"<html>", b"{}", b'{"devices": 1}'])
def test_an_answer_that_is_not_the_record_is_a_transport_error(content: bytes) -> None:
    client, _ = client_of(lambda _: httpx.Response(200, content=content))
    with pytest.raises(TransportError, match="something else than a DevicesResult"):
        client.devices(Empty())


@pytest.mark.parametrize("status", [301, 404, 418, 500])
def test_a_status_without_a_reason_is_an_internal_error(status: int) -> None:
    client, _ = client_of(lambda _: httpx.Response(status, content=b"no reason"))
    with pytest.raises(InternalError, match=f"status {status}"):
        client.query(QueryRequest(query="select 1"))


def test_a_controller_that_hangs_is_a_transport_error() -> None:
    handle, seen = failing(10_000, httpx.ReadTimeout("slow"))
    client, _ = client_of(handle)
    with pytest.raises(TransportError, match="gave no answer within 300 s"):
        client.devices(Empty())
    assert len(seen) == 1


def test_a_blob_is_streamed_again_from_its_beginning_after_a_break(tmp_path: Path) -> None:
    content = bytes(600_000)
    (tmp_path / "file").write_bytes(content)
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    tries: list[int] = []
    sent: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        body = request.read()
        tries.append(len(body))
        if len(tries) == 1:
            raise httpx.WriteError("reset")
        return httpx.Response(200, json={})

    client, _ = client_of(handle)
    client.put_blob(digest, tmp_path / "file", on_sent=sent.append)
    assert tries == [600_000, 600_000]
    assert sent[-1] == 600_000
    assert sent.count(262_144) == 2


def test_a_file_that_cannot_be_read_is_the_users_error(tmp_path: Path) -> None:
    client, _ = client_of(lambda _: httpx.Response(200))
    with pytest.raises(UserInputError, match=r"cannot read .*/missing"):
        client.put_blob("sha256:" + "0" * 64, tmp_path / "missing")


@pytest.mark.parametrize(
    "error",
    [
        UserInputError("bad", next_step="mend it"),
        DeviceError("cannot"),
        TransportError("gone", next_step="plug it in"),
        InternalError("a bug"),
        ManifestError("unknown key", location=Location("m.yaml", 3, 5), offending="modls", suggestion="models"),
        ManifestError("no place"),
    ],
)
def test_an_error_survives_the_way(error: EdgefleetError) -> None:
    _, document = encode_error(error)
    back = decode_error(document)
    assert type(back) is type(error)
    assert str(back) == str(error)


def test_a_narrower_error_arrives_as_its_family() -> None:
    back = decode_error(encode_error(WireError("not ours"))[1])
    assert type(back) is TransportError


def test_an_error_of_a_family_we_do_not_know_is_internal() -> None:
    assert isinstance(decode_error({"error": {"family": "martian", "message": "x"}}), InternalError)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_nothing_an_answer_holds_makes_the_decoder_raise(document: object) -> None:
    decode_error(document)
    decode_error({"error": document})
    decode_error({"error": {"family": "manifest", "message": "m", "location": document, "next_step": document}})
