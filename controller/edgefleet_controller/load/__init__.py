"""From a manifest's file to the contract's record, with every mistake at its line and column."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from edgefleet_contract.errors import ManifestError
from edgefleet_contract.manifest import Manifest
from edgefleet_controller.load.document import parse_document, read_text
from edgefleet_controller.load.explain import explain
from edgefleet_controller.load.loaded import LoadedManifest
from edgefleet_controller.load.meaning import check_meaning
from edgefleet_controller.load.nodes import plain
from edgefleet_controller.load.problem import ManifestProblemsError, raise_problems
from edgefleet_controller.load.supported import Unsupported, check_supported, find_unsupported

__all__ = [
    "LoadedManifest",
    "ManifestProblemsError",
    "Unsupported",
    "check_supported",
    "find_unsupported",
    "load_manifest",
    "parse_manifest",
    "raise_problems",
]


def load_manifest(path: Path) -> LoadedManifest:
    """Read and check a manifest.

    Raises:
        ManifestError: not readable, not YAML as we take it, or not a manifest; `ManifestProblemsError` for several
            problems at once.
    """
    file = str(path)
    return parse_manifest(read_text(path, file), root=path.absolute().parent, file=file)


def parse_manifest(text: str, *, root: Path, file: str) -> LoadedManifest:
    """Check a manifest's text; arguments as the attributes of `LoadedManifest`, errors as `load_manifest`."""
    tree = parse_document(text, file)
    try:
        manifest = Manifest.model_validate(plain(tree))
    except ValidationError as error:
        raise_problems(explain(error, tree))
        raise ManifestError(f"not a manifest: {error}", location=tree.at) from error
    loaded = LoadedManifest(manifest, root, file, tree)
    raise_problems(check_meaning(manifest, loaded.locate))
    return loaded
