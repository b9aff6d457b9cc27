"""Text from outside, made fit for screens, logs and databases. Standard library only."""

from __future__ import annotations

import re

_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
"""What steers a terminal: colours, cursor, titles."""
_CONTROLS = {
    code: "\ufffd" for code in (*range(32), *range(127, 160), *range(0xD800, 0xE000)) if chr(code) not in "\t\n"
}
_CONTROLS[ord("\r")] = "\n"


def printable(text: str) -> str:
    """Return `text` without what steers a terminal or no database takes: escapes go, other controls become U+FFFD.

    NUL is no text to PostgreSQL, lone surrogates are none to UTF-8; line ends and tabs stay.
    """
    return _SEQUENCES.sub("", text).replace("\r\n", "\n").translate(_CONTROLS)
