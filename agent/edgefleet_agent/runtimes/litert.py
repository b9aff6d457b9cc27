"""LiteRT (TensorFlow Lite): built-in kernels, XNNPACK, and external delegates.

Run on hardware by us: built-in kernels and XNNPACK on x86_64. The GPU, NNAPI, Core ML and Edge TPU delegates were
never run on hardware by us; a delegate compiled for the tests goes the same way as theirs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

from edgefleet_agent.runtimes.base import NEVER_RUN, LoadFailedError, UnsupportedError
from edgefleet_agent.runtimes.capture import native_stderr
from edgefleet_agent.runtimes.delegates import (
    DELEGATE_ENGINES,
    DelegateError,
    delegate_source,
    is_installed,
    open_delegate,
)
from edgefleet_agent.runtimes.litert_library import LibraryAbsentError, LitertLibrary, LitertModule, find_library
from edgefleet_agent.runtimes.litert_session import Interpreter, LitertSession
from edgefleet_agent.tflite_scan import IDENTIFIER, is_whole
from edgefleet_contract.base import clip_reason
from edgefleet_contract.errors import DeviceError
from edgefleet_contract.profile import EngineProbe, ProbeStatus
from edgefleet_contract.variant import ENGINES, Variant

_MAX_MODEL_BYTES = 2**31 - 1
"""A flatbuffer's offsets reach no further."""

_UNSUPPORTED_SIGNS = (
    "failed to prepare",
    "failed to apply",
    "delegate application failure",
    "Missing registration for opcode",
    "unresolved custom op",
    "Didn't find op for builtin opcode",
    "Didn't find custom op",
)
"""What tflite-runtime 2.14 to ai-edge-litert 2.3 say when the file is sound but a kernel does not take it."""

_NOISE = re.compile(
    r"Restored original execution plan after delegate application failure\.?"
    r"|\S*(?:tflite|tensorflow/lite)/\S+?\.(?:cc|h)(?::\d+)? ?"
)


class LitertRuntime:
    """LiteRT, by whichever of its two libraries imports."""

    @property
    def version(self) -> str:
        """The library's version. Raises UnsupportedError when there is none."""
        return find_library().version

    def alone(self) -> tuple[str, ...]:
        """Return the engines whose delegate is installed: starting one runs foreign code, which may crash."""
        return tuple(engine for engine in DELEGATE_ENGINES if self.check(engine) is None)

    def check(self, engine: str) -> str | None:
        """Return why an engine cannot be used, as far as is known without starting it."""
        probe = self._installed(engine)
        return None if probe.status is ProbeStatus.AVAILABLE else probe.reason

    def probe(self) -> tuple[EngineProbe, ...]:
        """Return what works here. Starts every installed delegate in this process."""
        return tuple(self.probe_engine(engine) for engine in ENGINES["tflite"])

    def probe_engine(self, engine: str) -> EngineProbe:
        """Return whether one engine works here.

        A delegate is created, which finds its library and its device; what it makes of a graph, each trial shows.
        """
        found = self._installed(engine)
        if found.status is not ProbeStatus.AVAILABLE or engine not in DELEGATE_ENGINES:
            return found
        try:
            open_delegate(find_library().interpreter, engine, delegate_source(engine))
        except DelegateError as error:
            return found.model_copy(update={"status": error.status, "reason": str(error)})
        return found.model_copy(update={"reason": NEVER_RUN})

    def _installed(self, engine: str) -> EngineProbe:
        target = f"tflite/{engine}"
        try:
            version = find_library().version
        except LibraryAbsentError as error:
            return EngineProbe(target=target, status=error.status, reason=str(error))
        said = {"target": target, "version": version}
        if engine not in DELEGATE_ENGINES:
            return EngineProbe(status=ProbeStatus.AVAILABLE, **said)
        try:
            source = delegate_source(engine)
        except DelegateError as error:
            return EngineProbe(status=error.status, reason=str(error), **said)
        if not is_installed(source):
            reason = f"{engine}: its delegate library {source.library} is not installed"
            return EngineProbe(status=ProbeStatus.MISSING, reason=reason, **said)
        return EngineProbe(status=ProbeStatus.AVAILABLE, **said)

    def load(self, path: Path, *, variant: Variant, threads: int, spinning: bool) -> LitertSession:  # noqa: ARG002
        """Load a model file. Arguments and errors as `Runtime.load`; LiteRT has no say over spinning."""
        library = find_library()
        _check_file(path)
        delegate = delegate_source(variant.engine) if variant.engine in DELEGATE_ENGINES else None
        make = functools.partial(_open, library, path, variant.engine, threads)
        return LitertSession(make, engine=variant.engine, delegate=None if delegate is None else delegate.name)


RUNTIME = LitertRuntime()


def _check_file(path: Path) -> None:
    """Refuse what is no LiteRT file before the library sees it. Raises LoadFailedError."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(8)
    except OSError as error:
        msg = f"cannot read {path.name}: {error.strerror}"
        raise LoadFailedError(msg) from error
    root = int.from_bytes(head[:4], "little")
    if head[4:8] != IDENTIFIER or not 4 <= root < size_bytes:
        msg = f"cannot load {path.name}: it is no LiteRT model ({size_bytes} bytes, beginning with {head!r})"
        raise LoadFailedError(msg)
    if size_bytes > _MAX_MODEL_BYTES:
        msg = f"cannot load {path.name}: {size_bytes} bytes; allowed are {_MAX_MODEL_BYTES}"
        raise LoadFailedError(msg)
    if not is_whole(path):
        msg = f"cannot load {path.name}: something it refers to lies outside of its {size_bytes} bytes"
        raise LoadFailedError(msg)


def _open(
    library: LitertLibrary, path: Path, engine: str, threads: int, shapes: Mapping[int, tuple[int, ...]]
) -> Interpreter:
    """Return an interpreter with its tensors allocated. Raises LoadFailedError and UnsupportedError."""
    try:
        return _try_open(library.interpreter, path, engine, threads, shapes)
    except (DeviceError, MemoryError):
        raise
    except Exception as error:  # the vendor raises ValueError, RuntimeError, SystemError and UnicodeDecodeError
        said = str(error).strip() or _last_words(library.interpreter, path, engine, threads, shapes)
        raise _load_failed(error, said, path, engine) from error


def _try_open(
    module: LitertModule, path: Path, engine: str, threads: int, shapes: Mapping[int, tuple[int, ...]]
) -> Interpreter:
    resolvers = module.OpResolverType
    delegates = [open_delegate(module, engine, delegate_source(engine))] if engine in DELEGATE_ENGINES else []
    interpreter = module.Interpreter(
        model_path=str(path),
        num_threads=threads,
        experimental_delegates=delegates,
        # One engine and the built-in kernels, never a third: so what runs where has one meaning.
        experimental_op_resolver_type=(
            resolvers.AUTO if engine == "xnnpack" else resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
    )
    for index, shape in shapes.items():
        interpreter.resize_tensor_input(index, shape)
    interpreter.allocate_tensors()
    return interpreter


def _last_words(
    module: LitertModule, path: Path, engine: str, threads: int, shapes: Mapping[int, tuple[int, ...]]
) -> str:
    """Fail once more to hear what the library writes to standard error; it may raise without a word."""
    said: list[str] = []
    try:
        with native_stderr(said):
            _try_open(module, path, engine, threads, shapes)
    except Exception as error:  # noqa: BLE001 - it failed before and may fail in any way again
        said.append(str(error))
    return " ".join(part for part in said if part) or _guess(module, path)


def _guess(module: LitertModule, path: Path) -> str:
    """Return the usual cause of a failure that has no words: LiteRT prints it once in a process, or never."""
    resolver = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    plain = module.Interpreter(model_path=str(path), experimental_op_resolver_type=resolver)
    if any(-1 in detail.get("shape_signature", ()) for detail in plain.get_input_details()):
        return "it does not say why; the model has inputs of dynamic size, which many delegates refuse: fix them"
    return "it does not say why"


def _load_failed(error: Exception, said: str, path: Path, engine: str) -> DeviceError:
    text = _NOISE.sub("", said).replace(str(path), path.name).replace("Node number", " Node number").strip()
    text = text or type(error).__name__
    if engine in DELEGATE_ENGINES and isinstance(error, RuntimeError):
        return UnsupportedError(clip_reason(f"the {engine} delegate refuses {path.name}: {text}"))
    if any(sign in said for sign in _UNSUPPORTED_SIGNS):
        return UnsupportedError(clip_reason(f"tflite/{engine} cannot run {path.name}: {text}"))
    return LoadFailedError(clip_reason(f"cannot load {path.name}: {text}"))
