"""`FleetApi` spoken over HTTP. Calls survive a controller that is killed and restarted in the middle of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from pydantic import ValidationError

from edgefleet_contract.base import Record
from edgefleet_contract.errors import EdgefleetError, InternalError, TransportError, UserInputError
from edgefleet_contract.units import format_bytes
from edgefleet_controller import api
from edgefleet_controller.stack.operations import MAX_BLOB_BYTES, decode_error

_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 300.0
"""A plan or an apply checks every model first, in child processes with limits of their own below this."""
_PIECE_BYTES = 256 * 1024
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0
_GATEWAY_STATUSES = frozenset({502, 503, 504})

_Result = TypeVar("_Result", bound=Record)


class HttpApi:
    """A controller elsewhere: another process on this machine, or a server.

    Every operation may be sent twice: reads change nothing, `put_blob` is addressed by content, and the controller
    answers an apply it already works on with that apply.

    Args:
        url: `http://127.0.0.1:4180`, or the address of a remote controller.
        token: its bearer token.
        patience_s: how long a controller that cannot be reached is tried again.
        still_there: called before each new try; raises when waiting is pointless (the stack gave up).
        transport: replaces the network in tests.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        patience_s: float = 20.0,
        still_there: Callable[[], None] = lambda: None,
        transport: httpx.BaseTransport | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        sleep_s: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._patience_s = patience_s
        self._still_there = still_there
        self._clock_s = clock_s
        self._sleep_s = sleep_s
        self._http = httpx.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            trust_env=False,  # a proxy set for the internet must not see, or break, calls to loopback
            transport=transport,
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def plan(self, request: api.ApplyRequest) -> api.PlanResult:
        """Say what an apply would do; change nothing."""
        return self._post("plan", request, api.PlanResult)

    def apply(self, request: api.ApplyRequest) -> api.ApplyAccepted:
        """Check everything, then start the apply. Raises UserInputError with nothing changed."""
        return self._post("apply", request, api.ApplyAccepted)

    def revision(self, request: api.RevisionQuery) -> api.RevisionStatus:
        """Say how an apply is going."""
        return self._post("revision", request, api.RevisionStatus)

    def status(self, request: api.Empty) -> api.StatusResult:
        """Say how everything is."""
        return self._post("status", request, api.StatusResult)

    def devices(self, request: api.Empty) -> api.DevicesResult:
        """List devices."""
        return self._post("devices", request, api.DevicesResult)

    def evidence(self, request: api.EvidenceQuery) -> api.EvidenceResult:
        """List evidence, newest first."""
        return self._post("evidence", request, api.EvidenceResult)

    def health(self, request: api.Empty) -> api.HealthResult:
        """Run every health query."""
        return self._post("health", request, api.HealthResult)

    def query(self, request: api.QueryRequest) -> api.QueryResult:
        """Run a named query or a read-only SELECT."""
        return self._post("query", request, api.QueryResult)

    def missing(self, request: api.MissingRequest) -> api.MissingResult:
        """Say which blobs are lacking."""
        return self._post("missing", request, api.MissingResult)

    def put_blob(self, digest: str, path: Path, *, on_sent: api.OnSent = api.nobody) -> None:
        """Bring a file's content to the controller.

        Args:
            digest: what the content must hash to.
            path: the file.
            on_sent: called with the bytes sent so far; starts again from the beginning when a try fails.

        Raises:
            UserInputError: the file cannot be read, is too large, or does not match its digest.
        """
        size_bytes = _size_bytes(path)
        headers = {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}

        def send() -> httpx.Response:
            return self._http.put(f"/v1/blobs/{digest}", content=_pieces(path, on_sent), headers=headers)

        self._patiently(send)

    def _post(self, operation: str, request: Record, kind: type[_Result]) -> _Result:
        body = request.model_dump_json(by_alias=True).encode()
        headers = {"Content-Type": "application/json"}
        response = self._patiently(lambda: self._http.post(f"/v1/{operation}", content=body, headers=headers))
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            msg = f"the controller at {self._url} answered {operation} with something else than a {kind.__name__}"
            raise TransportError(msg, next_step="use the same version of fleet on both ends") from error

    def _patiently(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """Send until there is an answer, or patience ends. Raises what the answer says, or TransportError."""
        deadline_s = self._clock_s() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            failure = self._once(send)
            if isinstance(failure, httpx.Response):
                return failure
            if self._clock_s() + pause_s > deadline_s:
                raise self._unreachable(failure)
            self._still_there()
            self._sleep_s(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)

    def _once(self, send: Callable[[], httpx.Response]) -> httpx.Response | str:
        """Return the answer, or why there was none."""
        try:
            response = send()
        except httpx.ReadTimeout as error:
            msg = f"the controller at {self._url} gave no answer within {_READ_TIMEOUT_S:g} s"
            raise TransportError(msg, next_step="see controller.log in the run folder of the fleet's home") from error
        except httpx.TransportError as error:
            return f"{type(error).__name__}: {error}"
        if response.is_success:
            return response
        if (refusal := _error_of(response)) is not None:
            raise refusal
        if response.status_code in _GATEWAY_STATUSES:
            return f"status {response.status_code}"
        raise InternalError(f"the controller at {self._url} answered with status {response.status_code} and no reason")

    def _unreachable(self, failure: str) -> TransportError:
        msg = f"the controller at {self._url} could not be reached for {self._patience_s:g} s ({failure})"
        return TransportError(msg, next_step="check that it runs: `fleet status`; start one with `fleet up`")


def is_healthy(url: str, token: str, *, timeout_s: float = 2.0) -> bool:
    """Tell whether a controller answers at `url` and accepts `token`."""
    try:
        response = httpx.get(
            f"{url}/healthz", headers={"Authorization": f"Bearer {token}"}, timeout=timeout_s, trust_env=False
        )
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return response.is_success


def _error_of(response: httpx.Response) -> EdgefleetError | None:
    try:
        document: Any = response.json()
    except ValueError:
        return None
    return decode_error(document)


def _size_bytes(path: Path) -> int:
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise UserInputError(f"cannot read {path}: {error.strerror}") from error
    if size_bytes > MAX_BLOB_BYTES:
        msg = f"{path} has {format_bytes(size_bytes)}; allowed: up to {format_bytes(MAX_BLOB_BYTES)}"
        raise UserInputError(msg)
    return size_bytes


def _pieces(path: Path, on_sent: Callable[[int], None]) -> Iterator[bytes]:
    sent_bytes = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
            sent_bytes += len(piece)
            on_sent(sent_bytes)
