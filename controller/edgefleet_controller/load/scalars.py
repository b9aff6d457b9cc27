"""Plain scalars by YAML 1.2's core schema: no `yes`/`on` booleans, no `10:30` numbers, no dates, no `010` octals."""

from __future__ import annotations

import re

_NULL = re.compile(r"|null|Null|NULL|~")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
_NAN = re.compile(r"\.(?:nan|NaN|NAN)")

MAX_NUMBER_CHARS = 64
"""A longer number is taken as text: no quantity needs it, and Python refuses integers above 4,300 digits."""

Scalar = str | int | float | bool | None


def resolve_plain(text: str) -> Scalar:
    """Return the value an unquoted YAML scalar stands for; what is nothing else is text."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    return _resolve_number(text) if len(text) <= MAX_NUMBER_CHARS else text


def _resolve_number(text: str) -> str | int | float:
    if _INT.fullmatch(text):
        return int(text, 10)
    if _OCTAL_OR_HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text) or _NAN.fullmatch(text):
        return float(text.replace(".", ""))
    return text
