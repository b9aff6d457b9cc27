"""Options of one engine on this device, from its environment: `key=value,key=value`."""

from __future__ import annotations

from collections.abc import Mapping

from edgefleet_contract.base import clip_reason
from edgefleet_contract.errors import UserInputError

MAX_OPTIONS = 32
MAX_TEXT_CHARS = 4096


class EngineOptionsError(UserInputError):
    """An environment variable with an engine's options does not have its form."""


def engine_options(variable: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the options a variable holds; empty where it is not set.

    Args:
        variable: its name.
        environ: the environment.

    Raises:
        EngineOptionsError: not `key=value,key=value`, more than 32 of them, or longer than 4,096 characters.
    """
    text = environ.get(variable, "")
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if len(text) > MAX_TEXT_CHARS or len(pairs) > MAX_OPTIONS or not all(key.strip() and eq for key, eq, _ in pairs):
        msg = f"{variable} is {text[:200]!r}; write key=value,key=value, at most {MAX_OPTIONS} of them"
        raise EngineOptionsError(clip_reason(msg))
    return {key.strip(): value.strip() for key, _, value in pairs}
