"""Finds the LiteRT library: `ai_edge_litert`, or its older twin `tflite_runtime` on boards that have nothing newer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

from edgefleet_agent.runtimes.base import UnsupportedError
from edgefleet_contract.base import clip_reason
from edgefleet_contract.profile import ProbeStatus

LITERT, TWIN = "ai-edge-litert", "tflite-runtime"
_MODULES: Mapping[str, str] = {LITERT: "ai_edge_litert.interpreter", TWIN: "tflite_runtime.interpreter"}
"""Distribution → the module with `Interpreter`, the preferred one first."""

LitertModule = Any
"""The module with `Interpreter`, `load_delegate` and `OpResolverType`; the packages ship no types."""
Importer = Callable[[str], Any]


class LibraryAbsentError(UnsupportedError):
    """There is no LiteRT library that works here; `status` tells a missing one from a broken one."""

    def __init__(self, status: ProbeStatus, message: str) -> None:
        super().__init__(clip_reason(message))
        self.status = status


@dataclass(frozen=True)
class LitertLibrary:
    """A LiteRT library that imports.

    Attributes:
        version: `2.3.0` of ai-edge-litert; the twin's carries its name, as 2.14 of tflite-runtime is *older* than 2.3
            of ai-edge-litert. No version an artifact may need is fulfilled by a name.
        interpreter: its module.
    """

    version: str
    interpreter: LitertModule


def find_library(importer: Importer = import_module) -> LitertLibrary:
    """Return the first LiteRT library that imports.

    Args:
        importer: imports a module by name.

    Raises:
        LibraryAbsentError: none is installed, or the installed one does not work.
    """
    for distribution, module in _MODULES.items():
        try:
            interpreter = importer(module)
        except ModuleNotFoundError as error:
            if error.name is not None and module.startswith(error.name):
                continue
            raise LibraryAbsentError(ProbeStatus.BROKEN, f"{distribution} does not import: {error}") from error
        except Exception as error:  # a library built for another numpy or libc raises anything at import
            raise LibraryAbsentError(ProbeStatus.BROKEN, f"{distribution} does not import: {error}") from error
        _require_old_numpy(distribution, importer)
        return LitertLibrary(_version(distribution), interpreter)
    msg = "neither ai-edge-litert nor tflite-runtime is installed; install edgefleet[agent,tflite]"
    raise LibraryAbsentError(ProbeStatus.MISSING, msg)


def _require_old_numpy(distribution: str, importer: Importer) -> None:
    """Refuse the twin beside numpy 2: its interpreter then fails with a bare SystemError."""
    if distribution != TWIN:
        return
    version = str(importer("numpy").__version__)
    if int(version.split(".", 1)[0]) >= 2:
        msg = f"tflite-runtime needs numpy<2; this device has numpy {version}: install ai-edge-litert, or numpy<2"
        raise LibraryAbsentError(ProbeStatus.BROKEN, msg)


def _version(distribution: str) -> str:
    try:
        number = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        number = "of unknown version"
    return number if distribution == LITERT else f"{distribution} {number}"
