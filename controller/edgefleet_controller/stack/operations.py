"""The HTTP form of `FleetApi`: its operations by name, and errors as JSON, the same for server and client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgefleet_contract.base import Record
from edgefleet_contract.errors import (
    DeviceError,
    EdgefleetError,
    InternalError,
    Location,
    ManifestError,
    TransportError,
    UserInputError,
)
from edgefleet_controller import api
from edgefleet_controller.planner import PlanError

MAX_BODY_BYTES = 2 * 1024**2
"""A manifest may be 1 MiB of text; parsed and with the digests of its files it stays below this."""
MAX_BLOB_BYTES = 2 * 1024**3
"""ONNX's own limit for one file (protobuf)."""


@dataclass(frozen=True)
class Operation:
    """The records one operation takes and gives."""

    request: type[Record]
    result: type[Record]


OPERATIONS: dict[str, Operation] = {
    "plan": Operation(api.ApplyRequest, api.PlanResult),
    "apply": Operation(api.ApplyRequest, api.ApplyAccepted),
    "revision": Operation(api.RevisionQuery, api.RevisionStatus),
    "status": Operation(api.Empty, api.StatusResult),
    "devices": Operation(api.Empty, api.DevicesResult),
    "evidence": Operation(api.EvidenceQuery, api.EvidenceResult),
    "health": Operation(api.Empty, api.HealthResult),
    "query": Operation(api.QueryRequest, api.QueryResult),
    "missing": Operation(api.MissingRequest, api.MissingResult),
}

_FAMILIES: tuple[tuple[str, type[EdgefleetError], int], ...] = (
    ("manifest", ManifestError, 400),
    ("user-input", UserInputError, 400),
    ("device", DeviceError, 409),
    ("transport", TransportError, 502),
    ("internal", InternalError, 500),
)
"""Name on the wire, class, HTTP status; a subclass before its base."""


def encode_error(error: EdgefleetError) -> tuple[int, dict[str, Any]]:
    """Return (HTTP status, JSON document) of an error."""
    family, _, status = next((row for row in _FAMILIES if isinstance(error, row[1])), _FAMILIES[-1])
    body: dict[str, Any] = {"family": family, "message": error.message, "next_step": error.next_step}
    if isinstance(path := getattr(error, "path", None), tuple):
        body["path"] = list(path)
    if isinstance(error, ManifestError) and type(error) is not ManifestError:
        body["message"] = str(error)  # several problems in one: the text carries their places
    elif isinstance(error, ManifestError):
        place = error.location
        body["location"] = None if place is None else [place.file, place.line, place.column]
        body["offending"] = error.offending
        body["suggestion"] = error.suggestion
    return status, {"error": body}


def decode_error(document: object) -> EdgefleetError | None:
    """Return the error a document holds, of the family it had; None when it holds none."""
    body = document.get("error") if isinstance(document, dict) else None
    if not isinstance(body, dict) or not isinstance(body.get("message"), str):
        return None
    message, step = body["message"], _text(body.get("next_step"))
    if body.get("family") == "manifest":
        return _manifest_error(message, step, body)
    if (path := _path(body.get("path"))) is not None:
        return PlanError(message, path=path, next_step=step)
    kind = next((row[1] for row in _FAMILIES if row[0] == body.get("family")), InternalError)
    return kind(message, next_step=step)


def _manifest_error(message: str, step: str | None, body: dict[str, Any]) -> ManifestError:
    return ManifestError(
        message,
        location=_location(body.get("location")),
        offending=_text(body.get("offending")),
        suggestion=_text(body.get("suggestion")),
        next_step=step,
    )


def _path(value: object) -> tuple[str | int, ...] | None:
    """Return where in the manifest an error stands, which only the one who has the file can turn into a line."""
    if not isinstance(value, list) or not all(isinstance(part, (str, int)) for part in value):
        return None
    return tuple(value)


def _location(value: object) -> Location | None:
    match value:
        case [str(file), int(line), int(column)]:
            return Location(file, line, column)
        case _:
            return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
