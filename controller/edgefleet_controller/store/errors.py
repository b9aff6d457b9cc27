"""Errors of the store, and the words SQLite says them in."""

from __future__ import annotations

from edgefleet_contract.errors import EdgefleetError, InternalError, TransportError, UserInputError


class StoreError(TransportError):
    """The store cannot be read or written at the moment; nothing was half written."""


_PHRASES: tuple[tuple[str, type[EdgefleetError], str, str], ...] = (
    (
        "disk is full",
        StoreError,
        "the disk that holds {place} is full; the change was rolled back",
        "free some space there and try again: devices keep their reports until they are acknowledged",
    ),
    (
        "disk i/o error",
        StoreError,
        "the disk that holds {place} failed to read or write",
        "check the disk's health and free space, then try again",
    ),
    (
        "database is locked",
        StoreError,
        "another process has been writing to {place} for too long",
        "see with `fleet status` what is running, or try again",
    ),
    (
        "readonly database",
        UserInputError,
        "{place} cannot be written: it is read-only for this user",
        "make the folder writable, or set FLEET_HOME to one that is",
    ),
    (
        "unable to open database file",
        UserInputError,
        "{place} cannot be opened or created",
        "check that its folder exists and is writable, or set FLEET_HOME to one that is",
    ),
    (
        "file is not a database",
        UserInputError,
        "{place} is not a store: it is not an SQLite file",
        "move it away, or set FLEET_HOME to another folder",
    ),
    (
        "malformed",
        StoreError,
        "{place} is damaged",
        "move it away and apply again: devices keep serving, and report again",
    ),
)


def translate(error: Exception, place: str) -> EdgefleetError:
    """Return the error of ours that says what a database error means and what to do.

    Args:
        error: what the driver or SQLAlchemy raised.
        place: the store, as its user knows it.
    """
    text = str(getattr(error, "orig", None) or error)
    for phrase, family, message, next_step in _PHRASES:
        if phrase in text.lower():
            return family(message.format(place=place), next_step=next_step)
    return InternalError(f"the store {place} refused a statement: {text[:500]}")
