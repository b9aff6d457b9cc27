"""A loaded manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefleet_contract.errors import Location
from edgefleet_contract.manifest import Manifest
from edgefleet_controller.load.nodes import Node, descend


@dataclass(frozen=True)
class LoadedManifest:
    """A valid manifest and where it came from.

    Attributes:
        manifest: what it says.
        root: the folder it lies in; paths in it are relative to this.
        file: its name for messages.
        tree: the document with every value's place.
    """

    manifest: Manifest
    root: Path
    file: str
    tree: Node

    def locate(self, loc: Sequence[str | int]) -> Location:
        """Return where a path into the manifest (pydantic's `loc`) stands; the deepest part the file has."""
        return descend(self.tree, loc).at
