"""Finds TensorRT's Python module on this machine, under the names its packages use."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from edgefleet_agent.runtimes.trt_api import ILogger, Trt

Asker = Callable[[str], str]
"""Imports a module by name and returns its version; raises ImportError or OSError."""


def import_and_ask(name: str) -> str:
    """Import a module and return its version."""
    module: Trt = import_module(name)
    return str(module.__version__)


@dataclass(frozen=True)
class Flavour:
    """One of NVIDIA's two libraries of one interface.

    Attributes:
        runtime: as the variant grammar spells it.
        modules: names it is imported under, the usual one first.
        least: the oldest version (major, minor) with every name in `trt_api`.
        install: how to get it.
    """

    runtime: str
    modules: tuple[str, ...]
    least: tuple[int, int]
    install: str


TENSORRT = Flavour(
    "tensorrt",
    ("tensorrt",),
    (10, 3),
    "on a Jetson it comes with JetPack 6.1 or newer: sudo apt install python3-libnvinfer, and create the agent's "
    "virtual environment with --system-site-packages",
)
RTX = Flavour(
    "tensorrt-rtx",
    ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    (1, 7),
    "install edgefleet[agent,trt-rtx] on a machine with an RTX GPU",
)


class NotInstalledError(Exception):
    """No module of this flavour is installed."""


class DoesNotImportError(Exception):
    """A module is installed, and does not import."""


def find_version(flavour: Flavour, ask: Asker = import_and_ask) -> tuple[str, str]:
    """Return the name of the module that is installed here, and its version.

    Raises:
        NotInstalledError: there is none; the message says how to get it.
        DoesNotImportError: it is there and broken, for want of a library of its own, say.
    """
    for name in flavour.modules:
        try:
            return name, ask(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                msg = f"{name} does not import: {error}"
                raise DoesNotImportError(msg) from error
        except (ImportError, OSError, RuntimeError) as error:
            msg = f"{name} does not import: {error}"
            raise DoesNotImportError(msg) from error
    msg = f"{flavour.modules[0]} is not installed; {flavour.install}"
    raise NotInstalledError(msg)


def version_of(text: str) -> tuple[int, int]:
    """Return major and minor of a version: `10.13.3.9.post1` → (10, 13); (0, 0) where there are none."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


_alive: list[object] = []
"""Every logger: the library keeps a bare pointer to the first one for good, and uses it long after its builder is gone
(measured with TensorRT-RTX 1.7: a segmentation fault when a plugin logged)."""


def new_logger(trt: Trt) -> ILogger:
    """Return a logger that keeps what the library says of errors in its `errors`, and prints nothing."""

    class Kept(trt.ILogger):  # type: ignore[misc]  # the library ships no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: object, message: str) -> None:
            logger: ILogger = trt.ILogger
            if severity in {logger.ERROR, logger.INTERNAL_ERROR}:
                self.errors.append(message)

    kept = Kept()
    _alive.append(kept)
    return kept


def said(logger: ILogger) -> str:
    """Return what a logger of `new_logger` heard last, on one line."""
    errors: list[str] = logger.errors
    return " ".join(errors[-1].split()) if errors else "TensorRT gave no reason"
