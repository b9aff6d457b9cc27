"""LiteRT external delegates: which shared library stands for an engine on this device, and what loading it says.

A device names a delegate by environment variable; a few makers' libraries are known by name:

- `EDGEFLEET_TFLITE_DELEGATE_<ENGINE>=/path/to/delegate.so`
- `EDGEFLEET_TFLITE_DELEGATE_<ENGINE>_OPTIONS=key=value,key=value`: handed to the delegate as they are.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgefleet_agent.runtimes.base import UnsupportedError
from edgefleet_agent.runtimes.engine_options import MAX_TEXT_CHARS, EngineOptionsError, engine_options
from edgefleet_agent.runtimes.litert_library import LitertModule
from edgefleet_contract.base import clip_reason
from edgefleet_contract.profile import ProbeStatus

DELEGATE_ENGINES = ("gpu", "nnapi", "coreml", "edgetpu", "external")
"""Engines of `tflite` that are external delegates; `external` is any other that a device names."""

_VARIABLE = "EDGEFLEET_TFLITE_DELEGATE_"
_KNOWN: Mapping[str, Mapping[str, str]] = {
    "edgetpu": {"linux": "libedgetpu.so.1", "darwin": "libedgetpu.1.dylib"},
    "gpu": {"linux": "libtensorflowlite_gpu_delegate.so"},
}
"""Engine → system → the library's name as its maker installs it. The others come without a customary name."""


_ENTRIES = ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate")
_SEARCHED = ("/usr/local/lib", "/usr/lib", "/lib")
_LOADER_CACHE = Path("/etc/ld.so.cache")


DelegateHandle = Any
"""LiteRT's `Delegate`; the package ships no types."""


class DelegateError(UnsupportedError):
    """A delegate cannot be used; `status` tells a missing one from a broken one."""

    def __init__(self, status: ProbeStatus, message: str) -> None:
        super().__init__(clip_reason(message))
        self.status = status


@dataclass(frozen=True)
class DelegateSource:
    """A shared library by path or name, and the options it is given."""

    library: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The library's file name."""
        return Path(self.library).name


def delegate_source(engine: str, environ: Mapping[str, str] = os.environ, system: str = sys.platform) -> DelegateSource:
    """Return the library that stands for an engine here. Opens nothing.

    Args:
        engine: one of `DELEGATE_ENGINES`.
        environ: where the device names libraries.
        system: `linux`, `darwin` …

    Raises:
        DelegateError: none is named and none is customary, or the named file is missing.
    """
    variable = _VARIABLE + engine.upper()
    named = environ.get(variable, "")
    try:
        options = engine_options(variable + "_OPTIONS", environ)
    except EngineOptionsError as error:
        raise DelegateError(ProbeStatus.BROKEN, str(error)) from error
    if named:
        if len(named) > MAX_TEXT_CHARS or not Path(named).is_absolute() or not Path(named).is_file():
            msg = f"{variable} names {named[:200]!r}, which is no file here; give the absolute path of a delegate"
            raise DelegateError(ProbeStatus.MISSING, msg)
        return DelegateSource(named, options)
    known = _KNOWN.get(engine, {}).get(system)
    if known is None:
        msg = f"no delegate library is customary for {engine} on {system}; name one with {variable}=/path/to/it"
        raise DelegateError(ProbeStatus.MISSING, msg)
    return DelegateSource(known, options)


def is_installed(source: DelegateSource) -> bool:
    """Tell whether the library can be found, without opening it: opening runs code that may crash."""
    if Path(source.library).is_absolute():
        return Path(source.library).is_file()
    folders = [*os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep), *_SEARCHED]
    if any(folder and (Path(folder) / source.library).is_file() for folder in folders):
        return True
    # The loader's cache lists names as plain text; asking the loader itself would open the library.
    return f"{source.library}\0".encode() in _loader_cache()


def _loader_cache() -> bytes:
    try:
        return _LOADER_CACHE.read_bytes()
    except OSError:
        return b""


def open_delegate(module: LitertModule, engine: str, source: DelegateSource) -> DelegateHandle:
    """Return a loaded delegate. Runs its code: what crashes there crashes this process.

    Args:
        module: LiteRT's module with `load_delegate`.
        engine: for messages.
        source: the library.

    Raises:
        DelegateError: not there (missing), no device it can use (missing), or no delegate at all (broken).
    """
    name = source.name
    _require_entries(engine, source)
    try:
        return module.load_delegate(source.library, dict(source.options))
    except ValueError as error:
        said = _tidy(error, source).removeprefix(f"Failed to load delegate from {name}").strip()
        msg = f"{engine}: the delegate {name} finds no device it can use: {said or 'it does not say why'}"
        raise DelegateError(ProbeStatus.MISSING, msg) from error
    except RuntimeError as error:
        msg = f"{engine}: the delegate {name} cannot be created: {_tidy(error, source)}"
        raise DelegateError(ProbeStatus.BROKEN, msg) from error


def _require_entries(engine: str, source: DelegateSource) -> None:
    """Check what LiteRT needs of the library; its own class trips over a half-made delegate. Raises DelegateError."""
    name = source.name
    try:
        library = ctypes.CDLL(source.library)
    except OSError as error:
        status = ProbeStatus.BROKEN if is_installed(source) else ProbeStatus.MISSING
        msg = f"{engine}: the delegate library {name} does not load: {_tidy(error, source)}"
        raise DelegateError(status, msg) from error
    if absent := [entry for entry in _ENTRIES if not hasattr(library, entry)]:
        msg = f"{engine}: {name} is no LiteRT delegate: it has no {absent[0]}"
        raise DelegateError(ProbeStatus.BROKEN, msg)


def _tidy(error: Exception, source: DelegateSource) -> str:
    return str(error).replace(source.library, source.name).strip()
