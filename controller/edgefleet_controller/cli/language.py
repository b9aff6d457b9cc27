"""`fleet lint` and `fleet schema`: the manifest's language, without a fleet."""

from __future__ import annotations

import typer

from edgefleet_controller.cli import output
from edgefleet_controller.cli.options import ManifestArgument


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("lint")(lint)
    app.command("schema")(schema)


def lint(file: ManifestArgument) -> None:
    """Check a manifest and the files it names; exit 0 when it is valid, 2 when not."""
    from edgefleet_controller.cli.applying import prepare

    prepared = prepare(file)
    manifest = prepared.loaded.manifest
    counts = (
        f"{len(manifest.models)} model(s), {len(manifest.deployments)} deployment(s), {len(prepared.files)} file(s)"
    )
    output.write(f"{file}: valid: {counts}\n")


def schema() -> None:
    """Print the JSON Schema of manifests."""
    from edgefleet_contract.schema import schema_text

    output.write(schema_text())
