"""Server and client together, over real sockets."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgefleet_contract.errors import EdgefleetError, ManifestError, TransportError, UserInputError
from edgefleet_controller.api import Empty, MissingRequest, Phase, QueryRequest, RevisionQuery
from edgefleet_controller.stack.client import HttpApi, is_healthy
from edgefleet_controller.stack.ports import free_port
from edgefleet_controller.stack.server import create_app, serve
from edgefleet_hil.doubles import FakeFleetApi

TOKEN = "of-this-test"  # noqa: S105 - not a secret


class Running:
    """A server in a thread; `stop` returns when it has ended."""

    def __init__(self, fake: FakeFleetApi, folder: Path) -> None:
        self.port = free_port()
        self._bound = threading.Event()
        self._stop: Callable[[], None] = lambda: None
        app = create_app(fake, TOKEN, folder)
        self._thread = threading.Thread(target=lambda: serve(app, port=self.port, on_bound=self._note), daemon=True)
        self._thread.start()
        assert self._bound.wait(10)

    def _note(self, port: int, stop: Callable[[], None]) -> None:
        assert port == self.port
        self._stop = stop
        self._bound.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._stop()
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def server(fake: FakeFleetApi, tmp_path: Path) -> Iterator[Running]:
    running = Running(fake, tmp_path)
    yield running
    running.stop()


@pytest.fixture
def client(server: Running) -> Iterator[HttpApi]:
    with HttpApi(server.url, TOKEN) as api:
        yield api


def test_an_operation_goes_there_and_back(client: HttpApi, fake: FakeFleetApi) -> None:
    assert client.query(QueryRequest(query="select 1")).rows == (("select 1",),)
    assert [row.device for row in client.status(Empty()).devices] == ["local"]
    assert fake.calls[0] == ("query", QueryRequest(query="select 1"))


@pytest.mark.parametrize(
    "error", [UserInputError("no", next_step="do"), ManifestError("bad", offending="x"), TransportError("broker gone")]
)
def test_what_the_api_raises_is_raised_here(client: HttpApi, fake: FakeFleetApi, error: EdgefleetError) -> None:
    fake.errors["health"] = error
    with pytest.raises(type(error)) as caught:
        client.health(Empty())
    assert str(caught.value) == str(error)


def test_a_blob_of_several_megabytes_arrives_whole_with_progress(
    client: HttpApi, fake: FakeFleetApi, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 20_000
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    (tmp_path / "model.onnx").write_bytes(content)
    sent: list[int] = []
    client.put_blob(digest, tmp_path / "model.onnx", on_sent=sent.append)
    assert fake.blobs[digest] == content
    assert sent == sorted(sent)
    assert sent[-1] == len(content)
    assert client.missing(MissingRequest(digests=(digest,))).digests == ()


def test_waiting_clients_have_a_bounded_pool_and_keep_nobody_from_being_answered(
    fake: FakeFleetApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefleet_controller.stack.server._POLL_THREADS_N", 2)
    monkeypatch.setattr("edgefleet_controller.stack.server._POLL_SLICE_S", 20.0)
    fake.phase = Phase.BUILDING
    server = Running(fake, tmp_path)
    with ThreadPoolExecutor(8) as pool, HttpApi(server.url, TOKEN) as client:
        waiting = [pool.submit(_wait_for_news, server.url) for _ in range(8)]
        while sum(1 for operation, _ in list(fake.calls) if operation == "revision") < 2:
            assert not any(future.done() for future in waiting)
        for _ in range(50):
            client.query(QueryRequest(query="now"))
        assert sum(1 for operation, _ in fake.calls if operation == "revision") == 2
        fake.phase = Phase.COMPLETE
        fake.news.set()
        assert {future.result(30) for future in waiting} == {Phase.COMPLETE}
    server.stop()


def _wait_for_news(url: str) -> Phase:
    with HttpApi(url, TOKEN) as api:
        return api.revision(RevisionQuery(wait_s=25)).phase


def test_the_server_stops_soon_although_clients_wait(fake: FakeFleetApi, tmp_path: Path) -> None:
    fake.phase = Phase.BUILDING
    running = Running(fake, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_wait_briefly, running.url)
        while not fake.calls:
            assert not waiting.done()
        running.stop()
        assert isinstance(waiting.exception(10), EdgefleetError)


def _wait_briefly(url: str) -> None:
    with HttpApi(url, TOKEN, patience_s=0.0) as api:
        api.revision(RevisionQuery(wait_s=25))


def test_health_tells_right_token_from_wrong_and_running_from_gone(server: Running) -> None:
    assert is_healthy(server.url, TOKEN)
    assert not is_healthy(server.url, "other")
    assert not is_healthy(f"http://127.0.0.1:{free_port()}", TOKEN)
    assert not is_healthy("http://[broken", TOKEN)


def test_a_proxy_for_the_internet_does_not_see_calls_to_loopback(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{free_port()}")
    assert is_healthy(server.url, TOKEN)
    with HttpApi(server.url, TOKEN, patience_s=0.0) as api:
        assert api.devices(Empty()).devices


def test_a_port_in_use_is_the_users_error(fake: FakeFleetApi, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserInputError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(create_app(fake, TOKEN, tmp_path), port=port)
