"""Label selectors: `site=lobby, arch in (aarch64, x86_64), !canary`.

The grammar and the meaning are Kubernetes' (set-based and equality-based requirements, joined by commas).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, StringConstraints

MAX_SELECTOR_CHARS = 1024
_KEY = r"[a-z0-9](?:[a-z0-9._/-]{0,61}[a-z0-9])?"
_VALUE = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_SET = re.compile(rf"^({_KEY})\s+(in|notin)\s*\(([^()]*)\)$")
_EQUAL = re.compile(rf"^({_KEY})\s*(==|=|!=)\s*({_VALUE})$")
_EXISTS = re.compile(rf"^(!?)\s*({_KEY})$")
_SPLIT = re.compile(r",(?![^(]*\))")

LabelKey = Annotated[str, StringConstraints(pattern=rf"^{_KEY}$")]
LabelValue = Annotated[str, StringConstraints(pattern=rf"^{_VALUE}$")]

Operator = Literal["in", "notin", "exists", "absent"]


@dataclass(frozen=True)
class Requirement:
    """One condition on a device's labels."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether a device with these labels meets the condition. `notin` also holds without the key."""
        if self.operator == "exists":
            return self.key in labels
        if self.operator == "absent":
            return self.key not in labels
        held = labels.get(self.key)
        return (held in self.values) == (self.operator == "in")


@dataclass(frozen=True)
class Selector:
    """Conditions that all must hold."""

    requirements: tuple[Requirement, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether a device with these labels meets every condition."""
        return all(requirement.matches(labels) for requirement in self.requirements)


def parse_selector(text: str) -> Selector:
    """Parse a selector.

    Raises:
        ValueError: empty, too long, or a condition outside the grammar.
    """
    if len(text) > MAX_SELECTOR_CHARS:
        msg = f"a selector has at most {MAX_SELECTOR_CHARS} characters, got {len(text)}"
        raise ValueError(msg)
    return Selector(tuple(_parse_requirement(part.strip()) for part in _SPLIT.split(text)))


def _parse_requirement(text: str) -> Requirement:
    if match := _SET.match(text):
        values = tuple(value.strip() for value in match[3].split(","))
        if all(re.fullmatch(_VALUE, value) for value in values):
            return Requirement(match[1], "in" if match[2] == "in" else "notin", values)
    if match := _EQUAL.match(text):
        return Requirement(match[1], "notin" if match[2] == "!=" else "in", (match[3],))
    if match := _EXISTS.match(text):
        return Requirement(match[2], "absent" if match[1] else "exists")
    msg = f"not a condition: {text!r}; write key=value, key!=value, key in (a, b), key notin (a, b), key or !key"
    raise ValueError(msg)


def _validate(text: str) -> str:
    parse_selector(text)
    return text


SelectorText = Annotated[str, AfterValidator(_validate)]
"""A selector as text, checked."""
