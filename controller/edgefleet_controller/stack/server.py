"""A `FleetApi` over HTTP on the loopback interface: `POST /v1/<operation>`, `PUT /v1/blobs/<digest>`, `GET /healthz`.

Every request needs the bearer token, and a Host header that names the loopback interface: a web page that had its own
name resolve to 127.0.0.1 (DNS rebinding) is refused before anything is read.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edgefleet_contract.base import Record
from edgefleet_contract.errors import EdgefleetError, InternalError, UserInputError
from edgefleet_contract.units import format_bytes
from edgefleet_controller.api import FleetApi, RevisionQuery, RevisionStatus
from edgefleet_controller.stack.operations import MAX_BLOB_BYTES, MAX_BODY_BYTES, OPERATIONS, encode_error
from edgefleet_controller.stack.ports import LOOPBACK

_log = logging.getLogger(__name__)
_LOCAL_HOST = re.compile(r"^(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?$")
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")
_CALL_THREADS_N = 32
_POLL_THREADS_N = 32
_POLL_SLICE_S = 0.5
"""Longest single wait inside the service: the process must end soon after SIGTERM, and a thread cannot be cancelled."""
_GRACE_S = 1
"""For requests under way at SIGTERM; below the 3 s after which a supervisor kills."""

_Result = TypeVar("_Result")


def create_app(api: FleetApi, token: str, upload_dir: Path) -> Starlette:
    """Return the ASGI application.

    Args:
        api: what answers; its methods are called from several threads.
        token: the bearer token every request must carry.
        upload_dir: where blobs lie until the api has taken them; on the same disk as the blob folder, best.
    """
    endpoints = _Endpoints(api, upload_dir)
    routes = [
        Route("/healthz", _healthz, methods=["GET"]),
        Route("/v1/blobs/{digest}", endpoints.put_blob, methods=["PUT"]),
        Route("/v1/{operation}", endpoints.call, methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(_Gate, token=token)])


async def _healthz(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


class _Gate:
    """Refuse what does not come from this machine with our token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refusal = self._refusal(dict(scope["headers"]))
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, headers: dict[bytes, bytes]) -> Response | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if not _LOCAL_HOST.match(host):
            return _error(UserInputError(f"the Host header {host[:100]!r} does not name this machine's loopback"), 421)
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            step = "take the token from run/stack.json in the fleet's home, or set FLEET_TOKEN"
            return _error(UserInputError("the request carries no valid bearer token", next_step=step), 401)
        return None


class _Endpoints:
    def __init__(self, api: FleetApi, upload_dir: Path) -> None:
        self._api = api
        self._upload_dir = upload_dir
        # Two pools: clients that wait for progress never keep others from being answered.
        self._calls = anyio.CapacityLimiter(_CALL_THREADS_N)
        self._polls = anyio.CapacityLimiter(_POLL_THREADS_N)

    async def call(self, request: Request) -> Response:
        name = request.path_params["operation"]
        operation = OPERATIONS.get(name)
        if operation is None:
            allowed = ", ".join(OPERATIONS)
            return _error(UserInputError(f"unknown operation {name[:100]!r}; allowed: {allowed}"), 404)
        return await _answer(lambda: self._call(name, operation.request, request))

    async def _call(self, name: str, kind: type[Record], request: Request) -> Response:
        question = _parse(kind, await _body(request), name)
        if isinstance(question, RevisionQuery) and question.wait_s > 0:
            return _json(await self._poll(question))
        method: Callable[[Any], Record] = getattr(self._api, name)
        return _json(await _in_thread(lambda: method(question), self._calls))

    async def _poll(self, query: RevisionQuery) -> RevisionStatus:
        deadline_s = time.monotonic() + query.wait_s
        while True:
            left_s = max(0.0, deadline_s - time.monotonic())
            piece = query.model_copy(update={"wait_s": min(left_s, _POLL_SLICE_S)})
            status = await _in_thread(partial(self._api.revision, piece), self._polls)
            if status.events or status.phase.final or left_s <= _POLL_SLICE_S:
                return status

    async def put_blob(self, request: Request) -> Response:
        return await _answer(lambda: self._put_blob(request))

    async def _put_blob(self, request: Request) -> Response:
        digest = request.path_params["digest"]
        if not _DIGEST.match(digest):
            raise UserInputError(f"not a digest: {digest[:100]!r}; allowed: sha256: and 64 hexadecimal digits")
        size_bytes = _content_length(request)
        with _upload_file(self._upload_dir) as path:
            await _receive(request, path, size_bytes)
            await _in_thread(lambda: self._api.put_blob(digest, path), self._calls)
        return JSONResponse({})


async def _in_thread(function: Callable[[], _Result], limiter: anyio.CapacityLimiter) -> _Result:
    return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)


async def _answer(handle: Callable[[], Any]) -> Response:
    """Turn errors into answers: the edge where families become statuses."""
    try:
        response: Response = await handle()
    except EdgefleetError as error:
        status, _ = encode_error(error)
        if status >= 500:
            _log.warning("request failed", exc_info=error)
        return _error(error)
    except ClientDisconnect:
        return Response(status_code=499)
    except Exception as error:  # noqa: BLE001 - process boundary: the client gets an answer, the log the traceback
        _log.exception("a bug in edgefleet")
        return _error(InternalError(f"{type(error).__name__}: {error}", next_step="see controller.log"))
    return response


async def _body(request: Request) -> bytes:
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > MAX_BODY_BYTES:
            raise UserInputError(f"the request is longer than the {format_bytes(MAX_BODY_BYTES)} allowed")
    return bytes(received)


def _parse(kind: type[Record], body: bytes, operation: str) -> Record:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        msg = f"not a valid {operation} request: {where + ': ' if where else ''}{first['msg'][:500]}"
        raise UserInputError(msg, next_step="use the same version of fleet on both ends") from error


def _content_length(request: Request) -> int:
    text = request.headers.get("content-length", "")
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise UserInputError("an upload needs a Content-Length header with its size in bytes")
    if (size_bytes := int(text)) > MAX_BLOB_BYTES:
        raise UserInputError(f"a file of {format_bytes(size_bytes)}; allowed: up to {format_bytes(MAX_BLOB_BYTES)}")
    return size_bytes


@contextlib.contextmanager
def _upload_file(folder: Path) -> Iterator[Path]:
    fd, name = tempfile.mkstemp(prefix="upload-", dir=folder)
    os.close(fd)
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


async def _receive(request: Request, path: Path, size_bytes: int) -> None:
    received_bytes = 0
    try:
        with path.open("wb") as file:
            async for chunk in request.stream():
                received_bytes += file.write(chunk)
    except OSError as error:
        msg = f"cannot store the upload after {format_bytes(received_bytes)} of {format_bytes(size_bytes)}: "
        raise UserInputError(msg + (error.strerror or str(error)), next_step="free some space on its disk") from error
    if received_bytes != size_bytes:
        raise UserInputError(f"the upload ended after {received_bytes} bytes; announced: {size_bytes}")


def _json(record: Record) -> Response:
    return Response(record.model_dump_json(by_alias=True), media_type="application/json")


def _error(error: EdgefleetError, status: int | None = None) -> Response:
    by_family, document = encode_error(error)
    return JSONResponse(document, status_code=status or by_family)


class _Server(uvicorn.Server):
    """uvicorn ends itself by the signal that stopped it, before its caller can clean up; this one returns."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(
    app: ASGIApp, *, host: str = LOOPBACK, port: int, on_bound: Callable[[int, Callable[[], None]], None] | None = None
) -> None:
    """Serve until SIGTERM or SIGINT (when called in the main thread) or until stopped, then return.

    Args:
        app: the application.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        on_bound: called before the first request with the port and a function that stops the server.

    Raises:
        UserInputError: the port cannot be listened on.
    """
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=_GRACE_S
    )
    server = _Server(config)
    with _listen(host, port) as listener:
        if on_bound is not None:
            on_bound(listener.getsockname()[1], lambda: setattr(server, "should_exit", True))
        server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        msg = f"cannot listen on {host}:{port}: {error.strerror}"
        raise UserInputError(msg, next_step="choose another port, or 0 for a free one") from error
    return listener
