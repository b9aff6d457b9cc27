"""A YAML document as a tree that remembers where everything stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgefleet_contract.errors import Location
from edgefleet_controller.load.scalars import Scalar
from edgefleet_controller.words import shorten


@dataclass(frozen=True)
class ScalarNode:
    """One value; `text` as it was written, without quotes."""

    text: str
    value: Scalar
    at: Location


@dataclass(frozen=True)
class SequenceNode:
    """A list."""

    items: tuple[Node, ...]
    at: Location


@dataclass(frozen=True)
class MappingNode:
    """A mapping; keys are text, whatever they look like, and distinct."""

    entries: dict[str, tuple[ScalarNode, Node]]
    at: Location


Node = ScalarNode | SequenceNode | MappingNode


@dataclass(frozen=True)
class Step:
    """One step into the tree: the node, and the key that names it where it has one."""

    node: Node
    key: ScalarNode | None = None

    @property
    def at(self) -> Location:
        """Where people look for it: a value where it stands; a collection, or nothing, at the key that names it."""
        if self.key is None or (isinstance(self.node, ScalarNode) and self.node.text):
            return self.node.at
        return self.key.at


def child(node: Node, part: str | int) -> Step | None:
    """Return the step to a child, or None when there is none by that key or index."""
    if isinstance(node, MappingNode) and isinstance(part, str) and part in node.entries:
        key, value = node.entries[part]
        return Step(value, key)
    if isinstance(node, SequenceNode) and isinstance(part, int) and 0 <= part < len(node.items):
        return Step(node.items[part])
    return None


def descend(root: Node, path: Sequence[str | int]) -> Step:
    """Return the deepest step `path` leads to; parts that name no child (pydantic's union tags) are passed over."""
    step = Step(root)
    for part in path:
        step = child(step.node, part) or step
    return step


class Truth:
    """`true` or `false` in a manifest, whose language has neither: no field takes one, and a number is no place for it.

    Python counts True as 1, so that `scale: true` would pass for a number.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


def plain(node: Node) -> object:
    """Return the tree as plain lists, dictionaries and values; `true` and `false` as `Truth`."""
    if isinstance(node, ScalarNode):
        return Truth(node.text) if isinstance(node.value, bool) else node.value
    if isinstance(node, SequenceNode):
        return [plain(item) for item in node.items]
    return {key: plain(value) for key, (_, value) in node.entries.items()}


def offending(node: Node) -> str | None:
    """Return the text of a scalar, shortened; None for a collection."""
    return shorten(node.text) if isinstance(node, ScalarNode) else None
