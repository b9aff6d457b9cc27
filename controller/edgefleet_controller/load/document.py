"""A file's bytes to a bounded tree. PyYAML is imported here only, and only its scanner and parser are used.

Anchors, aliases, tags, merge keys, duplicate keys and further documents are refused: a manifest needs none of
them, and each is a known way to hide what a file says or to make a small file large.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import yaml

from edgefleet_contract.errors import Location, ManifestError
from edgefleet_controller.load.nodes import MappingNode, Node, ScalarNode, SequenceNode
from edgefleet_controller.load.scalars import resolve_plain
from edgefleet_controller.words import shorten

MAX_FILE_BYTES = 1024 * 1024
"""A manifest of 64 models and 256 deployments, everything said, is below 200 kB."""
MAX_NODES = 20_000
MAX_DEPTH = 32
MAX_KEY_CHARS = 1024
_SURROGATE = re.compile("[\ud800-\udfff]")
"""YAML's escapes can write them; no terminal and no file can hold them."""


def read_text(path: Path, file: str) -> str:
    """Return a manifest's text; at most one byte more than `MAX_FILE_BYTES` is read.

    Raises:
        ManifestError: not a readable file, too large, or not UTF-8 text.
    """
    data = _read_bounded(path, file)
    if len(data) > MAX_FILE_BYTES:
        raise ManifestError(
            f"the manifest is larger than {MAX_FILE_BYTES} bytes",
            location=Location(file, 1, 1),
            next_step="is this the manifest? Models and samples belong in files of their own",
        )
    return decode_text(data, file)


def _read_bounded(path: Path, file: str) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would block, a device would never end
            raise ManifestError(f"{file} is not a regular file", next_step="give the path of a manifest")
        with path.open("rb") as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ManifestError(f"cannot read {file}: {reason}", next_step="check the path and its permissions") from error


def decode_text(data: bytes, file: str) -> str:
    """Return bytes as text.

    Raises:
        ManifestError: a byte order mark, not UTF-8, or a NUL; with its place.
    """
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError(
            "the file starts with a byte order mark",
            location=Location(file, 1, 1),
            next_step="save it as plain UTF-8, without a mark",
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        at = _place(data[: error.start].decode("utf-8"), file)
        raise ManifestError("not UTF-8 text", location=at, offending=f"byte 0x{data[error.start]:02x}") from error
    if "\0" in text:
        raise ManifestError("a NUL character", location=_place(text[: text.index("\0")], file))
    return text


def _place(before: str, file: str) -> Location:
    return Location(file, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def parse_document(text: str, file: str) -> Node:
    """Return the one document of a YAML text as a tree.

    Raises:
        ManifestError: not YAML, empty, several documents, or outside the bounds and the subset named above.
    """
    try:
        return _Composer(file, yaml.parse(text, Loader=yaml.SafeLoader)).document()
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, file) from error
    except yaml.reader.ReaderError as error:
        at = _place(text[: error.position], file)
        raise ManifestError(
            "a character YAML does not allow", location=at, offending=f"#x{error.character:02x}"
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML passes on ValueError for an escape such as "\UFFFFFFFF".
        raise ManifestError(f"not YAML: {error}", location=Location(file, 1, 1)) from error


def _syntax_error(error: yaml.MarkedYAMLError, text: str, file: str) -> ManifestError:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    lines = text.split("\n")
    shown = lines[line].strip() if line < len(lines) else ""
    tab = "\t" in shown or "'\\t'" in str(error.problem)
    return ManifestError(
        f"not YAML: {error.problem or error.context}",
        location=Location(file, line + 1, column + 1),
        offending=shorten(shown) or None,
        next_step="indent with spaces; YAML does not allow tabs there" if tab else None,
    )


@dataclass
class _Composer:
    """Makes the tree from parser events, which come one by one, so that bounds hold before the rest is read."""

    file: str
    events: Iterator[yaml.Event]
    nodes_n: int = field(default=0)

    def document(self) -> Node:
        next(self.events)
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            self._refuse(event, "the manifest is empty", next_step="start with `fleet: v1`")
        root = self._node(next(self.events), 1)
        next(self.events)
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._refuse(event, "a second document starts here; a manifest is one", next_step="remove the `---`")
        return root

    def _node(self, event: yaml.Event, depth: int) -> Node:
        self._check(event, depth)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        return (
            self._sequence(event, depth) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(event, depth)
        )

    def _check(self, event: yaml.Event, depth: int) -> None:
        self.nodes_n += 1
        if self.nodes_n > MAX_NODES:
            self._refuse(event, f"more than {MAX_NODES} values")
        if depth > MAX_DEPTH:
            self._refuse(event, f"nested deeper than {MAX_DEPTH}")
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, f"aliases are not allowed: *{event.anchor}", next_step="write the value out")
        if not isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)):
            self._refuse(event, "a value is expected here")
        if event.anchor is not None:
            self._refuse(event, f"anchors are not allowed: &{event.anchor}", next_step="remove the anchor")
        if event.tag is not None:
            self._refuse(event, f"tags are not allowed: {event.tag}", next_step="remove the tag; quote what is text")

    def _scalar(self, event: yaml.ScalarEvent) -> ScalarNode:
        if _SURROGATE.search(event.value):
            self._refuse(event, "half of a surrogate pair, which is no character")
        value = resolve_plain(event.value) if event.implicit[0] else event.value
        return ScalarNode(event.value, value, self._at(event))

    def _sequence(self, start: yaml.Event, depth: int) -> SequenceNode:
        items = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return SequenceNode(tuple(items), self._at(start))

    def _mapping(self, start: yaml.Event, depth: int) -> MappingNode:
        entries: dict[str, tuple[ScalarNode, Node]] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event, depth + 1)
            if key.text in entries:
                first = entries[key.text][0].at
                self._refuse(event, f"the key stands twice, first at {first}: {shorten(key.text)!r}")
            entries[key.text] = (key, self._node(next(self.events), depth + 1))
        return MappingNode(entries, self._at(start))

    def _key(self, event: yaml.Event, depth: int) -> ScalarNode:
        self._check(event, depth)
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse(event, "a key must be plain text", next_step="is a colon or a quote missing?")
        if event.value == "<<" and event.implicit[0]:
            self._refuse(event, "merge keys are not allowed: <<", next_step="write the keys out")
        if len(event.value) > MAX_KEY_CHARS:
            self._refuse(event, f"a key of more than {MAX_KEY_CHARS} characters")
        return self._scalar(event)

    def _at(self, event: yaml.Event) -> Location:
        mark = event.start_mark
        return Location(self.file, mark.line + 1, mark.column + 1) if mark else Location(self.file, 1, 1)

    def _refuse(self, event: yaml.Event, message: str, *, next_step: str | None = None) -> NoReturn:
        raise ManifestError(message, location=self._at(event), next_step=next_step)
