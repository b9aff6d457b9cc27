"""Words in messages: shortened, and the nearest right one to a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

OFFENDING_CHARS = 60
"""Offending text is shown up to this length: enough to find it, short enough for one line."""


def shorten(text: str) -> str:
    """Return text cut to `OFFENDING_CHARS`, with the cut marked."""
    return text if len(text) <= OFFENDING_CHARS else text[: OFFENDING_CHARS - 1] + "…"


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word most like `word`, or None when none is near (difflib's ratio, 0.6)."""
    by_folded = {candidate.casefold(): candidate for candidate in allowed}
    match = difflib.get_close_matches(word[:64].casefold(), list(by_folded), n=1)
    return by_folded[match[0]] if match else None
