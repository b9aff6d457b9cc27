from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import Message, Scope

from edgefleet_contract.errors import DeviceError, TransportError, UserInputError
from edgefleet_controller.api import Phase, RevisionQuery
from edgefleet_controller.stack import server
from edgefleet_controller.stack.operations import MAX_BLOB_BYTES, MAX_BODY_BYTES, OPERATIONS
from edgefleet_controller.stack.server import create_app
from edgefleet_hil.doubles import FakeFleetApi

TOKEN = "t0ken"  # noqa: S105 - of a test
AUTH = {"Authorization": f"Bearer {TOKEN}"}
CONTENT = b"weights" * 100_000
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Client:
    """Blocking requests to the application, without a network."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    def request(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as http:
                return await http.request(method, path, headers={**AUTH, **(headers or {})}, **more)

        return anyio.run(send)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.request("POST", path, **more)

    def put(self, path: str, **more: Any) -> httpx.Response:
        return self.request("PUT", path, **more)


@pytest.fixture
def client(fake: FakeFleetApi, tmp_path: Path) -> Client:
    return Client(create_app(fake, TOKEN, tmp_path))


@pytest.mark.parametrize("operation", ["status", "devices", "health", "evidence"])
def test_an_operation_answers_with_its_record(client: Client, operation: str) -> None:
    response = client.post(f"/v1/{operation}", json={})
    assert response.status_code == 200
    answer = OPERATIONS[operation].result.model_validate_json(response.content)
    assert answer.model_dump(mode="json") == response.json()


def test_health_of_the_process_itself_needs_no_api(client: Client, fake: FakeFleetApi) -> None:
    assert client.request("GET", "/healthz").json() == {"status": "ok"}
    assert fake.calls == []


@pytest.mark.parametrize("path", ["/v1/status", "/healthz", "/anything"])
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN])
def test_without_the_token_nothing_is_answered(client: Client, fake: FakeFleetApi, path: str, header: str) -> None:
    response = client.request("POST", path, json={}, headers={"Authorization": header})
    assert response.status_code == 401
    assert fake.calls == []


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost:1:2", "10.0.0.1:80"])
def test_a_host_that_is_not_loopback_is_refused(client: Client, fake: FakeFleetApi, host: str) -> None:
    response = client.post("/v1/status", json={}, headers={"Host": host})
    assert response.status_code == 421
    assert fake.calls == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:4180", "localhost:4180", "[::1]:4180"])
def test_every_name_of_loopback_is_allowed(client: Client, host: str) -> None:
    assert client.post("/v1/status", json={}, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "family"),
    [
        (UserInputError("no such model", next_step="name one"), 400, "user-input"),
        (DeviceError("cannot"), 409, "device"),
        (TransportError("gone"), 502, "transport"),
        (ZeroDivisionError("division by zero"), 500, "internal"),
    ],
)
def test_errors_become_statuses_by_family(
    client: Client, fake: FakeFleetApi, error: Exception, status: int, family: str
) -> None:
    fake.errors["status"] = error
    response = client.post("/v1/status", json={})
    assert response.status_code == status
    assert response.json()["error"]["family"] == family


def test_a_bug_is_logged_with_its_traceback(
    client: Client, fake: FakeFleetApi, caplog: pytest.LogCaptureFixture
) -> None:
    fake.errors["status"] = ZeroDivisionError("division by zero")
    with caplog.at_level(logging.ERROR):
        client.post("/v1/status", json={})
    assert caplog.records[-1].exc_info is not None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"unknown": 1}', b'{"query": ""}', b"9" * 5000])
def test_what_is_not_the_operations_record_is_the_users_error(client: Client, body: bytes) -> None:
    response = client.post("/v1/query", content=body)
    assert response.status_code == 400
    assert "not a valid query request" in response.json()["error"]["message"]


def test_an_unknown_operation_names_the_known_ones(client: Client) -> None:
    response = client.post("/v1/explode", json={})
    assert response.status_code == 404
    assert "plan, apply" in response.json()["error"]["message"]


@pytest.mark.parametrize("name", ["put_blob", "__init__", "_note"])
def test_only_operations_of_the_table_can_be_called(client: Client, fake: FakeFleetApi, name: str) -> None:
    assert client.post(f"/v1/{name}", json={}).status_code == 404
    assert fake.calls == []


def test_a_body_over_the_limit_is_refused(client: Client, fake: FakeFleetApi) -> None:
    response = client.post("/v1/query", content=b" " * (MAX_BODY_BYTES + 1))
    assert response.status_code == 400
    assert "longer than" in response.json()["error"]["message"]
    assert fake.calls == []


def test_a_blob_arrives_whole_and_leaves_no_upload_behind(client: Client, fake: FakeFleetApi, tmp_path: Path) -> None:
    assert client.put(f"/v1/blobs/{DIGEST}", content=CONTENT).status_code == 200
    assert fake.blobs[DIGEST] == CONTENT
    assert list(tmp_path.iterdir()) == []


def test_a_blob_that_does_not_match_its_digest_is_refused(client: Client, tmp_path: Path) -> None:
    response = client.put(f"/v1/blobs/{DIGEST}", content=b"other")
    assert response.status_code == 400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", ["sha256:abc", "md5:" + "0" * 32, "..%2f..%2fetc", "sha256:" + "A" * 64])
def test_what_is_no_digest_is_refused(client: Client, fake: FakeFleetApi, digest: str) -> None:
    assert client.put(f"/v1/blobs/{digest}", content=b"x").status_code in {400, 404}
    assert fake.calls == []


@pytest.mark.parametrize(
    ("length", "said"), [(None, "Content-Length"), ("-1", "Content-Length"), (str(MAX_BLOB_BYTES + 1), "allowed: up")]
)
def test_an_upload_without_a_bounded_size_is_refused_before_it_is_read(
    fake: FakeFleetApi, tmp_path: Path, length: str | None, said: str
) -> None:
    status, answer = put_raw(fake, tmp_path, length, [b"x"])
    assert status == 400
    assert said in answer["error"]["message"]


def test_an_upload_that_ends_early_is_refused(fake: FakeFleetApi, tmp_path: Path) -> None:
    status, answer = put_raw(fake, tmp_path, "100", [b"only", b"this"])
    assert status == 400
    assert "ended after 8 bytes; announced: 100" in answer["error"]["message"]
    assert fake.calls == []


def test_a_full_disk_during_an_upload_is_said_with_how_far_it_came(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def full(path: Path, mode: str = "r") -> object:
        return real(Path("/dev/full"), mode, buffering=0)

    monkeypatch.setattr(Path, "open", full)
    response = client.put(f"/v1/blobs/{DIGEST}", content=CONTENT)
    assert response.status_code == 400
    assert "No space left on device" in response.json()["error"]["message"]


def test_a_long_poll_waits_in_short_pieces_and_ends_with_its_time(
    client: Client, fake: FakeFleetApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_POLL_SLICE_S", 0.02)
    fake.phase = Phase.BUILDING
    response = client.post("/v1/revision", json={"wait_s": 0.1})
    assert response.json()["phase"] == "building"
    assert 2 <= len(fake.calls) <= 7  # how many depends on how busy the machine is; how long each waits does not
    assert all(isinstance(query, RevisionQuery) and query.wait_s <= 0.02 for _, query in fake.calls)


def test_a_long_poll_ends_at_once_when_the_phase_is_final(client: Client, fake: FakeFleetApi) -> None:
    fake.news.set()
    assert client.post("/v1/revision", json={"wait_s": 30}).json()["phase"] == "complete"
    assert len(fake.calls) == 1


def put_raw(
    fake: FakeFleetApi, folder: Path, length: str | None, pieces: list[bytes]
) -> tuple[int, dict[str, dict[str, str]]]:
    """Send an upload no well-behaved client would send."""
    headers = [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {TOKEN}".encode())]
    if length is not None:
        headers.append((b"content-length", length.encode()))
    scope: Scope = {"type": "http", "method": "PUT", "path": f"/v1/blobs/{DIGEST}", "headers": headers}
    scope = {**scope, "query_string": b"", "root_path": "", "http_version": "1.1", "raw_path": b""}
    incoming = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    incoming.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Message] = []

    async def run() -> None:
        async def receive() -> Message:
            return incoming.pop(0)

        async def send(message: Message) -> None:
            sent.append(message)

        await create_app(fake, TOKEN, folder)(scope, receive, send)

    anyio.run(run)
    return sent[0]["status"], json.loads(sent[1]["body"])
