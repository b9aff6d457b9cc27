"""Options more than one command has, and the quantities people type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefleet_contract.errors import UserInputError

ManifestArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The manifest.", show_default=False)]
DeviceOption = Annotated[str | None, typer.Option("--device", help="Only this device.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Only this model.")]


def duration_s(text: str, option: str) -> float:
    """Return a duration such as `10m` in seconds. Raises UserInputError naming the option."""
    from edgefleet_contract.units import parse_duration_s

    try:
        return parse_duration_s(text)
    except ValueError as error:
        msg = f"{option} {text[:64]!r}: {error}"
        raise UserInputError(msg) from error
